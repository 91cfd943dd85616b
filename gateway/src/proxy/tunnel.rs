//! A WebSocket after its handshake: bytes both ways until one side ends. It must not know frames.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::h1::Upgraded;
use super::transport::Transport;

/// Joins the two sides once hyper has sent the 101.
pub fn spawn(client: OnUpgrade, mut upstream: Upgraded<Transport>) {
    tokio::task::spawn_local(async move {
        if let Ok(client) = client.await {
            let mut client = TokioIo::new(client);
            // Either side may end it at any time; there is nobody to tell.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        }
    });
}
