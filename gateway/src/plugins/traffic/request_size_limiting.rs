//! Kong's `request-size-limiting`: refuses by `Content-Length` at once, and cuts a body of unknown length where it passes
//! the limit, without holding it.

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};

use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "request-size-limiting", priority: 951, consumer_scope: true, compile };

const TOO_LARGE: &str = "Request size limit exceeded";
const NO_LENGTH: &str = "A valid Content-Length header is required";

struct RequestSizeLimiting {
    bytes_max: u64,
    require_content_length: bool,
}

impl Plugin for RequestSizeLimiting {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let headers = &exchange.request.headers;
        let declared: Option<u64> = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        if declared.is_none() && self.require_content_length && !headers.contains_key(TRANSFER_ENCODING) {
            return Reply::templated(KIND.name, StatusCode::LENGTH_REQUIRED, NO_LENGTH).into();
        }
        let held = exchange.body.whole().map(|body| body.len() as u64);
        if held.or(declared).is_some_and(|bytes| bytes > self.bytes_max) {
            let waits = headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
            let status = if waits { StatusCode::EXPECTATION_FAILED } else { StatusCode::PAYLOAD_TOO_LARGE };
            return Reply::templated(KIND.name, status, TOO_LARGE).into();
        }
        exchange.body.limit(self.bytes_max);
        Flow::Continue
    }
}

#[derive(Clone, Copy)]
struct Unit(u64);

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let units = [("megabytes", Unit(1 << 20)), ("kilobytes", Unit(1 << 10)), ("bytes", Unit(1))];
    let Unit(unit) = fields.choice("size_unit", &units).unwrap_or(Unit(1 << 20));
    let size = fields.integer("allowed_payload_size", 0..=i64::MAX).unwrap_or(128);
    Some(Arc::new(RequestSizeLimiting {
        bytes_max: (size as u64).saturating_mul(unit),
        require_content_length: fields.boolean("require_content_length").unwrap_or(false),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good, pass, reply};
    use crate::proxy::body::RequestBody;

    fn sent(headers: &[(&str, &str)]) -> Exchange {
        Exchange::for_test("POST", "/", headers)
    }

    #[test]
    fn a_declared_length_is_refused_at_once() {
        let plugin = good(&KIND, "{allowed_payload_size: 2, size_unit: kilobytes}");
        pass(&plugin, &mut sent(&[("content-length", "2048")]));
        assert_eq!(reply(&plugin, &mut sent(&[("content-length", "2049")])).status, 413);
        let waiting = [("content-length", "99999"), ("expect", "100-Continue")];
        assert_eq!(reply(&plugin, &mut sent(&waiting)).status, 417);
        pass(&good(&KIND, "{}"), &mut sent(&[("content-length", "134217728")]));
        assert_eq!(reply(&good(&KIND, "{}"), &mut sent(&[("content-length", "134217729")])).status, 413);
    }

    #[test]
    fn a_held_body_is_measured() {
        let plugin = good(&KIND, "{allowed_payload_size: 3, size_unit: bytes}");
        let mut ex = sent(&[("transfer-encoding", "chunked")]);
        ex.body = RequestBody::Whole("abcd".into());
        assert_eq!(reply(&plugin, &mut ex).status, 413);
        ex.body = RequestBody::Whole("abc".into());
        pass(&plugin, &mut ex);
    }

    #[test]
    fn a_length_may_be_required() {
        let plugin = good(&KIND, "{require_content_length: true}");
        assert_eq!(reply(&plugin, &mut sent(&[])).status, 411);
        pass(&plugin, &mut sent(&[("transfer-encoding", "chunked")]));
        pass(&plugin, &mut sent(&[("content-length", "0")]));
        pass(&good(&KIND, "{}"), &mut sent(&[]));
    }

    #[test]
    fn faults_are_told() {
        assert!(bad(&KIND, "{size_unit: gigabytes}").contains("size_unit"));
        assert!(bad(&KIND, "{allowed_payload_size: -1}").contains("an integer from 0"));
    }
}
