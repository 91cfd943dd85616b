//! The body of an answer on its way to the client: counted, with a time limit on a silent upstream, and the flight's end
//! attached, so that the record is written when the last byte has left or the client has gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::body::{BodyError, RequestBody};
use super::flight::Flight;
use super::h1::{BoxError, ResponseBody};
use super::h2::Stream;
use super::line::Line;
use super::reply::Refusal;
use super::transport::{Berth, Transport};
use crate::clock;

/// A request body lent to an attempt, so that it is still there for the next one if nothing of it was taken.
#[derive(Clone)]
pub struct Lent(Option<Rc<Loan>>);

struct Loan {
    body: RefCell<RequestBody>,
    /// Bytes that were taken.
    taken: Cell<u64>,
    /// Why it broke off.
    failure: Cell<Option<Refusal>>,
    /// Who wants to know that something was asked of it.
    watcher: Cell<Option<Waker>>,
}

impl Lent {
    /// Lends a body.
    #[must_use]
    pub fn new(body: RequestBody) -> Self {
        Lent((!body.is_empty()).then(|| {
            Rc::new(Loan {
                body: RefCell::new(body),
                taken: Cell::new(0),
                failure: Cell::default(),
                watcher: Cell::default(),
            })
        }))
    }

    /// Why the body broke off, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<Refusal> {
        self.0.as_ref().and_then(|loan| loan.failure.get())
    }

    /// Wakes a task when the body is next asked for a piece by another: then it may be somebody else's turn.
    pub fn watch(&self, waker: &Waker) {
        if let Some(loan) = &self.0 {
            loan.watcher.set(Some(waker.clone()));
        }
    }

    /// Lets the body take all the time it wants.
    pub fn unhurried(&self) {
        if let Some(loan) = &self.0 {
            loan.body.borrow_mut().unhurried();
        }
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
        let frame = Pin::new(&mut *loan.body.borrow_mut()).poll_frame(cx);
        if let Some(watcher) = loan.watcher.take() {
            watcher.wake();
        }
        let frame = ready!(frame);
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(1, Bytes::len);
                loan.taken.set(loan.taken.get() + bytes as u64);
            }
            Some(Err(error)) => loan.failure.set(Some(error.refusal())),
            None => {}
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
pub enum FromUpstream {
    /// By a connection of its own.
    Connection(ResponseBody<Transport, Lent, Berth>),
    /// By a stream among others.
    Stream(Streamed),
}

impl FromUpstream {
    /// Bytes of the request's body that were taken after the answer's head came.
    fn taken(&self) -> u64 {
        match self {
            FromUpstream::Connection(_) => 0,
            FromUpstream::Stream(streamed) => streamed.request.taken() - streamed.taken_before,
        }
    }
}

impl Body for FromUpstream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            FromUpstream::Connection(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            FromUpstream::Stream(body) => Pin::new(&mut body.incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            FromUpstream::Connection(body) => body.is_end_stream(),
            FromUpstream::Stream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            FromUpstream::Connection(body) => body.size_hint(),
            FromUpstream::Stream(body) => body.incoming.size_hint(),
        }
    }
}

/// A response body on a stream, whose request may still be on its way.
pub struct Streamed {
    incoming: Incoming,
    request: Lent,
    taken_before: u64,
    _stream: Stream<Lent>,
}

impl Streamed {
    /// The body `incoming`, with the place that it takes on the connection.
    #[must_use]
    pub fn new(incoming: Incoming, request: Lent, stream: Stream<Lent>) -> Self {
        let taken_before = request.taken();
        Streamed { incoming, request, taken_before, _stream: stream }
    }
}

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

impl Source {
    fn taken(&self) -> u64 {
        match self {
            Source::Upstream(body) | Source::Resumed(_, body) => body.taken(),
            Source::Empty | Source::Whole(_) => 0,
        }
    }
}

/// The body that hyper sends.
pub struct AnswerBody {
    source: Source,
    idle_max: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    /// Bytes that had been taken of the request when the time limit began.
    taken: u64,
    /// The stream that carries it, where one connection carries many.
    line: Option<Rc<Line>>,
    flight: Box<Flight>,
}

impl AnswerBody {
    /// A body that ends `flight`.
    #[must_use]
    pub fn new(source: Source, idle_max: Duration, flight: Box<Flight>) -> Self {
        AnswerBody { source, idle_max, idle: None, taken: 0, line: Line::current(), flight }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Upstream(body) => Pin::new(&mut **body).poll_frame(cx),
            Source::Resumed(held, body) => match held.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(&mut **body).poll_frame(cx),
            },
        }
    }

    /// Nothing came: starts the time limit, or ends the body when it is over and the request stood still as well.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        let idle_max = self.idle_max;
        loop {
            let sleep = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_max)));
            ready!(sleep.as_mut().poll(cx));
            let before = std::mem::replace(&mut self.taken, self.source.taken());
            if before == self.taken {
                return Poll::Ready("the upstream sent nothing for too long".into());
            }
            self.idle = None;
        }
    }

    /// Forgets where the bytes came from.
    fn end(&mut self) {
        self.flight.taken_bytes += self.source.taken();
        self.source = Source::Empty;
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
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let error = ready!(this.poll_idle(cx));
                this.flight.aborted = true;
                this.end();
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
        self.end();
    }
}
