//! Sends one request: the head and small body chunks in one write, large chunks beside their framing without a copy.
//! It must not know responses.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;
use tokio::io::AsyncWrite;

use super::buffer;
use super::chunked;
use super::encode::{self, Framing, RequestHead};
use super::failure::{BoxError, Reason};

/// Chunks up to this size are copied behind what waits already: cheaper than a vectored write, bytes.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// No more chunks are taken while this much waits, bytes.
const STAGED_BYTES_MAX: usize = 16 * 1024;

/// A request on its way. Waiting bytes go out in the order `staged`, `chunk`, `tail`.
#[derive(Debug)]
pub(super) struct Sender<B> {
    staged: Vec<u8>,
    staged_at: usize,
    chunk: Bytes,
    tail: &'static [u8],
    /// `None` when its end is staged.
    body: Option<B>,
    framing: Framing,
    unflushed: bool,
}

impl<B> Drop for Sender<B> {
    fn drop(&mut self) {
        buffer::return_write(std::mem::take(&mut self.staged));
    }
}

impl<B> Sender<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub fn new(head: &RequestHead<'_>, body: B) -> Result<Self, Reason> {
        let framing = encode::framing_of(head.method, &body);
        let body = (!matches!(framing, Framing::Nothing | Framing::Length(0))).then_some(body);
        let staged = buffer::lend_write();
        let mut sender = Self { staged, staged_at: 0, chunk: Bytes::new(), tail: b"", body, framing, unflushed: false };
        encode::write_head(&mut sender.staged, head, framing)?;
        Ok(sender)
    }

    /// Takes body chunks that are ready and writes once. `Ready(true)`: all is sent; `Ready(false)`: call again; `Pending`:
    /// waits for the body or the transport. `sent` counts the bytes that the transport took.
    pub fn poll_step<S>(&mut self, io: &mut S, sent: &mut u64, cx: &mut Context<'_>) -> Poll<Result<bool, Reason>>
    where
        S: AsyncWrite + Unpin,
    {
        self.poll_body(cx)?;
        if self.has_waiting() {
            let n = ready!(self.poll_write(Pin::new(io), cx)).map_err(Reason::Write)?;
            if n == 0 {
                return Poll::Ready(Err(Reason::Write(io::ErrorKind::WriteZero.into())));
            }
            *sent += n as u64;
            self.unflushed = true;
            self.drop_written(n);
            if self.has_waiting() || self.body.is_some() {
                return Poll::Ready(Ok(false));
            }
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx)).map_err(Reason::Write)?;
            self.unflushed = false;
        }
        if self.body.is_none() { Poll::Ready(Ok(true)) } else { Poll::Pending }
    }

    /// Stages what the body has ready; does not wait for it.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<(), Reason> {
        while self.chunk.is_empty() && self.tail.is_empty() && self.staged.len() < STAGED_BYTES_MAX {
            let Some(body) = &mut self.body else { break };
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                break;
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let last = body.is_end_stream();
                        self.stage(data)?;
                        if last {
                            self.end(None)?;
                        }
                    }
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                },
                Some(Err(error)) => return Err(Reason::RequestBody(error.into())),
                None => self.end(None)?,
            }
        }
        Ok(())
    }

    fn stage(&mut self, data: Bytes) -> Result<(), Reason> {
        // An empty chunk would end the body.
        if data.is_empty() {
            return Ok(());
        }
        let mut tail: &'static [u8] = b"";
        match &mut self.framing {
            Framing::Chunked => {
                chunked::write_size_line(&mut self.staged, data.len());
                tail = chunked::CHUNK_END;
            }
            Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(Reason::RequestLength)?,
            Framing::Nothing => return Err(Reason::RequestLength),
        }
        if data.len() <= COPIED_BYTES_MAX {
            self.staged.extend_from_slice(&data);
            self.staged.extend_from_slice(tail);
        } else {
            self.chunk = data;
            self.tail = tail;
        }
        if self.framing == Framing::Length(0) {
            self.body = None;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Reason> {
        self.body = None;
        match (self.framing, trailers) {
            (Framing::Chunked, Some(trailers)) => chunked::write_trailers(&mut self.staged, &trailers),
            (Framing::Chunked, None) if self.tail.is_empty() => self.staged.extend_from_slice(chunked::BODY_END),
            (Framing::Chunked, None) => self.tail = chunked::CHUNK_AND_BODY_END,
            (Framing::Length(left), _) if left > 0 => return Err(Reason::RequestLength),
            (Framing::Length(_) | Framing::Nothing, _) => {}
        }
        Ok(())
    }
}

impl<B> Sender<B> {
    fn has_waiting(&self) -> bool {
        self.staged_at < self.staged.len() || !self.chunk.is_empty() || !self.tail.is_empty()
    }

    fn poll_write<S>(&mut self, io: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite,
    {
        let staged = &self.staged[self.staged_at..];
        if self.chunk.is_empty() && self.tail.is_empty() {
            return io.poll_write(cx, staged);
        }
        let all = [IoSlice::new(staged), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
        let first = all.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
        io.poll_write_vectored(cx, &all[first..])
    }

    fn drop_written(&mut self, mut n: usize) {
        let staged = n.min(self.staged.len() - self.staged_at);
        self.staged_at += staged;
        if self.staged_at == self.staged.len() {
            self.staged.clear();
            self.staged_at = 0;
        }
        n -= staged;
        let chunk = n.min(self.chunk.len());
        self.chunk.advance(chunk);
        self.tail = &self.tail[n - chunk..];
    }
}
