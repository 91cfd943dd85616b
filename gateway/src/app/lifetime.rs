//! When everything listens it is told; when a configuration is replaced it is freed where nobody waits for that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::{App, Options};
use crate::background::Background;
use crate::config::Snapshot;
use crate::listen::Port;

/// Says where it listens, in the log and in the ready file.
pub fn announce(app: &App, admin: Option<SocketAddr>, options: &Options) -> anyhow::Result<()> {
    let those = |stream: bool, tls: bool, udp: bool| {
        let is_such = |port: &Port| (port.stream, port.tls, port.udp) == (stream, tls, udp);
        let addresses = app.listeners.iter().filter(|(_, port)| is_such(port));
        addresses.map(|(a, _)| a.to_string()).collect::<Vec<_>>()
    };
    let of = |tls| those(false, tls, false);
    let streams = |tls| those(true, tls, false);
    let edge = app.edge.as_ref().map_or(json!("off"), |e| e.status()["mode"]["in_force"].clone());
    tracing::info!(proxy = ?of(false), proxy_tls = ?of(true), admin = ?admin, workers = app.workers.0.len(), %edge, "ready");
    let Some(path) = &options.ready_file else { return Ok(()) };
    let ready = json!({
        "pid": std::process::id(), "proxy": of(false), "proxy_tls": of(true),
        "stream": streams(false), "stream_tls": streams(true),
        "stream_udp": those(true, false, true), "admin": admin.map(|a| a.to_string()),
    });
    let draft = path.with_extension("tmp");
    std::fs::write(&draft, ready.to_string()).with_context(|| format!("cannot write {}", draft.display()))?;
    std::fs::rename(&draft, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Holds a replaced configuration until nobody else does, so that the work of freeing it is not a worker's.
pub async fn retire(snapshot: Arc<Snapshot>, background: Arc<Background>) {
    let mut wait = Duration::from_millis(10);
    while Arc::strong_count(&snapshot) > 1 {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
    // Nobody waits for it.
    drop(background.run(move || drop(snapshot)));
}
