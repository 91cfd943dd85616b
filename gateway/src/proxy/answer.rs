//! The body of an answer on its way to the client: counted, with a time limit on a silent upstream, and the flight's end
//! attached, so that the record is written when the last byte has left or the client has gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::body::{BodyError, RequestBody};
use super::flight::Flight;
use super::h1::{BoxError, ResponseBody};
use super::line::Line;
use super::transport::{Berth, Transport};
use crate::clock;

/// A request body lent to an attempt, so that it is still there for the next one if nothing of it was taken.
#[derive(Clone)]
pub struct Lent(Option<Rc<Loan>>);

struct Loan {
    body: RefCell<RequestBody>,
    /// Bytes that were taken.
    taken: Cell<u64>,
}

impl Lent {
    /// Lends a body.
    #[must_use]
    pub fn new(body: RequestBody) -> Self {
        Lent((!body.is_empty()).then(|| Rc::new(Loan { body: RefCell::new(body), taken: Cell::new(0) })))
    }

    /// Bytes that were taken of the body.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.0.as_ref().map_or(0, |loan| loan.taken.get())
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(loan) = &self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *loan.body.borrow_mut()).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(1, Bytes::len);
            loan.taken.set(loan.taken.get() + bytes as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|loan| loan.body.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |loan| loan.body.borrow().size_hint())
    }
}

/// A response body as it comes from an upstream.
pub type FromUpstream = ResponseBody<Transport, Lent, Berth>;

/// Where an answer's bytes come from.
pub enum Source {
    /// Nowhere: no body.
    Empty,
    /// From memory.
    Whole(Bytes),
    /// From the upstream.
    Upstream(Box<FromUpstream>),
    /// What was read for a plugin that then found it too long, and the rest.
    Resumed(VecDeque<Bytes>, Box<FromUpstream>),
}

/// The body that hyper sends.
pub struct AnswerBody {
    source: Source,
    idle_max: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    /// The stream that carries it, where one connection carries many.
    line: Option<Rc<Line>>,
    flight: Box<Flight>,
}

impl AnswerBody {
    /// A body that ends `flight`.
    #[must_use]
    pub fn new(source: Source, idle_max: Duration, flight: Box<Flight>) -> Self {
        AnswerBody { source, idle_max, idle: None, line: Line::current(), flight }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Upstream(body) => Pin::new(&mut **body).poll_frame(cx).map_err(Into::into),
            Source::Resumed(held, body) => match held.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(&mut **body).poll_frame(cx).map_err(Into::into),
            },
        }
    }

    /// Nothing came: starts the time limit, or ends the body when it is over.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        let idle_max = self.idle_max;
        let sleep = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_max)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready("the upstream sent nothing for too long".into())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(line) = &this.line {
            line.taken();
        }
        match this.poll_source(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(line) = &this.line
                    && !frame.data_ref().is_none_or(Bytes::is_empty)
                {
                    line.offer(clock::monotonic_ns());
                }
                this.idle = None;
                this.flight.sent_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.flight.aborted = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.source = Source::Empty;
                Poll::Ready(None)
            }
            Poll::Pending => {
                let error = ready!(this.poll_idle(cx));
                this.flight.aborted = true;
                this.source = Source::Empty;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Upstream(body) => body.is_end_stream(),
            Source::Resumed(held, body) => held.is_empty() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(body) => body.size_hint(),
            Source::Resumed(held, body) => {
                let held: u64 = held.iter().map(|b| b.len() as u64).sum();
                body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(held + rest))
            }
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if !self.is_end_stream() && !self.flight.head_only() {
            self.flight.aborted = true;
        }
    }
}
