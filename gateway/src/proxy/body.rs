//! Bodies: the client's on its way in (streamed, or held whole for a plugin that asked) with its size limit.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::exchange::is_identity;
use super::reply::Refusal;

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than the configured limit.
    #[error("request body too large")]
    TooLarge,
    /// There is no room for it.
    #[error("no room to hold the request body")]
    NoRoom,
    /// Nothing came for too long, or the whole takes too long.
    #[error("request body too slow")]
    Slow,
    /// The client gave its stream up before the end, in peace (RFC 9113 §8.1).
    #[error("the request was given up")]
    GivenUp,
    /// The client went away or broke the framing.
    #[error("client: {0}")]
    Client(#[from] hyper::Error),
}

impl BodyError {
    /// What the client is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            BodyError::TooLarge => Refusal::BodyTooLarge,
            BodyError::Slow => Refusal::RequestTimeout,
            BodyError::NoRoom => Refusal::Overloaded,
            BodyError::GivenUp | BodyError::Client(_) => Refusal::BadRequest,
        }
    }
}

/// Who has to move next so that a streamed body goes on; whoever is late is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The client: everything that came was taken.
    Client,
    /// Whoever takes the body.
    Taker,
    /// Nobody: it has ended.
    Ended,
}

/// How long a body may take: a timer that is made only when the client lets the gateway wait.
pub struct Pace {
    idle: Duration,
    due: Instant,
    endless: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// `idle` between two pieces, `whole` until the last one.
    #[must_use]
    pub fn new(idle: Duration, whole: Duration) -> Self {
        Pace { idle, due: Instant::now() + whole, endless: false, waiting: None }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.endless {
            return Poll::Pending;
        }
        let (idle, due) = (self.idle, self.due);
        let rings = || Box::pin(tokio::time::sleep_until(due.min(Instant::now() + idle)));
        self.waiting.get_or_insert_with(rings).as_mut().poll(cx)
    }
}

/// A request's body.
#[derive(Default)]
pub enum RequestBody {
    /// There is none.
    #[default]
    Empty,
    /// Held whole, for a plugin that reads or changes it.
    Whole(Bytes),
    /// Streamed as it comes.
    Stream {
        /// hyper's body.
        incoming: Incoming,
        /// Bytes that may still come.
        left: u64,
        /// Whose turn it is, also for those who have lent the body out.
        turn: Rc<Cell<Turn>>,
        /// The client's time.
        pace: Pace,
        /// By HTTP/2, where only the end of the stream is the end.
        multiplexed: bool,
        /// What completes the announced length of a body whose end is still to come.
        last: Option<Box<Frame<Bytes>>>,
    },
}

