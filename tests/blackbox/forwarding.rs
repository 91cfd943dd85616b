//! What is said about the client to the upstream, and about the gateway to the client; whose word
//! counts; and which fields belong to one connection only.

use gateway_tests::{Answer, Gateway, Reply, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/api] }]
"#;

/// Where TLS ends before the gateway, a route for HTTPS must not send its callers round in a circle.
#[test]
fn https_in_front_of_a_trusted_proxy_is_https() {
    let upstream = Upstream::echo();
    let text = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/upgrade], protocols: [https], strip_path: false }
  - { paths: [/moved], protocols: [https], https_redirect_status_code: 308 }
gateway:
  trusted_ips: [127.0.0.5]
"#;
    let gateway = Gateway::start(&upstream.fill(text));
    let ask = |last: u8, path: &str, proto: &str| {
        let claims =
            [("X-Forwarded-Proto", proto), ("X-Forwarded-Host", "front.test"), ("X-Forwarded-Prefix", "/fake")];
        let request = claims.iter().fold(Request::get(path).host("in.test"), |r, (name, value)| r.header(name, value));
        gateway.connect_from([127, 0, 0, last]).send(&request)
    };
    let served = ask(5, "/upgrade", "https").expect(200);
    assert_eq!(served.echoed("x-forwarded-prefix").as_deref(), Some("/fake"), "also when nothing is stripped");
    ask(5, "/upgrade", "http").expect(426);
    ask(6, "/upgrade", "https").expect(426);
    let location = |last| ask(last, "/moved/a", "http").expect(308).header("location").map(str::to_owned);
    assert_eq!(location(5).as_deref(), Some("https://front.test/moved/a"));
    assert_eq!(location(6).as_deref(), Some("https://in.test/moved/a"));
}

fn scene(more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(&format!("{CONFIG}{more}")));
    (upstream, gateway)
}

