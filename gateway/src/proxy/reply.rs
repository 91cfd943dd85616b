//! Answers that the gateway gives itself. Everything else in the house says *why* (a `Refusal`, or a plugin's `Reply`);
//! this file alone turns it into a status, headers and a body, in Kong's two forms.

pub mod form;

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use smallvec::SmallVec;

use self::form::{Style, Words};

/// An answer of the gateway itself, not yet rendered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body, in one of Kong's forms.
    pub text: Text,
    /// Headers of this answer.
    pub headers: SmallVec<[(HeaderName, HeaderValue); 4]>,
    /// One word for logs and metrics; for a plugin's answer the plugin's name.
    pub reason: &'static str,
}

/// The body of a `Reply`.
#[derive(Clone, Debug)]
pub enum Text {
    /// Kong's templated error: the content type follows the request's `Accept`, the request id is part of it.
    Templated(Cow<'static, str>),
    /// The same for a failure of the proxy itself, whose content type follows more than `Accept`.
    Failure(Cow<'static, str>),
    /// Kong's compact form: this JSON on one line, whatever `Accept` says.
    Compact(serde_json::Value),
    /// These bytes as they are.
    Raw(Bytes, Option<HeaderValue>),
    /// No body.
    Empty,
}

impl Reply {
    /// A templated error.
    pub fn templated(reason: &'static str, status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Reply { status, text: Text::Templated(message.into()), headers: SmallVec::new(), reason }
    }

    /// A compact `{"message":…}`.
    #[must_use]
    pub fn compact(reason: &'static str, status: StatusCode, message: &str) -> Self {
        Self::json(reason, status, json!({ "message": message }))
    }

    /// A compact answer with any JSON.
    #[must_use]
    pub fn json(reason: &'static str, status: StatusCode, body: serde_json::Value) -> Self {
        Reply { status, text: Text::Compact(body), headers: SmallVec::new(), reason }
    }

    /// An answer with these bytes.
    #[must_use]
    pub fn raw(reason: &'static str, status: StatusCode, body: Bytes, content_type: Option<HeaderValue>) -> Self {
        Reply { status, text: Text::Raw(body, content_type), headers: SmallVec::new(), reason }
    }

    /// An answer without a body.
    #[must_use]
    pub fn empty(reason: &'static str, status: StatusCode) -> Self {
        Reply { status, text: Text::Empty, headers: SmallVec::new(), reason }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds `Retry-After` in whole seconds, at least 1.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// The seconds of `Retry-After`, if any.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let (_, value) = self.headers.iter().find(|(name, _)| name == RETRY_AFTER)?;
        value.to_str().ok()?.parse().ok()
    }
}

/// Why the gateway itself did not proxy a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    BadRequest,
    BadHost,
    BadPath,
    BadMethod,
    BadFraming,
    BadHeaderName,
    BadUpgrade,
    HeadersTooLarge,
    UriTooLong,
    BodyTooLarge,
    RequestTimeout,
    Revoked,
    NoRoute,
    HttpsRequired,
    NoService,
    NoTarget,
    NameResolution,
    UpstreamConnect,
    UpstreamConnectTimeout,
    UpstreamTimeout,
    UpstreamInvalid,
    UpstreamClosed,
    SourceDegraded,
    SourceDropped,
    Draining,
    Overloaded,
    Internal,
}

impl Refusal {
    /// The word of this refusal in the log and in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// The whole table: word, status, message. Words of Kong where it has the case.
    fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad_request", 400, "Bad request"),
            Self::BadHost => ("bad_host", 400, "Bad request"),
            Self::BadPath => ("bad_path", 400, "Bad request"),
            Self::BadMethod => ("bad_method", 405, "Method not allowed"),
            Self::BadFraming => ("bad_framing", 400, "Bad request"),
            Self::BadHeaderName => ("bad_header_name", 400, "Bad request"),
            Self::BadUpgrade => ("bad_upgrade", 400, "Bad request"),
            Self::HeadersTooLarge => ("headers_too_large", 431, "Request header or cookie too large"),
            Self::UriTooLong => ("uri_too_long", 414, "URI too long"),
            Self::BodyTooLarge => ("body_too_large", 413, "Payload too large"),
            Self::RequestTimeout => ("request_timeout", 408, "Request timeout"),
            Self::Revoked => ("revoked", 401, "Unauthorized"),
            Self::NoRoute => ("no_route", 404, "no Route matched with those values"),
            Self::HttpsRequired => ("https_required", 426, "Please use HTTPS protocol"),
            Self::NoService => ("no_service", 503, "no Service found with those values"),
            Self::NoTarget => ("no_target", 503, "failure to get a peer from the ring-balancer"),
            Self::NameResolution => ("name_resolution", 503, "name resolution failed"),
            Self::UpstreamConnect => {
                ("upstream_connect", 502, "An invalid response was received from the upstream server")
            }
            Self::UpstreamConnectTimeout => ("upstream_connect_timeout", 504, "The upstream server is timing out"),
            Self::UpstreamTimeout => ("upstream_timeout", 504, "The upstream server is timing out"),
            Self::UpstreamInvalid => {
                ("upstream_invalid", 502, "An invalid response was received from the upstream server")
            }
            Self::UpstreamClosed => {
                ("upstream_closed", 502, "An invalid response was received from the upstream server")
            }
            Self::SourceDegraded => ("source_degraded", 429, "Too many requests"),
            Self::SourceDropped => ("source_dropped", 403, "Forbidden"),
            Self::Draining => ("draining", 503, "The upstream server is currently unavailable"),
            Self::Overloaded => ("overloaded", 503, "The upstream server is currently unavailable"),
            Self::Internal => ("internal", 500, "An unexpected error occurred"),
        }
    }

    /// The answer of this refusal.
    #[must_use]
    pub fn reply(self) -> Reply {
        let (word, status, message) = self.row();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reply = Reply::templated(word, status, message);
        if self.is_failure() { Reply { text: Text::Failure(message.into()), ..reply } } else { reply }
    }

    /// Whether Kong's own server answers it, and no plugin or router.
    fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::NoRoute
                | Self::HttpsRequired
                | Self::NoService
                | Self::NoTarget
                | Self::NameResolution
                | Self::SourceDegraded
                | Self::SourceDropped
        )
    }
}

