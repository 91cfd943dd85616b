//! Why an exchange with an upstream failed: the side, the typed reason, and whether a second attempt can be harmless.
//! It must not know status codes: the reply table turns a reason into one.

use std::fmt;
use std::io;

use thiserror::Error;

/// The error of a request body, as its producer gave it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whose fault a [`Failure`] is, and in which direction it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The request or its body: the client's side.
    Request,
    /// Sending to the upstream.
    Send,
    /// Waiting for or reading the upstream's response.
    Receive,
}

/// What went wrong. Section numbers are those of RFC 9112.
#[derive(Debug, Error)]
pub enum Reason {
    /// Method CONNECT, or a target, host or extra field with bytes that a head cannot carry. Nothing was sent.
    #[error("the request cannot be written as HTTP/1.1")]
    RequestUnfit,
    /// The request body ended with its own error (client gone, size limit); the source can be downcast.
    #[error("the request body failed: {0}")]
    RequestBody(#[source] BoxError),
    /// The request body is longer or shorter than its exact size hint.
    #[error("the request body is not as long as announced")]
    RequestLength,
    /// The transport refused bytes, and no response explained why.
    #[error("write: {0}")]
    Write(#[source] io::Error),
    /// The transport failed while a response was awaited or read.
    #[error("read: {0}")]
    Read(#[source] io::Error),
    /// The peer closed before the first byte of a response.
    #[error("the upstream closed the connection without a response")]
    Closed,
    /// The peer closed within a response head or body (section 8).
    #[error("the upstream closed the connection within a response")]
    Truncated,
    /// Bytes came before any byte of the request was sent (section 9.2).
    #[error("the upstream sent a response before the request")]
    Unasked,
    /// Head, interim heads included, above [`Limits::head_bytes_max`](super::Limits).
    #[error("the response head is too large")]
    HeadTooLarge,
    /// More than 128 fields in a head or in trailers.
    #[error("the response has too many header fields")]
    TooManyFields,
    /// More than 16 interim (1xx) responses.
    #[error("the upstream sent too many interim responses")]
    TooManyInterim,
    /// A status line or header field outside of the grammar (sections 2.2, 4, 5).
    #[error("the response head is malformed")]
    HeadSyntax,
    /// Framing that two readers could understand differently (section 6).
    #[error("the framing of the response is ambiguous")]
    Framing,
    /// 101 that the request did not ask for.
    #[error("the upstream switched protocols without being asked")]
    UnaskedUpgrade,
    /// A chunk outside of the grammar (section 7.1).
    #[error("a chunk of the response is malformed")]
    ChunkSyntax,
    /// A trailer field outside of the grammar (section 7.1.2).
    #[error("the trailers of the response are malformed")]
    TrailerSyntax,
    /// Trailers above [`Limits::trailer_bytes_max`](super::Limits).
    #[error("the trailers of the response are too large")]
    TrailersTooLarge,
}

impl Reason {
    /// The one word for logs and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::RequestUnfit => "request_unfit",
            Self::RequestBody(_) => "request_body",
            Self::RequestLength => "request_length",
            Self::Write(_) => "write",
            Self::Read(_) => "read",
            Self::Closed => "closed",
            Self::Truncated => "truncated",
            Self::Unasked => "unasked",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::TooManyInterim => "too_many_interim",
            Self::HeadSyntax => "head_syntax",
            Self::Framing => "framing",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::ChunkSyntax => "chunk_syntax",
            Self::TrailerSyntax => "trailer_syntax",
            Self::TrailersTooLarge => "trailers_too_large",
        }
    }
}

/// A failed exchange. The connection is closed by then.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub reason: Reason,
    sent: u64,
    reused: bool,
    answered: bool,
}

impl Failure {
    pub(super) fn new(reason: Reason, sent: u64, reused: bool, answered: bool) -> Self {
        Self { reason, sent, reused, answered }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn side(&self) -> Side {
        match self.reason {
            Reason::RequestUnfit | Reason::RequestBody(_) | Reason::RequestLength => Side::Request,
            Reason::Write(_) => Side::Send,
            _ => Side::Receive,
        }
    }

    /// Bytes of the request, head included, that the transport took.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// Whether at least one byte of a response, interim ones included, was read.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Whether another connection may get the same request: nothing was sent, or the transport failed without a byte
    /// of a response on a connection that had served before (so the peer most likely closed it while idle, RFC 9112
    /// section 9.3.1). If [`bytes_sent`](Self::bytes_sent) is not 0 the caller must also know that the method is
    /// idempotent (RFC 9110 section 9.2.2); in every case it must still have the body.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        let transport = matches!(self.reason, Reason::Write(_) | Reason::Read(_) | Reason::Closed);
        (self.sent == 0 && self.side() != Side::Request) || (transport && !self.answered && self.reused)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.reason)
    }
}
