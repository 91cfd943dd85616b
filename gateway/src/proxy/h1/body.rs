//! The body of a response, read only when polled, so that a slow client slows its upstream down. It must not know the
//! client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::chunked::{Decoder, Progress};
use super::connection::{Home, Live};
use super::failure::{BoxError, Failure, Reason};
use super::parse::Delimiter;
use super::send::Sender;

/// What is left of a body on the wire.
#[derive(Debug)]
enum Wire {
    Length(u64),
    Chunked(Decoder),
    Close,
}

/// A response body. Data shares the memory it was read into. The connection goes home, or is closed, as soon as the
/// end was read, which may be before the last frame was taken; dropping the body before closes it. After an error the
/// body has ended and the connection is closed.
#[derive(Debug)]
pub struct ResponseBody<S, B, H> {
    /// `None` when the connection was let go.
    live: Option<Live<S, H>>,
    /// What is left of the request, if the response was early. Boxed: it is rare.
    sender: Option<Box<Sender<B>>>,
    wire: Wire,
    reusable: bool,
    /// Data read together with the head.
    early: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

impl<S, B, H> ResponseBody<S, B, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    H: Home<S> + Unpin,
{
    /// A body whose first bytes may be buffered. Fails if they are malformed already.
    pub(super) fn new(
        live: Live<S, H>,
        sender: Option<Box<Sender<B>>>,
        delimiter: Delimiter,
        reusable: bool,
    ) -> Result<Self, Failure> {
        let wire = match delimiter {
            Delimiter::Nothing => Wire::Length(0),
            Delimiter::Length(n) => Wire::Length(n),
            Delimiter::Chunked => Wire::Chunked(Decoder::new(live.connection.limits.trailer_bytes_max)),
            Delimiter::Close => Wire::Close,
        };
        let mut body = Self { live: Some(live), sender, wire, reusable, early: Bytes::new(), trailers: None };
        if matches!(body.wire, Wire::Length(0)) {
            body.release();
            return Ok(body);
        }
        match body.take_data() {
            Ok(data) => body.early = data.unwrap_or_default(),
            Err(reason) => return Err(body.fail(reason)),
        }
        Ok(body)
    }

    /// Data that is buffered, not empty. Lets the connection go if the body ends with it or has ended before.
    fn take_data(&mut self) -> Result<Option<Bytes>, Reason> {
        let Some(live) = &mut self.live else {
            return Ok(None);
        };
        let read = &mut live.connection.read;
        let data = match &mut self.wire {
            Wire::Length(left) => {
                let data = read.split(*left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.release();
                }
                data
            }
            Wire::Close => read.split(u64::MAX),
            Wire::Chunked(decoder) => {
                let bytes = read.bytes();
                let mut progress = decoder.advance(bytes)?;
                let mut data = Bytes::new();
                if matches!(progress, Progress::Data) {
                    data = decoder.take(bytes);
                    // The end is often buffered as well; an error is not lost, the next call meets it again.
                    progress = decoder.advance(bytes).unwrap_or(Progress::More);
                }
                if let Progress::Ended(trailers) = progress {
                    self.trailers = trailers;
                    self.release();
                }
                data
            }
        };
        Ok((!data.is_empty()).then_some(data))
    }

    /// Capacity of the read buffer held now, bytes.
    #[cfg(test)]
    pub(super) fn buffered_capacity(&mut self) -> usize {
        self.live.as_mut().map_or(0, |live| live.connection.read.bytes().capacity())
    }

    fn release(&mut self) {
        self.sender = None;
        if let Some(live) = self.live.take() {
            live.release(self.reusable);
        }
    }

    fn fail(&mut self, reason: Reason) -> Failure {
        self.sender = None;
        match self.live.take() {
            Some(live) => live.failure(reason, true),
            None => Failure::new(reason, 0, true, true),
        }
    }

    /// Sends what is left of the request, reads once more. `Ready(Ok(false))`: the connection has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Reason>> {
        let Some(live) = &mut self.live else {
            return Poll::Ready(Ok(false));
        };
        loop {
            let progress = match live.poll_send(self.sender.as_deref_mut(), cx) {
                Poll::Pending => false,
                Poll::Ready(Ok(false)) => true,
                // A peer that answers need not read on.
                Poll::Ready(Ok(true) | Err(Reason::Write(_))) => {
                    self.sender = None;
                    false
                }
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
            };
            match live.poll_fill(cx) {
                Poll::Ready(Ok(n)) => return Poll::Ready(Ok(n > 0)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Reason::Read(error))),
                Poll::Pending if progress => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Reason>> {
        loop {
            if let Some(data) = self.take_data()? {
                return Poll::Ready(Ok(Some(data)));
            }
            if self.live.is_none() {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) if matches!(self.wire, Wire::Close) => self.release(),
                Ok(false) => return Poll::Ready(Err(Reason::Truncated)),
                Err(reason) => return Poll::Ready(Err(reason)),
            }
        }
    }
}

impl<S, B, H> Body for ResponseBody<S, B, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    H: Home<S> + Unpin,
{
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.early)))));
        }
        match ready!(this.poll_data(cx)) {
            Ok(Some(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Ok(None) => Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers)))),
            Err(reason) => Poll::Ready(Some(Err(this.fail(reason)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.early.is_empty() && self.trailers.is_none() && self.live.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let early = self.early.len() as u64;
        match (&self.wire, &self.live) {
            (Wire::Length(left), Some(_)) => SizeHint::with_exact(early.saturating_add(*left)),
            // With trailers to come the size must not look final: a length would leave no place for them.
            (_, None) if self.trailers.is_none() => SizeHint::with_exact(early),
            _ => {
                let mut hint = SizeHint::default();
                hint.set_lower(early);
                hint
            }
        }
    }
}
