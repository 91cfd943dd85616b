//! SYNs as fast as they are asked for: a program that writes a frame and sends it out of the interface, run by the kernel
//! over live frames (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18). It is assembled here, since an object file for some fifty
//! instructions would have to be built and checked in. It works in the calling thread's network namespace only.
#![allow(unsafe_code)]

use std::{
    ffi::c_long,
    io::Error,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_LOOKUP_ELEM: c_long = 1;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_TEST_RUN: c_long = 10;
const BPF_MAP_TYPE_ARRAY: u64 = 2;
const BPF_PROG_TYPE_XDP: u64 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u64 = 1 << 1;
/// Ethernet, IPv4, TCP with one option, and two bytes to make the least frame.
const FRAME_BYTES: usize = 60;
const WORDS: usize = 16;
/// Words of the map: when the next frame is due, nanoseconds between two (in 1/16), frames sent.
const STATE_WORDS: usize = 3;

/// Where the flood goes and what it claims.
#[derive(Clone, Copy)]
pub struct Target {
    /// Of the interface that it leaves by, and of its peer.
    pub macs: [[u8; 6]; 2],
    /// The server.
    pub to: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The one source; none means a random one for every frame.
    pub from: Option<Ipv4Addr>,
}

/// The loaded program and its state.
pub struct Generator {
    program: OwnedFd,
    state: OwnedFd,
}

impl Generator {
    /// Loads it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn load(target: Target, per_second: u64) -> Result<Self> {
        let mut words = [0_u64; WORDS];
        // map_type, key_size; value_size, max_entries.
        words[0] = BPF_MAP_TYPE_ARRAY | 4 << 32;
        words[1] = (STATE_WORDS as u64 * 8) | 1 << 32;
        let state = owned(command(BPF_MAP_CREATE, &mut words).context("creating the generator's map")?);
        let program = assemble(&target, state.as_raw_fd());
        let mut words = [0_u64; WORDS];
        words[0] = BPF_PROG_TYPE_XDP | (program.len() as u64) << 32;
        words[1] = program.as_ptr() as u64;
        words[2] = c"GPL".as_ptr() as u64;
        let program = owned(command(BPF_PROG_LOAD, &mut words).context("loading the generator")?);
        let generator = Self { program, state };
        generator.write([0, (16 * 1_000_000_000 / per_second.max(1)).max(1), 0])?;
        Ok(generator)
    }

    /// Sends out of this interface until `frames` runs are over (those that were not due yet included) or a signal comes.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn run(&self, if_index: u32, frames: u32) -> Result<()> {
        let frame = [0_u8; FRAME_BYTES];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0_u32, FRAME_BYTES as u32, 0, if_index, 0, 0];
        let mut words = [0_u64; WORDS];
        // prog_fd, retval; data_size_in, data_size_out; data_in; data_out; repeat, duration; ctx_size_in, ctx_size_out;
        // ctx_in; ctx_out; flags, cpu; batch_size.
        words[0] = self.program.as_raw_fd() as u64;
        words[1] = FRAME_BYTES as u64;
        words[2] = frame.as_ptr() as u64;
        words[4] = u64::from(frames);
        words[5] = size_of_val(&context) as u64;
        words[6] = context.as_ptr() as u64;
        words[8] = BPF_F_TEST_XDP_LIVE_FRAMES;
        words[9] = 64;
        match command(BPF_PROG_TEST_RUN, &mut words) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            other => other.map(drop).context("running the generator"),
        }
    }

    /// Frames sent.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn sent(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, [0_u64; STATE_WORDS]);
        let mut words = [0_u64; WORDS];
        words[0] = self.state.as_raw_fd() as u64;
        words[1] = (&raw const key) as u64;
        words[2] = value.as_mut_ptr() as u64;
        command(BPF_MAP_LOOKUP_ELEM, &mut words)?;
        Ok(value[2])
    }

    fn write(&self, value: [u64; STATE_WORDS]) -> Result<()> {
        let key = 0_u32;
        let mut words = [0_u64; WORDS];
        words[0] = self.state.as_raw_fd() as u64;
        words[1] = (&raw const key) as u64;
        words[2] = value.as_ptr() as u64;
        command(BPF_MAP_UPDATE_ELEM, &mut words)?;
        Ok(())
    }
}

/// The frame with zeroes where the program writes, and checksums that stay right whatever it writes: what it adds to the
/// sum in one place, it takes out in another.
fn frame(target: &Target) -> [u8; FRAME_BYTES] {
    let mut f = [0; FRAME_BYTES];
    f[0..6].copy_from_slice(&target.macs[1]);
    f[6..12].copy_from_slice(&target.macs[0]);
    f[12..14].copy_from_slice(&[8, 0]);
    f[14..24].copy_from_slice(&[0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6]);
    f[30..34].copy_from_slice(&target.to.octets());
    f[36..38].copy_from_slice(&target.port.to_be_bytes());
    // Flags SYN, window, one option: a segment of 1,460 bytes.
    f[46..50].copy_from_slice(&[0x60, 0x02, 0xfa, 0xf0]);
    f[54..58].copy_from_slice(&[2, 4, 0x05, 0xb4]);
    // All that is zero in a place that is written with its complement counts as all ones: nothing, in this sum.
    let check = !fold(words(&f[14..34]));
    f[24..26].copy_from_slice(&check.to_be_bytes());
    let pseudo = words(&f[26..34]) + 6 + 24;
    let check = !fold(words(&f[34..58]) + pseudo);
    f[50..52].copy_from_slice(&check.to_be_bytes());
    f
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// One instruction: code, registers, offset, immediate.
fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code) | u64::from(dst | src << 4) << 8 | u64::from(offset as u16) << 16 | (immediate as u32 as u64) << 32
}

