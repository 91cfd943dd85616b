//! A connection of HTTP/1.1. Between requests it rests: hyper's state and its buffers, some 20 KiB (`cargo xtask bench peers
//! --scenario S9`), are given up until the next byte comes, so that a hundred thousand phones that say nothing cost little
//! more than their sockets.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::{HEAD_MAX, drive};
use super::watched::Watched;
use crate::proxy::answer::AnswerBody;
use crate::proxy::registry::{Entry, Order};

/// How a stretch of requests ended.
enum End {
    /// There is nothing more to do but to close the stream.
    Over(hyper::Result<()>),
    /// In quiet: hyper can go.
    Rest,
    /// A request asks for another protocol.
    Upgrade,
}

/// Serves requests from `stream`, which begins with the bytes of `early`, until it ends; nothing is returned if the registry
/// cut it.
pub async fn serve<S, F>(
    mut early: Bytes,
    mut stream: S,
    service: impl Fn(hyper::Request<Incoming>) -> F,
    entry: &Entry,
) -> Option<hyper::Result<()>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<hyper::Response<AnswerBody>, Infallible>>,
{
    entry.presence.lend(true);
    loop {
        let upgrades = Cell::new(false);
        let asked = |request: hyper::Request<Incoming>| {
            upgrades.set(upgrades.get() || request.headers().contains_key(http::header::UPGRADE));
            service(request)
        };
        let io = TokioIo::new(Watched::new(early, stream, Arc::clone(&entry.presence)));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX).header_read_timeout(None);
        let mut connection = Box::pin(builder.serve_connection(io, service_fn(asked)));
        let end = poll_fn(|cx| {
            let order = entry.order(cx.waker());
            let rests = order == Order::Rest && entry.presence.is_quiet();
            match order {
                Order::Go => {}
                Order::Rest => entry.rested(),
                Order::Finish => {}
                Order::Cut => return Poll::Ready(None),
            }
            // To be asked again changes nothing.
            if rests || order == Order::Finish {
                connection.as_mut().graceful_shutdown();
            }
            match connection.as_mut().poll(cx) {
                // Whoever is idle ends at once, and nothing is said to the client.
                Poll::Ready(Ok(())) if rests => Poll::Ready(Some(End::Rest)),
                Poll::Ready(end) => Poll::Ready(Some(End::Over(end))),
                Poll::Pending if upgrades.get() => Poll::Ready(Some(End::Upgrade)),
                Poll::Pending => Poll::Pending,
            }
        });
        match end.await? {
            End::Upgrade => {
                entry.presence.lend(false);
                let finish = http1::UpgradeableConnection::graceful_shutdown;
                return drive(Box::pin(Pin::into_inner(connection).with_upgrades()).as_mut(), finish, entry).await;
            }
            End::Over(end) => {
                let mut stream = Pin::into_inner(connection).into_parts().io.into_inner().into_inner();
                farewell(&mut stream, entry).await?;
                return Some(end);
            }
            End::Rest => {
                let parts = Pin::into_inner(connection).into_parts();
                stream = parts.io.into_inner().into_inner();
                early = parts.read_buf;
            }
        }
        // RFC 9112 §2.2: some end a body by an empty line more.
        early.advance(early.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count());
        if early.is_empty() {
            // Empty as they are, they hold hyper's buffer.
            drop(early);
            let Some(first) = rest(&mut stream, entry).await else {
                farewell(&mut stream, entry).await?;
                return None;
            };
            early = first.ok()?;
        }
    }
}

/// Says goodbye where the protocol has a word for it (RFC 8446 §6.1), before the stream is closed; nothing is returned if the
/// registry cuts it.
async fn farewell(stream: &mut (impl AsyncWrite + Unpin), entry: &Entry) -> Option<()> {
    entry.presence.part();
    // The peer may be gone already.
    entry.until(Order::Cut, stream.shutdown()).await.map(drop)
}

/// Waits for the first byte of the next request; nothing is returned if the connection is to end.
async fn rest(stream: &mut (impl AsyncRead + Unpin), entry: &Entry) -> Option<io::Result<Bytes>> {
    entry.presence.rest(true);
    let first = entry.until(Order::Finish, async {
        loop {
            let byte = stream.read_u8().await?;
            if !matches!(byte, b'\r' | b'\n') {
                return Ok(Bytes::copy_from_slice(&[byte]));
            }
        }
    });
    let first = first.await;
    entry.presence.rest(false);
    first
}
