//! The smallest XDP program, `return XDP_DROP`, by the bare system call: an object file for two instructions would have
//! to be built and checked in.
#![allow(unsafe_code)]

use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `r0 = 1` (XDP_DROP), `exit`.
static PROGRAM: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
/// Each command's part of the kernel's `union bpf_attr` fits; what lies behind it must be zero.
const WORDS: usize = 16;

/// The loaded program.
pub struct Program(OwnedFd);

impl Program {
    /// Loads it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn load() -> Result<Self> {
        let mut words = [0_u64; WORDS];
        words[0] = u64::from(BPF_PROG_TYPE_XDP) | (PROGRAM.len() as u64) << 32;
        words[1] = PROGRAM.as_ptr() as u64;
        words[2] = c"GPL".as_ptr() as u64;
        let descriptor = command(BPF_PROG_LOAD, &mut words).context("loading the empty program")?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Runs one frame `repeat` times; the time of one run.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let mut words = [0_u64; WORDS];
        // prog_fd, retval; data_size_in, data_size_out; data_in; data_out; repeat, duration.
        words[0] = self.0.as_raw_fd() as u64;
        words[1] = frame.len() as u64;
        words[2] = frame.as_ptr() as u64;
        words[4] = u64::from(repeat);
        command(BPF_PROG_TEST_RUN, &mut words).context("running the empty program")?;
        Ok(Duration::from_nanos(words[4] >> 32))
    }
}

fn command(command: libc::c_long, words: &mut [u64; WORDS]) -> Result<i32> {
    // SAFETY: the attributes and what they point to outlive the call; the size is theirs; unused fields are zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    Ok(if result < 0 { return Err(Error::last_os_error().into()) } else { i32::try_from(result)? })
}