/// r6: context, r7: frame, r8: state, r9: sum of the source.
fn assemble(target: &Target, state: i32) -> Vec<u64> {
    const KTIME_GET_NS: i32 = 5;
    const PRANDOM_U32: i32 = 7;
    let mut p = vec![
        op(0xbf, 6, 1, 0, 0),
        // r8 = &state (a 64-bit immediate in two slots; BPF_PSEUDO_MAP_VALUE).
        op(0x18, 8, 2, 0, state),
        0,
        op(0x85, 0, 0, 0, KTIME_GET_NS),
        op(0xbf, 1, 0, 0, 0),
        // In sixteenths of a nanosecond; not due yet: drop. Behind by more than a millisecond: begin anew.
        op(0x67, 1, 0, 0, 4),
        op(0x79, 2, 8, 0, 0),
        op(0x3d, 1, 2, 2, 0),
        op(0xb7, 0, 0, 0, 1),
        op(0x95, 0, 0, 0, 0),
        op(0xbf, 3, 1, 0, 0),
        op(0x17, 3, 0, 0, 16_000_000),
        op(0x3d, 2, 3, 1, 0),
        op(0xbf, 2, 1, 0, 0),
        op(0x79, 3, 8, 8, 0),
        op(0x0f, 2, 3, 0, 0),
        op(0x7b, 8, 2, 0, 0),
        op(0x79, 3, 8, 16, 0),
        op(0x07, 3, 0, 0, 1),
        op(0x7b, 8, 3, 16, 0),
        // r7 = data; the frame has its bytes, or it is dropped.
        op(0x61, 7, 6, 0, 0),
        op(0x61, 2, 6, 4, 0),
        op(0xbf, 3, 7, 0, 0),
        op(0x07, 3, 0, 0, FRAME_BYTES as i32),
        op(0xbd, 3, 2, 2, 0),
        op(0xb7, 0, 0, 0, 1),
        op(0x95, 0, 0, 0, 0),
    ];
    // The whole frame anew: what came back of the last one may have been turned into an answer.
    for (index, word) in frame(target).chunks(4).enumerate() {
        let word = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        p.push(op(0x62, 7, 0, (index * 4) as i16, word));
    }
    p.push(op(0xb7, 9, 0, 0, 0));
    match target.from {
        Some(from) => {
            let word = i32::from_ne_bytes(from.octets());
            let sum = fold(u32::from(word as u32 as u16) + (word as u32 >> 16));
            p.push(op(0x62, 7, 0, 26, word));
            p.push(op(0xb7, 9, 0, 0, i32::from(sum)));
        }
        None => {
            p.push(op(0x85, 0, 0, 0, PRANDOM_U32));
            // The first octet is 11 … 74: neither the laboratory's nor loopback nor multicast.
            p.push(op(0x57, 0, 0, 0, 0xffff_ff3f_u32 as i32));
            p.push(op(0x07, 0, 0, 0, 11));
            p.push(op(0x67, 0, 0, 0, 32));
            p.push(op(0x77, 0, 0, 0, 32));
            p.push(op(0x63, 7, 0, 26, 0));
            p.push(op(0xbf, 9, 0, 0, 0));
            p.push(op(0x57, 9, 0, 0, 0xffff));
            p.push(op(0x77, 0, 0, 0, 16));
            p.push(op(0x0f, 9, 0, 0, 0));
        }
    }
    // Fold the sum, and take it out of the identification and of the sequence number's lower half.
    p.extend([
        op(0xbf, 1, 9, 0, 0),
        op(0x77, 1, 0, 0, 16),
        op(0x57, 9, 0, 0, 0xffff),
        op(0x0f, 9, 1, 0, 0),
        op(0xa7, 9, 0, 0, -1),
        op(0x6b, 7, 9, 18, 0),
        op(0x6b, 7, 9, 40, 0),
        // A random port, taken out of the sequence number's upper half.
        op(0x85, 0, 0, 0, PRANDOM_U32),
        op(0x47, 0, 0, 0, 0x04),
        op(0x6b, 7, 0, 34, 0),
        op(0xa7, 0, 0, 0, -1),
        op(0x6b, 7, 0, 38, 0),
        // XDP_TX
        op(0xb7, 0, 0, 0, 3),
        op(0x95, 0, 0, 0, 0),
    ]);
    p
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn command(command: c_long, words: &mut [u64; WORDS]) -> std::io::Result<i32> {
    // SAFETY: the attributes and what they point to outlive the call; the size is theirs; unused fields are zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as i32) }
}
