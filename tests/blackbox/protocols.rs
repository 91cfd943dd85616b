//! HTTP/2 in the clear and by ALPN, TLS with the certificate that the name asks for.

use gateway_tests::tls::Pair;
use gateway_tests::{Client, Gateway, Request, Upstream, h2};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/] }]
"#;

fn secure(upstream: &Upstream, pairs: &[(&Pair, &[&str])]) -> Gateway {
    let entities: String = pairs.iter().map(|(pair, names)| format!("- {}\n", pair.entity(names))).collect();
    Gateway::start(&upstream.fill(&format!("{CONFIG}certificates:\n{entities}")))
}

#[test]
fn http2_with_prior_knowledge() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let requests: Vec<Request> = (0..20).map(|at| Request::get(&format!("/{at}"))).collect();
    let replies = h2::send_clear(gateway.proxy(), &requests);
    for (at, reply) in replies.into_iter().enumerate() {
        let reply = reply.expect(200);
        assert_eq!(reply.echoed_uri(), format!("/{at}"));
        assert_eq!(reply.json()["vars"]["server_protocol"], "HTTP/1.1");
        for name in ["connection", "keep-alive", "transfer-encoding"] {
            assert_eq!(reply.header(name), None, "{name} has no place in HTTP/2");
        }
    }
}

#[test]
fn http2_carries_bodies_cookies_and_hosts() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG).replace("[/] }", "[/], preserve_host: true }"));
    let body = "x".repeat(200_000);
    let requests = [
        Request::post("/", body.clone()).host("two.test"),
        Request::get("/").header("Cookie", "a=1").header("Cookie", "b=2"),
        Request::new("HEAD", "/"),
    ];
    let replies = h2::send_clear(gateway.proxy(), &requests);
    let post = replies[0].clone().expect(200);
    assert_eq!(post.json()["post_data"]["text"].as_str().map(str::len), Some(body.len()));
    assert_eq!(post.echoed("host").as_deref(), Some("two.test"));
    let cookies = replies[1].clone().expect(200);
    assert_eq!(cookies.echoed("cookie").as_deref(), Some("a=1; b=2"), "one field (RFC 9113 §8.2.3)");
    assert!(replies[2].clone().expect(200).body.is_empty());
    assert!(upstream.seen().iter().all(|seen| seen.faults.is_empty()));
}

#[test]
fn the_certificate_follows_the_name() {
    let upstream = Upstream::echo();
    let exact = Pair::new(&["a.test"]);
    let wild = Pair::new(&["*.wild.test"]);
    let gateway = secure(&upstream, &[(&exact, &["a.test"]), (&wild, &["*.wild.test"])]);
    let shown = |sni: &str| Client::connect_tls(gateway.proxy_tls(), sni).certificate;
    assert_eq!(shown("a.test").as_ref(), Some(&exact.der));
    assert_eq!(shown("x.wild.test").as_ref(), Some(&wild.der));
    let mut client = Client::connect_tls(gateway.proxy_tls(), "a.test");
    client.get("/one").expect(200);
    let reply = client.get("/two").expect(200);
    assert_eq!(reply.echoed("x-forwarded-proto").as_deref(), Some("https"));
}

#[test]
fn http2_by_alpn() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["a.test"]);
    let gateway = secure(&upstream, &[(&pair, &["a.test"])]);
    let requests = [Request::get("/one").host("a.test"), Request::get("/two").host("a.test")];
    let replies = h2::send_tls(gateway.proxy_tls(), "a.test", &requests);
    for (reply, uri) in replies.into_iter().zip(["/one", "/two"]) {
        let reply = reply.expect(200);
        assert_eq!(reply.echoed_uri(), uri);
        assert_eq!(reply.echoed("x-forwarded-proto").as_deref(), Some("https"));
    }
}

#[test]
fn plugins_work_the_same_over_http2() {
    let upstream = Upstream::echo();
    let text = upstream.fill(CONFIG).replace("[/] }", "[/], plugins: [{ name: key-auth }] }");
    let text = format!("{text}consumers:\n- {{ username: ann, keyauth_credentials: [{{ key: ann }}] }}\n");
    let gateway = Gateway::start(&text);
    let requests = [Request::get("/"), Request::get("/").header("apikey", "ann")];
    let replies = h2::send_clear(gateway.proxy(), &requests);
    replies[0].clone().expect_templated(401, "No API key found in request");
    assert_eq!(replies[1].clone().expect(200).echoed("x-consumer-username").as_deref(), Some("ann"));
}

#[test]
fn noise_on_the_tls_port_hurts_nobody() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["a.test"]);
    let gateway = secure(&upstream, &[(&pair, &["a.test"])]);
    let mut noise = Client::connect(gateway.proxy_tls());
    // The gateway may hang up before all of it is written.
    let _ = noise.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(noise.drain(std::time::Duration::from_secs(5)).1, "hung up");
    Client::connect_tls(gateway.proxy_tls(), "a.test").get("/").expect(200);
}