fn claims() -> Request {
    Request::get("/api/a?b=1")
        .host("client.test:8123")
        .header("X-Forwarded-For", "10.9.8.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "front.test")
        .header("X-Forwarded-Port", "443")
        .header("X-Forwarded-Path", "/front")
        .header("X-Forwarded-Prefix", "/fake")
        .header("X-Real-IP", "10.9.8.7")
}

#[test]
fn a_strangers_claims_are_replaced() {
    let (_upstream, gateway) = scene("");
    let reply = gateway.connect_from([127, 0, 0, 5]).send(&claims()).expect(200);
    let seen = |name: &str| reply.echoed(name).unwrap_or_default();
    let last = seen("x-forwarded-for");
    assert_eq!(last.rsplit(", ").next(), Some("127.0.0.5"), "{last}");
    assert_eq!(seen("x-real-ip"), "127.0.0.5");
    assert_eq!(seen("x-forwarded-proto"), "http");
    assert_eq!(seen("x-forwarded-host"), "client.test");
    assert_eq!(seen("x-forwarded-port"), gateway.proxy().port().to_string());
    assert_eq!(seen("x-forwarded-path"), "/api/a");
    assert_eq!(seen("x-forwarded-prefix"), "/api");
}

#[test]
fn a_trusted_proxys_claims_count() {
    let (_upstream, gateway) = scene("gateway:\n  trusted_ips: [127.0.0.5]\n");
    let reply = gateway.connect_from([127, 0, 0, 5]).send(&claims()).expect(200);
    let seen = |name: &str| reply.echoed(name).unwrap_or_default();
    assert_eq!(seen("x-forwarded-for"), "10.9.8.7, 127.0.0.5");
    assert_eq!(seen("x-real-ip"), "10.9.8.7");
    assert_eq!(seen("x-forwarded-proto"), "https");
    assert_eq!(seen("x-forwarded-host"), "front.test");
    assert_eq!(seen("x-forwarded-port"), "443");
    assert_eq!(seen("x-forwarded-path"), "/front");
    assert_eq!(seen("x-forwarded-prefix"), "/fake");
    // Where no chain was begun, the client is all of it (Kong).
    let named = Request::get("/api").header("X-Real-IP", "10.9.8.7");
    let reply = gateway.connect_from([127, 0, 0, 5]).send(&named).expect(200);
    assert_eq!(reply.echoed("x-forwarded-for").as_deref(), Some("10.9.8.7"));
    let stranger = gateway.connect_from([127, 0, 0, 6]).send(&claims()).expect(200);
    assert_eq!(stranger.echoed("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(stranger.echoed("x-real-ip").as_deref(), Some("127.0.0.6"));
}

#[test]
fn the_gateway_names_itself_and_the_request() {
    let (_upstream, gateway) = scene("");
    let proxied = gateway.get("/api").expect(200);
    let id = |reply: &Reply| reply.header("x-kong-request-id").unwrap_or_default().to_owned();
    assert_eq!(id(&proxied).len(), 32);
    assert_eq!(proxied.echoed("x-kong-request-id"), Some(id(&proxied)));
    assert!(proxied.header("via").is_some_and(|via| via.starts_with("1.1 gateway/")));
    assert!(proxied.echoed("via").is_some_and(|via| via.starts_with("1.1 gateway/")));
    assert_eq!(proxied.header("server"), Some("mock-upstream/1.0.0"));
    assert!(proxied.number("x-kong-upstream-latency") >= 0);
    assert!(proxied.number("x-kong-proxy-latency") >= 0);
    assert_eq!(proxied.header("x-kong-response-latency"), None);

    let own = gateway.get("/nowhere").expect(404);
    assert!(own.header("server").is_some_and(|server| server.starts_with("gateway/")));
    assert!(own.number("x-kong-response-latency") >= 0);
    assert_eq!(own.header("x-kong-upstream-latency"), None);
    assert_eq!(own.header("via"), None);
    assert_ne!(id(&own), id(&proxied));
    // The client does not choose the id.
    let chosen = Request::get("/api").header("X-Kong-Request-Id", "mine");
    assert_ne!(gateway.send(&chosen).expect(200).echoed("x-kong-request-id").as_deref(), Some("mine"));
}

#[test]
fn fields_of_one_connection_stay_on_it() {
    let (_upstream, gateway) = scene("");
    let request = Request::get("/api")
        .header("Connection", "keep-alive, X-Private, X-Forwarded-For, Host, Authorization")
        .header("X-Private", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Proxy", "http://evil.test")
        .header("TE", "trailers, deflate")
        .header("Upgrade", "h2c")
        .header("Authorization", "Bearer x");
    let reply = gateway.send(&request).expect(200);
    for name in ["x-private", "keep-alive", "proxy-connection", "proxy", "upgrade"] {
        assert_eq!(reply.echoed(name), None, "{name}");
    }
    assert!(reply.echoed("te").is_none_or(|te| te == "trailers"));
    assert!(reply.echoed("connection").is_none_or(|value| !value.contains("rivate")));
    // What the gateway itself says, and what the route needs, cannot be named away.
    assert!(reply.echoed("x-forwarded-for").is_some());
    assert!(reply.echoed("host").is_some());
    assert_eq!(reply.echoed("authorization").as_deref(), Some("Bearer x"));
}

#[test]
fn an_upstreams_connection_fields_stay_there_too() {
    let upstream = Upstream::new(|_| {
        let fields = [
            ("Connection", "keep-alive, X-Inner"),
            ("Keep-Alive", "timeout=5"),
            ("X-Inner", "1"),
            ("X-Outer", "1"),
            ("Proxy-Authenticate", "Basic"),
        ];
        Answer::reply(200, &fields, b"ok")
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let reply = gateway.get("/api").expect(200);
    assert_eq!(reply.header("keep-alive"), None);
    assert_eq!(reply.header("x-inner"), None);
    assert_eq!(reply.header("x-outer"), Some("1"));
    assert_eq!(reply.text(), "ok");
}

#[test]
fn other_fields_pass_as_they_are() {
    let (upstream, gateway) = scene("");
    let request = Request::get("/api")
        .header("Cookie", "a=1; b=2")
        .header("Accept", "text/html, */*;q=0.1")
        .header("X-Many", "one")
        .header("X-Many", "two")
        .header("X-Empty", "");
    gateway.send(&request).expect(200);
    let seen = upstream.last();
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.all("accept"), ["text/html, */*;q=0.1"]);
    assert_eq!(seen.all("x-many"), ["one", "two"]);
    assert_eq!(seen.all("x-empty"), [""]);
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
}

#[test]
fn the_scheme_follows_the_connection() {
    let upstream = Upstream::echo();
    let pair = gateway_tests::tls::Pair::new(&["a.test"]);
    let text = format!("{CONFIG}certificates:\n- {}\n", pair.entity(&["a.test"]));
    let gateway = Gateway::start(&upstream.fill(&text));
    let secure = gateway_tests::Client::connect_tls(gateway.proxy_tls(), "a.test").get("/api").expect(200);
    assert_eq!(secure.echoed("x-forwarded-proto").as_deref(), Some("https"));
    let port = gateway.proxy_tls().port().to_string();
    assert_eq!(secure.echoed("x-forwarded-port"), Some(port));
    assert_eq!(gateway.get("/api").echoed("x-forwarded-proto").as_deref(), Some("http"));
}
