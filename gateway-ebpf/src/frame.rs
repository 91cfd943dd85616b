//! The frame in the kernel's buffer. Near its start it is read in place, after a comparison with its end that the
//! verifier can follow; behind headers of a length that the frame itself names, through a helper.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
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
        self.read()
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

/// What a part of a frame may be read as: any bits are a value, and none are padding.
pub trait Integer: Copy {}
impl Integer for u8 {}
impl Integer for u16 {}
impl Integer for u32 {}

/// A position whose bytes can be read as integers.
pub trait Words: Cursor {
    /// The integers that lie here, in memory order.
    fn read<T: Integer, const N: usize>(self) -> Option<[T; N]>;
}

impl Words for Far {
    #[inline(always)]
    fn read<T: Integer, const N: usize>(self) -> Option<[T; N]> {
        let mut out = MaybeUninit::<[T; N]>::uninit();
        // SAFETY: the helper checks the range against the frame, and writes as many bytes as are named (Linux 5.18).
        let result =
            unsafe { bpf_xdp_load_bytes(self.ctx, self.offset, out.as_mut_ptr().cast(), size_of::<[T; N]>() as u32) };
        // SAFETY: the helper wrote all of them, as it says, and every pattern of bits is an integer.
        if result == 0 { Some(unsafe { out.assume_init() }) } else { None }
    }
}

impl Far {
    /// Overwrites what lies here; false if the frame is too short.
    #[inline(always)]
    pub fn write<T: Integer, const N: usize>(self, from: &[T; N]) -> bool {
        let from: *const T = from.as_ptr();
        // SAFETY: the helper checks the range against the frame, and reads as many bytes as are named (Linux 5.18).
        unsafe { bpf_xdp_store_bytes(self.ctx, self.offset, from.cast_mut().cast(), size_of::<[T; N]>() as u32) == 0 }
    }

    /// Where this is.
    #[inline(always)]
    pub fn offset(self) -> u32 {
        self.offset
    }
}

/// The start of the frame.
#[inline(always)]
pub fn start(ctx: *mut xdp_md) -> Far {
    Far { ctx, offset: 0 }
}

/// Makes the frame this long; false if it cannot be.
#[inline(always)]
pub fn resize(ctx: *mut xdp_md, bytes: u32, frame_bytes: u32) -> bool {
    // SAFETY: the context is the one that the kernel gave to this run; nothing holds a pointer into the frame.
    unsafe { bpf_xdp_adjust_tail(ctx, bytes.wrapping_sub(frame_bytes) as i32) == 0 }
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
