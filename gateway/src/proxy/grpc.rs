//! What a route for gRPC asks of a request before any plugin sees it (Kong's answers). Must not know gRPC's frames.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use http::{StatusCode, Version};

use super::exchange::Exchange;
use super::reply::Reply;
use crate::config::snapshot::Protocols;

/// The answer to a request that does not fit a route for `grpc` or `grpcs`; `None` for every other route.
#[must_use]
pub fn misfit(ex: &Exchange, route: Protocols) -> Option<Box<Reply>> {
    if !route.has(Protocols::ALL_GRPC) {
        return None;
    }
    let grpc = ex.request.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let reply = if !grpc {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Reply::templated("grpc_expected", status, "Non-gRPC request matched gRPC route")
    } else if ex.request.version != Version::HTTP_2 {
        Reply::templated("http2_expected", StatusCode::UPGRADE_REQUIRED, "Please use HTTP2 protocol")
            .with(CONNECTION, HeaderValue::from_static("Upgrade"))
            .with(UPGRADE, HeaderValue::from_static("HTTP/2"))
    } else if !route.has(Protocols::GRPC) && !ex.is_https() {
        Reply::empty("grpcs_expected", StatusCode::OK)
            .with(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .with(HeaderName::from_static("grpc-status"), HeaderValue::from_static("1"))
            .with(HeaderName::from_static("grpc-message"), HeaderValue::from_static("gRPC request matched gRPCs route"))
    } else {
        return None;
    };
    Some(Box::new(reply))
}
