//! nginx, as a proxy and as the upstream of all.

use std::net::SocketAddr;

use anyhow::Result;

use super::{CONNECTIONS_MAX, Stage, UPSTREAM_CONNECTIONS};
use crate::bench::duty::{Duty, Policy};
use crate::bench::server::{Place, Server, free, write};

/// A tiny body for every path, and `/100k` and `/1m`.
///
/// # Errors
/// It did not start.
pub fn upstream(place: &Place<'_>) -> Result<Server> {
    let address = free()?;
    let folder = place.folder_of("bodies")?;
    std::fs::write(folder.join("100k"), vec![b'x'; 100_000])?;
    std::fs::write(folder.join("1m"), vec![b'x'; 1_000_000])?;
    let http = format!(
        "sendfile on; open_file_cache max=10; server {{ listen {address} reuseport; keepalive_requests 100000000;\n\
         location / {{ default_type text/plain; return 200 \"hello\"; }}\n\
         location = /100k {{ root {0}; }}\nlocation = /1m {{ root {0}; }} }}",
        folder.display()
    );
    run(place, "upstream", address, &http)
}

pub fn start(stage: &Stage<'_>, duty: Duty) -> Result<Server> {
    let address = free()?;
    let (listen, tls) = if duty.tls {
        let (certificate, key) = (stage.keys.certificate.display(), stage.keys.certificate_key.display());
        (" ssl", format!("ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;\n"))
    } else {
        ("", String::new())
    };
    let http2 = if duty.http2 { " http2" } else { "" };
    let (zone, limit) = match duty.policy {
        Policy::LimitNeverHit => (
            "limit_req_zone $binary_remote_addr zone=z:10m rate=1000000r/s;",
            "limit_req zone=z burst=1000000 nodelay;",
        ),
        Policy::LimitAlwaysHit => ("limit_req_zone $binary_remote_addr zone=z:10m rate=1r/m;", "limit_req zone=z;"),
        _ => ("", ""),
    };
    let http = format!(
        "{zone}\nupstream up {{ server {upstream}; keepalive {UPSTREAM_CONNECTIONS}; keepalive_requests 100000000; }}\n\
         server {{ listen {address}{listen}{http2}; keepalive_requests 100000000; limit_req_status 429;\n{tls}\
         location /api/ {{ {limit} proxy_pass http://up/; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}",
        upstream = stage.upstream
    );
    run(&stage.place, "nginx", address, &http)
}

fn run(place: &Place<'_>, name: &str, address: SocketAddr, http: &str) -> Result<Server> {
    let folder = place.folder_of(&format!("{name}-{}", address.port()))?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let text = format!(
        "worker_processes 1;\nworker_rlimit_nofile {descriptors};\ndaemon off;\npid {0}/pid;\nerror_log {0}/error.log crit;\n\
         events {{ worker_connections {descriptors}; }}\nhttp {{\naccess_log off;\nkeepalive_timeout 3600s;\n{temporary}{http}\n}}\n",
        folder.display(),
        descriptors = 2 * CONNECTIONS_MAX,
    );
    let file = write(&folder, "nginx.conf", &text)?;
    let mut command = place.pinned("nginx")?;
    command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(&folder).arg("-c").arg(file);
    Server::start(address, &mut command, &folder)
}
