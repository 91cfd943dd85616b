//! A WebSocket after its handshake: bytes both ways, until it ends or its connection is cut. It must not know frames.

use std::rc::Rc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::h1::Upgraded;
use super::registry::{Order, Registered};
use super::relay;
use super::transport::Transport;
use super::worker::Seat;
use crate::limits::slots::Slot;

/// Joins the two sides once hyper has sent the 101. It holds a seat, which counts the tunnel as the connection that it is, so
/// that a drain waits for it, and its caller's slot; it ends when its connection is cut, or after a silence of `idle_max` to twice that.
pub fn spawn(
    held: (Seat, Option<Slot>),
    connection: Rc<Registered>,
    client: OnUpgrade,
    upstream: Upgraded<Transport>,
    idle_max: Duration,
) {
    tokio::task::spawn_local(async move {
        let _held = held;
        if let Ok(client) = client.await {
            connection.entry.presence.carry();
            let joined = relay::join(TokioIo::new(client), upstream, idle_max);
            connection.entry.until(Order::Cut, joined).await;
        }
    });
}
