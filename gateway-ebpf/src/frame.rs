//! The frame in the kernel's buffer, read only after a comparison with its end that the verifier can follow.

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use gateway_common::packet::Cursor;

/// A position between a frame's start and its end.
#[derive(Clone, Copy)]
pub struct InFrame {
    at: usize,
    end: usize,
}

impl InFrame {
    /// The frame's start.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { at: ctx.data(), end: ctx.data_end() }
    }
}

impl<'a> Cursor<'a> for InFrame {
    #[inline(always)]
    fn bytes<const N: usize>(self) -> Option<&'a [u8; N]> {
        if self.at + N > self.end {
            return None;
        }
        // SAFETY: the N bytes at `at` lie below the frame's end, as just compared; an array of bytes has no alignment;
        // the frame lives as long as the program's run.
        Some(unsafe { &*(self.at as *const [u8; N]) })
    }

    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        Self { at: self.at + count, ..self }
    }
}

/// Bytes of the whole frame, with the parts that lie outside the first buffer.
#[inline(always)]
pub fn bytes(ctx: &XdpContext) -> u64 {
    // SAFETY: the context is the one that the kernel gave to this run (`bpf_xdp_get_buff_len`, Linux 5.18).
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) }
}