/// Kong's default message of a status, for templated errors without words of their own.
#[must_use]
pub fn default_message(status: u16) -> Cow<'static, str> {
    Cow::Borrowed(match status {
        400 => "Bad request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not found",
        405 => "Method not allowed",
        408 => "Request timeout",
        411 => "Length required",
        412 => "Precondition failed",
        413 => "Payload too large",
        414 => "URI too long",
        415 => "Unsupported media type",
        416 => "Requested range not satisfiable",
        417 => "Expectation failed",
        421 => "Misdirected request",
        426 => "Upgrade required",
        429 => "Too many requests",
        431 => "Request header or cookie too large",
        500 => "An unexpected error occurred",
        502 => "An invalid response was received from the upstream server",
        503 => "The upstream server is currently unavailable",
        504 => "The upstream server is timing out",
        other => return Cow::Owned(format!("The upstream server responded with {other}")),
    })
}

/// Renders the body and its headers. `request` are the headers of the request that is answered.
#[must_use]
pub fn render(reply: &Reply, request: &HeaderMap, request_id: &str, style: &Style) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + 6);
    let grpc = request.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let body = match &reply.text {
        Text::Empty => Bytes::new(),
        Text::Raw(body, content_type) => {
            if let Some(content_type) = content_type {
                headers.insert(CONTENT_TYPE, content_type.clone());
            }
            body.clone()
        }
        Text::Templated(_) | Text::Failure(_) | Text::Compact(_) if grpc => {
            grpc_status(reply, &mut headers);
            Bytes::new()
        }
        Text::Compact(json) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
            Bytes::from(json.to_string())
        }
        Text::Templated(message) | Text::Failure(message) => {
            let words = Words { status: reply.status.as_u16(), reason: reply.reason, message, request_id };
            let failure = matches!(reply.text, Text::Failure(_));
            let (content_type, text) = style.write(&words, request, failure);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            Bytes::from(text)
        }
    };
    for (name, value) in &reply.headers {
        headers.append(name, value.clone());
    }
    (headers, body)
}

fn grpc_status(reply: &Reply, headers: &mut HeaderMap) {
    let (code, name) = match reply.status.as_u16() {
        200 => (0, "OK"),
        400 => (3, "InvalidArgument"),
        401 => (16, "Unauthenticated"),
        403 => (7, "PermissionDenied"),
        404 => (5, "NotFound"),
        409 => (6, "AlreadyExists"),
        429 => (8, "ResourceExhausted"),
        499 => (1, "Canceled"),
        500 => (13, "Internal"),
        501 => (12, "Unimplemented"),
        // Kong says 13 of a 502; 14 is what gRPC's own table says, and what lets a client try again.
        502 | 503 => (14, "Unavailable"),
        504 => (4, "DeadlineExceeded"),
        s if (400..500).contains(&s) => (3, "InvalidArgument"),
        s if (500..600).contains(&s) => (13, "Internal"),
        _ => (2, "Unknown"),
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(code));
    let message = match &reply.text {
        Text::Compact(json) => json["message"].as_str().unwrap_or(name),
        _ => name,
    };
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(accept: &str) -> String {
        let mut request = HeaderMap::new();
        if !accept.is_empty() {
            request.insert(http::header::ACCEPT, accept.parse().expect("header"));
        }
        let (_, body) = render(&Refusal::NoRoute.reply(), &request, "abc", &Style::default());
        String::from_utf8(body.to_vec()).expect("utf-8")
    }

    #[test]
    fn accept_chooses_the_template() {
        assert_eq!(body(""), "{\n  \"message\":\"no Route matched with those values\",\n  \"request_id\":\"abc\"\n}");
        assert_eq!(body("text/plain"), "no Route matched with those values\nrequest_id: abc");
        assert!(body("text/html;q=0.5, application/xml").starts_with("<?xml"));
        assert!(body("application/nonsense").starts_with('{'));
    }

    #[test]
    fn grpc_gets_a_status_and_no_body() {
        let mut request = HeaderMap::new();
        request.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let reply = Reply::templated("x", StatusCode::TOO_MANY_REQUESTS, "slow down");
        let (headers, body) = render(&reply, &request, "abc", &Style::default());
        assert!(body.is_empty());
        assert_eq!(headers["grpc-status"], "8");
        assert_eq!(headers["grpc-message"], "ResourceExhausted");
    }
}
