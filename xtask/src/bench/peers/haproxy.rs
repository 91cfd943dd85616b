//! haproxy.

use anyhow::Result;

use super::{LIMIT_NEVER, Stage, UPSTREAM_CONNECTIONS};
use crate::bench::duty::{Duty, Policy};
use crate::bench::server::{Server, free, write};

pub fn start(stage: &Stage<'_>, duty: Duty) -> Result<Server> {
    let address = free()?;
    let folder = stage.place.folder_of(&format!("haproxy-{}", address.port()))?;
    let tls =
        if duty.tls { format!(" ssl crt {} ssl-min-ver TLSv1.3", stage.keys.pair.display()) } else { String::new() };
    let http2 = match (duty.http2, duty.tls) {
        (true, false) => " proto h2",
        (true, true) => " alpn h2",
        _ => "",
    };
    let limit = |most: u32| {
        format!(
            "  stick-table type ip size 100k expire 60s store http_req_rate(60s)\n  http-request track-sc0 src\n\
             \x20 http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {most} }}\n"
        )
    };
    let policy = match duty.policy {
        Policy::LimitNeverHit => limit(LIMIT_NEVER),
        Policy::LimitAlwaysHit => limit(1),
        Policy::Jwt => format!(
            "  http-request set-var(txn.bearer) http_auth_bearer\n\
             \x20 http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')\n\
             \x20 http-request deny unless {{ var(txn.alg) -m str RS256 }}\n\
             \x20 http-request deny unless {{ var(txn.bearer),jwt_verify(txn.alg,\"{}\") 1 }}\n",
            stage.keys.public.display()
        ),
        _ => String::new(),
    };
    let text = format!(
        "global\n  nbthread 1\n  maxconn 9800\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 3600s\n  timeout server 60s\n  http-reuse always\n\
         frontend front\n  bind {address}{tls}{http2}\n{policy}  use_backend up if {{ path_beg /api/ }}\n\
         backend up\n  http-request replace-path /api/(.*) /\\1\n  server one {upstream} pool-max-conn {UPSTREAM_CONNECTIONS}\n",
        upstream = stage.upstream
    );
    let file = write(&folder, "haproxy.cfg", &text)?;
    let mut command = stage.place.pinned("haproxy")?;
    command.arg("-db").arg("-f").arg(file);
    Server::start(address, &mut command, &folder)
}