impl RequestBody {
    /// The body of a request as hyper hands it over.
    #[must_use]
    pub fn of(incoming: Incoming, version: Version, pace: impl FnOnce() -> Pace) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream {
            incoming,
            left: u64::MAX,
            turn: Rc::new(Cell::new(Turn::Taker)),
            pace: pace(),
            multiplexed: version == Version::HTTP_2,
            last: None,
        }
    }

    /// Whether all of the announced bytes came, but not the end: over HTTP/2 more than was announced may follow. Nobody is
    /// to be given a complete request before the client has completed it.
    #[must_use]
    pub fn lacks_end(&self) -> bool {
        matches!(self, Self::Stream { incoming, .. } if lacks_end(incoming))
    }

    /// Allows at most `bytes` from here on; a tighter limit stays.
    pub fn limit(&mut self, bytes: u64) {
        if let Self::Stream { left, .. } = self {
            *left = bytes.min(*left);
        }
    }

    /// Lets a streamed body take all the time it wants: somebody else keeps it.
    pub fn unhurried(&mut self) {
        if let Self::Stream { pace, .. } = self {
            pace.endless = true;
        }
    }

    /// Whether there is no body at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whose turn it is, if the body is streamed.
    #[must_use]
    pub fn turn(&self) -> Option<Rc<Cell<Turn>>> {
        match self {
            Self::Stream { turn, .. } => Some(Rc::clone(turn)),
            _ => None,
        }
    }

    /// Reads the body to its end and holds it, if it has at most `bytes_max`; a longer or unknown-length one beyond the limit
    /// is an error. `reserve` says whether there is room for so many bytes more.
    ///
    /// # Errors
    /// `TooLarge`, `NoRoom`, or the client's failure.
    pub async fn hold(&mut self, bytes_max: usize, reserve: impl Fn(u64) -> bool) -> Result<(), BodyError> {
        let Self::Stream { incoming, left, .. } = self else { return Ok(()) };
        let bytes_max = bytes_max.min(usize::try_from(*left).unwrap_or(usize::MAX));
        if incoming.size_hint().lower() > bytes_max as u64 {
            return Err(BodyError::TooLarge);
        }
        let mut whole = bytes::BytesMut::new();
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                if whole.len() + data.len() > bytes_max {
                    return Err(BodyError::TooLarge);
                }
                if !reserve(data.len() as u64) {
                    return Err(BodyError::NoRoom);
                }
                whole.extend_from_slice(&data);
            }
        }
        *self = Self::Whole(whole.freeze());
        Ok(())
    }

    /// The whole body, when it is held.
    #[must_use]
    pub fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            _ => None,
        }
    }
}

fn lacks_end(incoming: &Incoming) -> bool {
    incoming.size_hint().exact() == Some(0) && !incoming.is_end_stream()
}

/// Leaves the trailers that no upstream which merges them into the header could take for the gateway's own word.
fn keep_trailers(trailers: &mut HeaderMap) {
    let ours = |name: &HeaderName| {
        let text = name.as_str();
        let said = ["x-forwarded-", "x-kong-"].iter().any(|prefix| text.starts_with(prefix));
        said || is_identity(name) || text.contains('_') || matches!(text, "forwarded" | "proxy" | "via" | "x-real-ip")
    };
    let names: Vec<HeaderName> = trailers.keys().filter(|name| ours(name)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then_some(Ok(Frame::data(bytes))))
            }
            Self::Stream { incoming, left, turn, pace, multiplexed, last } => loop {
                let polled = Pin::new(&mut *incoming).poll_frame(cx);
                turn.set(match polled {
                    Poll::Pending => Turn::Client,
                    Poll::Ready(Some(_)) if !incoming.is_end_stream() => Turn::Taker,
                    Poll::Ready(_) => Turn::Ended,
                });
                let Poll::Ready(frame) = polled else {
                    return pace.poll_over(cx).map(|()| Some(Err(BodyError::Slow)));
                };
                pace.waiting = None;
                let Some(mut frame) = frame.transpose()? else {
                    // hyper tells a reset without an error as it tells an end.
                    if *multiplexed && !incoming.is_end_stream() {
                        *last = None;
                        return Poll::Ready(Some(Err(BodyError::GivenUp)));
                    }
                    return Poll::Ready(last.take().map(|frame| Ok(*frame)));
                };
                if let Some(trailers) = frame.trailers_mut() {
                    keep_trailers(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => return Poll::Ready(Some(Err(BodyError::TooLarge))),
                    }
                }
                match last.take() {
                    // Not longer than announced, so it is empty.
                    Some(held) if frame.is_data() => *last = Some(held),
                    Some(held) => {
                        *last = Some(Box::new(frame));
                        return Poll::Ready(Some(Ok(*held)));
                    }
                    None if frame.is_data() && lacks_end(incoming) => *last = Some(Box::new(frame)),
                    None => return Poll::Ready(Some(Ok(frame))),
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream { incoming, last, .. } => last.is_none() && incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream { incoming, last, .. } => match last.as_deref().and_then(Frame::data_ref) {
                Some(data) => SizeHint::with_exact(data.len() as u64),
                None => incoming.size_hint(),
            },
        }
    }
}
