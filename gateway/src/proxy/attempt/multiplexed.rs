//! An attempt at an upstream that speaks HTTP/2: services of protocol `grpc` and `grpcs`.

use std::future::Future;
use std::pin::pin;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};

use super::{Asked, Missed, authority, path_and_query, within};
use crate::config::snapshot::Target;
use crate::proxy::answer::{FromUpstream, Lent, Streamed};
use crate::proxy::body::Turn;
use crate::proxy::flight::Flight;
use crate::proxy::forward::Border;
use crate::proxy::h2::Unsent;
use crate::proxy::path::Answered;
use crate::proxy::reply::Refusal;
use crate::proxy::transport::Endpoint;

/// Sends the request on a stream of a connection to `endpoint`.
pub async fn try_target(
    flight: &mut Flight,
    asked: &Asked<'_>,
    target: &Target,
    endpoint: &Endpoint,
    body: Lent,
) -> Result<Answered, Missed> {
    let opening = flight.worker.streams.stream(endpoint, &flight.worker.tls, asked.now_ns);
    let stream = match tokio::time::timeout(asked.service.connect_timeout, opening).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Err(Missed { refusal: Refusal::UpstreamConnect, again: true }),
        Err(_) => return Err(Missed { refusal: Refusal::UpstreamConnectTimeout, again: true }),
    };
    let Some(request) = request(flight, asked, target, body.clone()) else {
        return Err(Missed { refusal: Refusal::BadRequest, again: false });
    };
    // How long a call lasts is for its two ends to say; who is silent for too long is judged below, and in its answer.
    body.unhurried();
    let client_max = flight.local.snapshot.settings.timeouts.request;
    let end = {
        let mut exchange = pin!(stream.send(request));
        // hyper takes the body in a task of its own; whose turn it is changes there.
        let exchange = pin!(std::future::poll_fn(|cx| {
            body.watch(cx.waker());
            exchange.as_mut().poll(cx)
        }));
        within(&flight.worker, asked, client_max, &body, exchange).await
    };
    match end {
        Some(Ok(response)) => {
            let (parts, incoming) = response.into_parts();
            let body = Streamed::new(incoming, body, stream);
            Ok(Answered::Response(parts, Box::new(FromUpstream::Stream(body))))
        }
        Some(Err(Unsent(unsent))) => Err(match body.failure() {
            Some(refusal) => Missed { refusal, again: false },
            None => Missed { refusal: Refusal::UpstreamClosed, again: unsent },
        }),
        None if asked.turn() == Turn::Client => Err(Missed { refusal: Refusal::RequestTimeout, again: false }),
        None => {
            stream.doubt();
            Err(Missed { refusal: Refusal::UpstreamTimeout, again: false })
        }
    }
}

/// The request for the upstream; nothing when it cannot be written as one of HTTP/2.
fn request(flight: &Flight, asked: &Asked<'_>, target: &Target, body: Lent) -> Option<http::Request<Lent>> {
    let ex = &flight.exchange;
    let marks = flight.local.snapshot.settings.marks;
    let border = Border::new(ex, ex.path.get(..asked.stripped).unwrap_or_default(), marks);
    let uri = http::Uri::builder()
        .scheme(if asked.service.tls { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(Authority::try_from(authority(flight, target)).ok()?)
        .path_and_query(PathAndQuery::try_from(path_and_query(ex).as_bytes()).ok()?)
        .build();
    let mut request = http::Request::new(body);
    *request.method_mut() = ex.upstream_method.as_ref().unwrap_or(&ex.request.method).clone();
    *request.uri_mut() = uri.ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers(&ex.request.headers, &border);
    Some(request)
}

fn headers(given: &HeaderMap, border: &Border<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(given.len() + 12);
    for (name, value) in given {
        // The length is that of the body, which a plugin may have changed; hyper tells it.
        if !border.withholds(name) && *name != HOST && *name != CONTENT_LENGTH {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in border.added() {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    // gRPC asks for it of every client.
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers
}
