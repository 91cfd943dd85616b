//! The smallest XDP program, which returns one verdict for every frame, by the bare system call: an object file for two
//! instructions would have to be built and checked in.
#![allow(unsafe_code)]

use std::{
    io::Error,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u64 = 37;
/// linux/if_link.h: by the driver.
const XDP_FLAGS_DRV_MODE: u64 = 1 << 2;
/// Drops every frame.
pub const DROP: u32 = 1;
/// Passes every frame. A veth end takes what the program on its peer transmits only if it has a program too.
pub const PASS: u32 = 2;
/// Each command's part of the kernel's `union bpf_attr` fits; what lies behind it must be zero.
const WORDS: usize = 16;

/// The loaded program.
pub struct Program(OwnedFd);

impl Program {
    /// Loads one that returns `verdict`.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn load(verdict: u32) -> Result<Self> {
        // `r0 = verdict`, `exit`.
        let program = [0xb7 | u64::from(verdict) << 32, 0x95_u64];
        let mut words = [0_u64; WORDS];
        words[0] = u64::from(BPF_PROG_TYPE_XDP) | (program.len() as u64) << 32;
        words[1] = program.as_ptr() as u64;
        words[2] = c"GPL".as_ptr() as u64;
        let descriptor = command(BPF_PROG_LOAD, &mut words).context("loading a bare program")?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Attaches it to an interface of the calling thread's namespace, natively, for as long as what is returned lives.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refused.
    pub fn attach(&self, interface: &str) -> Result<OwnedFd> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let mut words = [0_u64; WORDS];
        // prog_fd, target_ifindex; attach_type, flags.
        words[0] = self.0.as_raw_fd() as u64 | u64::from(index) << 32;
        words[1] = BPF_XDP | XDP_FLAGS_DRV_MODE << 32;
        let descriptor = command(BPF_LINK_CREATE, &mut words).context("attaching a bare program")?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
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
        command(BPF_PROG_TEST_RUN, &mut words).context("running a bare program")?;
        Ok(Duration::from_nanos(words[4] >> 32))
    }
}

fn command(command: libc::c_long, words: &mut [u64; WORDS]) -> Result<i32> {
    // SAFETY: the attributes and what they point to outlive the call; the size is theirs; unused fields are zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    Ok(if result < 0 { return Err(Error::last_os_error().into()) } else { i32::try_from(result)? })
}
