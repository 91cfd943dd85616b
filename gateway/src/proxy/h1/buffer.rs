//! Memory of a connection. Buffers are lent by the worker's thread while bytes are in flight, so that neither an idle
//! connection nor an exchange that waits for its upstream holds one. It must not know HTTP.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Sizes of a read buffer, bytes, and how many bytes without a pause it takes to get there: whoever takes large bodies fast
/// costs few system calls, and whoever stops taking them holds no more than it has taken.
const READ_BYTES_MIN: usize = 16 * 1024;
const READ_BYTES_MORE: (usize, usize) = (64 * 1024, 32 * 1024);
const READ_BYTES_MAX: (usize, usize) = (256 * 1024, 256 * 1024);
/// Connections of a worker that may have the largest buffers: what many slow readers hold together is bounded.
const LARGEST_MAX: u32 = 12;
/// A write buffer above this size is freed after use, bytes.
const WRITE_BYTES_KEPT: usize = 64 * 1024;

thread_local! {
    // One of each suffices: a buffer is taken when bytes can move and comes back as soon as it is empty.
    static SPARE_READ: Cell<Option<BytesMut>> = const { Cell::new(None) };
    static SPARE_WRITE: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

/// The right to a buffer of the largest size.
#[derive(Debug)]
struct Largest(());

thread_local! {
    static LARGEST: Cell<u32> = const { Cell::new(0) };
}

impl Largest {
    fn take() -> Option<Self> {
        let taken = LARGEST.get();
        (taken < LARGEST_MAX).then(|| {
            LARGEST.set(taken + 1);
            Largest(())
        })
    }
}

impl Drop for Largest {
    fn drop(&mut self) {
        // At the end of the thread nobody counts any more.
        let _ = LARGEST.try_with(|taken| taken.set(taken.get().saturating_sub(1)));
    }
}

/// An empty write buffer.
pub(super) fn lend_write() -> Vec<u8> {
    SPARE_WRITE.try_with(Cell::take).ok().flatten().unwrap_or_else(|| Vec::with_capacity(1024))
}

/// Takes back what [`lend_write`] gave.
pub(super) fn return_write(mut buffer: Vec<u8>) {
    if buffer.capacity() <= WRITE_BYTES_KEPT {
        buffer.clear();
        // At the end of the thread the buffer is simply freed.
        let _ = SPARE_WRITE.try_with(|spare| spare.set(Some(buffer)));
    }
}

/// Bytes read and not yet handed out; what is handed out shares the allocation.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    bytes: BytesMut,
    /// Bytes of the latest reads that each filled all the room there was.
    run: usize,
    largest: Option<Largest>,
}

impl ReadBuffer {
    pub fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Splits off at most `limit` bytes without copying.
    pub fn split(&mut self, limit: u64) -> Bytes {
        let n = usize::try_from(limit).map_or(self.bytes.len(), |limit| limit.min(self.bytes.len()));
        self.bytes.split_to(n).freeze()
    }

    /// Reads once; 0 is the end of the stream.
    pub fn poll_fill<S: AsyncRead + Unpin>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let polled = pin!(io.read_buf(&mut self.bytes)).poll(cx);
        if polled.is_pending() {
            self.rest();
        }
        let n = ready!(polled)?;
        let filled = n > 0 && self.bytes.len() == self.bytes.capacity();
        self.run = if filled { self.run.saturating_add(n) } else { 0 };
        Poll::Ready(Ok(n))
    }

    /// Gives an empty buffer back to the thread.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            let spare = std::mem::take(&mut self.bytes);
            self.largest = None;
            // One of the largest is not for those without the right to it.
            if spare.capacity() <= READ_BYTES_MORE.0 {
                let _ = SPARE_READ.try_with(|slot| slot.set(Some(spare)));
            }
        }
    }

    fn make_room(&mut self) {
        if self.run < READ_BYTES_MAX.1 {
            self.largest = None;
        } else if self.largest.is_none() {
            self.largest = Largest::take();
        }
        let size = match &self.largest {
            Some(_) => READ_BYTES_MAX.0,
            None if self.run >= READ_BYTES_MORE.1 => READ_BYTES_MORE.0,
            None => READ_BYTES_MIN,
        };
        let wanted = size / 2;
        if self.reclaims(wanted) {
            return;
        }
        if self.bytes.is_empty() {
            self.bytes = SPARE_READ.try_with(Cell::take).ok().flatten().unwrap_or_default();
            if self.reclaims(wanted) {
                return;
            }
        }
        let mut larger = BytesMut::with_capacity(size.max(self.bytes.len() + wanted));
        larger.extend_from_slice(&self.bytes);
        self.bytes = larger;
    }

    /// Reclaims the memory of what was handed out, if all of that is gone and it is no more than this connection may have.
    fn reclaims(&mut self, wanted: usize) -> bool {
        self.bytes.try_reclaim(wanted) && (self.largest.is_some() || self.bytes.capacity() <= READ_BYTES_MORE.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fast() -> ReadBuffer {
        let mut buffer = ReadBuffer { run: READ_BYTES_MAX.1, ..ReadBuffer::default() };
        buffer.make_room();
        buffer
    }

    #[test]
    fn few_have_the_largest_buffers_and_hand_them_to_nobody_without_the_right() {
        let mut large: Vec<ReadBuffer> = (0..LARGEST_MAX).map(|_| fast()).collect();
        assert!(large.iter().all(|one| one.bytes.capacity() == READ_BYTES_MAX.0));
        assert_eq!(fast().bytes.capacity(), READ_BYTES_MORE.0);
        // Who pauses gives the buffer up with the right.
        let mut slow = large.pop().expect("there are some");
        slow.run = 0;
        slow.make_room();
        assert_eq!(slow.bytes.capacity(), READ_BYTES_MIN);
        let mut next = fast();
        assert_eq!(next.bytes.capacity(), READ_BYTES_MAX.0);
        next.rest();
        let mut idle = ReadBuffer::default();
        idle.make_room();
        assert_eq!(idle.bytes.capacity(), READ_BYTES_MIN);
    }
}
