//! The frame in the kernel's buffer. Near its start it is read in place, after a comparison with its end that the
//! verifier can follow; behind headers of a length that the frame itself names, through a helper.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use gateway_common::packet::Cursor;

/// A position at a distance from the frame's start that the compiler knows.
#[derive(Clone, Copy)]
pub struct Near {
    at: usize,
    end: usize,
    far: Far,
}

/// A position anywhere.
#[derive(Clone, Copy)]
pub struct Far {
    ctx: *mut xdp_md,
    offset: u32,
}

impl Near {
    /// The frame's start.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { at: ctx.data(), end: ctx.data_end(), far: Far { ctx: ctx.ctx, offset: 0 } }
    }
}

impl Cursor for Near {
    #[inline(always)]
    fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        if self.at + N > self.end {
            return None;
        }
        // SAFETY: the N bytes at `at` lie below the frame's end, as just compared; an array of bytes has no alignment.
        Some(unsafe { *(self.at as *const [u8; N]) })
    }

    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        Self { at: self.at + count, far: self.far.jump(count), ..self }
    }

    type Far = Far;

    #[inline(always)]
    fn jump(self, count: usize) -> Far {
        self.far.jump(count)
    }
}

impl Cursor for Far {
    #[inline(always)]
    fn bytes<const N: usize>(self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper checks the range against the frame, and writes at most N bytes (Linux 5.18).
        let result = unsafe { bpf_xdp_load_bytes(self.ctx, self.offset, bytes.as_mut_ptr().cast(), N as u32) };
        if result == 0 { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        self.jump(count)
    }

    type Far = Self;

    #[inline(always)]
    fn jump(self, count: usize) -> Self {
        Self { offset: self.offset + count as u32, ..self }
    }
}

/// Bytes of the whole frame, with the parts that lie outside the first buffer.
#[inline(always)]
pub fn bytes(ctx: &XdpContext) -> u64 {
    // SAFETY: the context is the one that the kernel gave to this run (Linux 5.18).
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) }
}

/// Copies the frame's first `count` bytes.
#[inline(always)]
pub fn head(ctx: &XdpContext, to: *mut c_void, count: u32) {
    // SAFETY: the helper checks the range against the frame; the caller owns `count` bytes at `to`.
    unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, to, count) };
}
