//! Tells a client where it stands: Kong's pairs and three fields, or the fields of the IETF's draft. The only writer of
//! these headers; it must not decide anything.

use std::fmt::Write;

use http::header::{HeaderName, HeaderValue};

use crate::document::Fields;
use crate::limits::window::Usage;
use crate::proxy::exchange::{Exchange, Put};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// One limit, as headers name it.
#[derive(Clone, Debug)]
pub struct Named {
    /// `minute` and the like, or the window's seconds.
    word: String,
    /// Requests in the window.
    requests: u64,
    /// Length of the window, seconds.
    window_s: u64,
    requests_value: HeaderValue,
    limit_name: HeaderName,
    remaining_name: HeaderName,
}

impl Named {
    /// A limit of `requests` in a window of `window_s` seconds called `word`: lower-case letters or digits.
    #[must_use]
    pub fn new(word: &str, requests: u64, window_s: u64) -> Self {
        let header = |what: &str| {
            HeaderName::try_from(format!("x-ratelimit-{what}-{word}"))
                .expect("the words of windows are lower-case letters or digits")
        };
        Named {
            word: word.to_owned(),
            requests,
            window_s,
            requests_value: HeaderValue::from(requests),
            limit_name: header("limit"),
            remaining_name: header("remaining"),
        }
    }
}

/// Which fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// None.
    Hidden,
    /// Kong's.
    Kong,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
    Ietf,
}

impl Style {
    /// Which fields are written: Kong's, none, or by the own key `ietf_headers` those of the IETF's draft.
    pub fn read(fields: &Fields<'_>) -> Style {
        let hidden = fields.boolean("hide_client_headers").unwrap_or(false);
        match fields.boolean("ietf_headers").unwrap_or(false) {
            _ if hidden => Style::Hidden,
            true => Style::Ietf,
            false => Style::Kong,
        }
    }

    /// Puts on the answer what the limits say, in the order shortest window first; returns the seconds to the end of the
    /// tightest window, of equals the longer.
    pub fn tell<'a>(
        self,
        limits: impl Iterator<Item = (&'a Named, Usage)> + Clone,
        exchange: &mut Exchange,
    ) -> Option<u64> {
        let (tight, usage) = limits.clone().reduce(|a, b| if b.1.remaining <= a.1.remaining { b } else { a })?;
        let headers = &mut exchange.response_headers;
        match self {
            Style::Hidden => return None,
            Style::Kong => {
                headers.reserve(2 * limits.size_hint().0 + 3);
                for (limit, usage) in limits {
                    headers.push((limit.limit_name.clone(), limit.requests_value.clone(), Put::Set));
                    headers.push((limit.remaining_name.clone(), HeaderValue::from(usage.remaining), Put::Set));
                }
                headers.push((LIMIT, tight.requests_value.clone(), Put::Set));
                headers.push((REMAINING, HeaderValue::from(usage.remaining), Put::Set));
                headers.push((RESET, HeaderValue::from(usage.reset_s), Put::Set));
            }
            Style::Ietf => {
                let (mut policy, mut state) = (String::new(), String::new());
                for (limit, usage) in limits {
                    let comma = if policy.is_empty() { "" } else { ", " };
                    let _ = write!(policy, "{comma}\"{}\";q={};w={}", limit.word, limit.requests, limit.window_s);
                    let _ = write!(state, "{comma}\"{}\";r={};t={}", limit.word, usage.remaining, usage.reset_s);
                }
                for (name, text) in [(POLICY, policy), (RATELIMIT, state)] {
                    if let Ok(value) = HeaderValue::try_from(text) {
                        headers.push((name, value, Put::Set));
                    }
                }
            }
        }
        Some(usage.reset_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::told;

    #[test]
    fn the_draft_has_two_fields() {
        let limits = [Named::new("second", 5, 1), Named::new("minute", 9, 60)];
        let usages = [3, 2].map(|remaining| Usage { admitted: true, remaining, reset_s: 7 });
        let mut ex = Exchange::for_test("GET", "/", &[]);
        assert_eq!(Style::Ietf.tell(limits.iter().zip(usages), &mut ex), Some(7));
        assert_eq!(told(&ex, "ratelimit-policy").as_deref(), Some("\"second\";q=5;w=1, \"minute\";q=9;w=60"));
        assert_eq!(told(&ex, "ratelimit").as_deref(), Some("\"second\";r=3;t=7, \"minute\";r=2;t=7"));
        assert_eq!(ex.response_headers.len(), 2);
    }
}
