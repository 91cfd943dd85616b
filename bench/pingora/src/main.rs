//! `pingora-peer LISTEN UPSTREAM`: forwards `/api/…` as `/…`, with one worker.

use async_trait::async_trait;
use pingora::prelude::*;

struct Forward {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }

    async fn upstream_request_filter(&self, _: &mut Session, request: &mut RequestHeader, _: &mut ()) -> Result<()> {
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path.strip_prefix("/api").unwrap_or(path);
        let uri = path.parse().or_err(ErrorType::InvalidHTTPHeader, "a path that is none")?;
        request.set_uri(uri);
        Ok(())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream] = arguments.as_slice() else {
        println!("pingora 0.9");
        return;
    };
    let mut server = Server::new(None).expect("the defaults are good");
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Forward { upstream: upstream.clone() });
    service.threads = Some(1);
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
