//! The future from a request to its response's head. It must not know bodies beyond handing them over.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::UPGRADE;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::ResponseBody;
use super::connection::{Home, Live};
use super::failure::{BoxError, Failure, Reason};
use super::parse::{self, ResponseHead};
use super::send::Sender;
use super::upgraded::Upgraded;

/// Most interim responses before the final one.
const INTERIM_MAX: u32 = 16;

/// What an upstream answered.
#[derive(Debug)]
pub enum Reply<S, B, H> {
    /// A final response. `headers` hold what the upstream sent, hop-by-hop fields included, except Transfer-Encoding;
    /// Content-Length at most once.
    Response(Parts, ResponseBody<S, B, H>),
    /// 101, after a request with [`RequestHead::upgrade`](super::RequestHead::upgrade).
    Upgraded(Parts, Upgraded<S>),
}

/// An exchange until its response's head was read. See [`Connection::exchange`](super::Connection::exchange).
#[derive(Debug)]
#[must_use = "nothing is sent until the future is polled"]
pub struct Exchange<S, B, H> {
    /// `None` after completion.
    live: Option<Live<S, H>>,
    /// `None` when all is sent or sending has stopped.
    sender: Option<Sender<B>>,
    awaited: Awaited,
}

/// The head that is awaited.
#[derive(Debug)]
struct Awaited {
    refused: Option<Reason>,
    /// Why sending stopped; a response may still explain it.
    write_failure: Option<Reason>,
    to_head: bool,
    upgrade: Option<HeaderValue>,
    scanned: usize,
    interim: u32,
    interim_bytes: usize,
}

impl<S, B, H> Exchange<S, B, H> {
    pub(super) fn new(
        live: Live<S, H>,
        sender: Result<Sender<B>, Reason>,
        to_head: bool,
        upgrade: Option<HeaderValue>,
    ) -> Self {
        let (sender, refused) = match sender {
            Ok(sender) => (Some(sender), None),
            Err(reason) => (None, Some(reason)),
        };
        let awaited =
            Awaited { refused, write_failure: None, to_head, upgrade, scanned: 0, interim: 0, interim_bytes: 0 };
        Self { live: Some(live), sender, awaited }
    }
}

impl<S, B, H> Future for Exchange<S, B, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    H: Home<S> + Unpin,
{
    type Output = Result<Reply<S, B, H>, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const LIVE: &str = "an exchange is not polled after it resolved";
        let this = self.get_mut();
        let head = ready!(this.awaited.poll_head(this.live.as_mut().expect(LIVE), &mut this.sender, cx));
        let live = this.live.take().expect(LIVE);
        Poll::Ready(match head {
            Ok(head) => this.awaited.conclude(head, live, this.sender.take()),
            Err(reason) => {
                this.sender = None;
                let answered = this.awaited.interim_bytes > 0 || !live.connection.read.is_empty();
                Err(live.failure(reason, answered))
            }
        })
    }
}

impl Awaited {
    /// Sends and reads in turns until a final (or 101) head is there.
    fn poll_head<S, B, H>(
        &mut self,
        live: &mut Live<S, H>,
        sender: &mut Option<Sender<B>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Reason>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
        H: Home<S> + Unpin,
    {
        if let Some(reason) = self.refused.take() {
            return Poll::Ready(Err(reason));
        }
        loop {
            let progress = match live.poll_send(sender.as_mut(), cx) {
                Poll::Pending => false,
                Poll::Ready(Ok(false)) => true,
                Poll::Ready(Ok(true)) => {
                    *sender = None;
                    false
                }
                // The peer may have answered and closed; its answer says more than our broken pipe.
                Poll::Ready(Err(reason @ Reason::Write(_))) => {
                    *sender = None;
                    self.write_failure = Some(reason);
                    false
                }
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
            };
            match self.poll_receive(live, cx) {
                Poll::Ready(received) => return Poll::Ready(received),
                Poll::Pending if progress => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_receive<S, H>(&mut self, live: &mut Live<S, H>, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Reason>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        H: Home<S>,
    {
        loop {
            if let Some(head) = self.take_head(live)? {
                if !head.parts.status.is_informational() || head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Poll::Ready(Err(Reason::TooManyInterim));
                }
                continue;
            }
            let reason = match ready!(live.poll_fill(cx)) {
                Ok(0) if live.connection.read.is_empty() && self.interim == 0 => Reason::Closed,
                Ok(0) => Reason::Truncated,
                Ok(_) if live.connection.sent == 0 => Reason::Unasked,
                Ok(_) => continue,
                Err(error) => Reason::Read(error),
            };
            return Poll::Ready(Err(self.write_failure.take().unwrap_or(reason)));
        }
    }

    /// The next head, if the buffer holds all of it.
    fn take_head<S, H>(&mut self, live: &mut Live<S, H>) -> Result<Option<ResponseHead>, Reason> {
        let limit = live.connection.limits.head_bytes_max;
        let read = &mut live.connection.read;
        if read.is_empty() {
            return Ok(None);
        }
        if !parse::may_begin(read.bytes()) {
            return Err(Reason::HeadSyntax);
        }
        let end = parse::find_end(read.bytes(), &mut self.scanned).map_err(|()| Reason::HeadSyntax)?;
        if self.interim_bytes + end.unwrap_or(read.len()) > limit {
            return Err(Reason::HeadTooLarge);
        }
        let Some(end) = end else { return Ok(None) };
        self.scanned = 0;
        self.interim_bytes += end;
        parse::parse_head(&read.split(end as u64), self.to_head).map(Some)
    }

    /// Whether a 101 grants what was asked for, and nothing else (RFC 9110 section 7.8).
    fn is_granted(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(UPGRADE).iter();
        match (&self.upgrade, given.next(), given.next()) {
            (Some(asked), Some(given), None) => asked.as_bytes().eq_ignore_ascii_case(given.as_bytes()),
            _ => false,
        }
    }

    fn conclude<S, B, H>(
        &self,
        head: ResponseHead,
        live: Live<S, H>,
        sender: Option<Sender<B>>,
    ) -> Result<Reply<S, B, H>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
        H: Home<S> + Unpin,
    {
        let ResponseHead { parts, delimiter, reusable } = head;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.is_granted(&parts.headers) || !live.is_sent {
                return Err(live.failure(Reason::UnaskedUpgrade, true));
            }
            let (io, early) = live.into_transport();
            return Ok(Reply::Upgraded(parts, Upgraded::new(io, early)));
        }
        // A refusal says that the rest of the body is not wanted; a success may depend on it.
        let sender = sender.filter(|_| parts.status.as_u16() < 400).map(Box::new);
        let body = ResponseBody::new(live, sender, delimiter, reusable)?;
        Ok(Reply::Response(parts, body))
    }
}
