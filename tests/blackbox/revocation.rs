//! What a credential opened ends with it: kept connections, streams and tunnels of whoever a new configuration does not
//! know any more are reset at once; everybody else's go on.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::h2frames::{END_STREAM, Frames, Outcome};
use gateway_tests::jwt::hmac_token;
use gateway_tests::tls::Pair;
use gateway_tests::{Answer, Client, Gateway, Request, Upstream, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

/// Far longer than it takes; far shorter than a connection may be idle.
const AT_ONCE: Duration = Duration::from_secs(10);

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: key, paths: [/key, /slow], strip_path: false, plugins: [{ name: key-auth }] }
  - { name: basic, paths: [/basic], plugins: [{ name: basic-auth }] }
  - { name: jwt, paths: [/jwt], plugins: [{ name: jwt }] }
  - { name: hmac, paths: [/hmac], plugins: [{ name: hmac-auth }] }
consumers:
- username: ann
  keyauth_credentials: [{ key: ann-key }]
  basicauth_credentials: [{ username: ann, password: ann-word }]
  jwt_secrets: [{ key: ann-iss, secret: ann-secret }]
  hmacauth_credentials: [{ username: ann, secret: ann-seal }]
- username: ben
  keyauth_credentials: [{ key: ben-key }]
"#;

const WEBSOCKET: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

fn key(target: &str, key: &str) -> Request {
    Request::get(target).header("apikey", key)
}

/// Signed by ann with a date of now.
fn sealed(target: &str) -> Request {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let seal = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"ann-seal"), format!("date: {date}").as_bytes());
    let words = "hmac username=\"ann\", algorithm=\"hmac-sha256\", headers=\"date\"";
    let value = format!("{words}, signature=\"{}\"", STANDARD.encode(seal));
    Request::get(target).header("Date", &date).header("Authorization", &value)
}

fn without_ann(text: &str) -> String {
    let (start, rest) = text.split_once("- username: ann").unwrap();
    format!("{start}- username: ben{}", rest.split_once("- username: ben").unwrap().1)
}

/// A kept connection on which the request was answered with 200.
fn kept(gateway: &Gateway, request: &Request) -> Client {
    let mut client = gateway.connect();
    client.send(request).expect(200);
    client
}

fn tunnel(gateway: &Gateway, with: &str) -> Client {
    let mut client = gateway.connect();
    let request = WEBSOCKET.iter().fold(key("/key", with), |request, (name, value)| request.header(name, value));
    client.send(&request).expect(101);
    client.write(b"ping").unwrap();
    assert_eq!(client.read_exact(4).unwrap(), b"ping");
    client
}

fn get<'a>(path: &'a [u8], key: &'a [u8]) -> [(&'a [u8], &'a [u8]); 5] {
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a"), (b"apikey", key)]
}

fn multiplexed(gateway: &Gateway, key: &[u8]) -> Frames {
    let mut frames = Frames::connect(gateway.proxy()).unwrap();
    frames.headers(1, &get(b"/key", key), END_STREAM).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    frames
}

fn ended(gateway: &Gateway) -> u64 {
    let metrics = gateway.admin_get("/metrics").text();
    let line = metrics.lines().find_map(|l| l.strip_prefix("gateway_connections_ended_total{reason=\"revoked\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn every_kind_of_credential_takes_its_connections_with_it() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let token = hmac_token("HS256", &json!({ "iss": "ann-iss" }), b"ann-secret");
    let mut ann = [
        ("key-auth", kept(&gateway, &key("/key", "ann-key"))),
        // ann:ann-word
        ("basic-auth", kept(&gateway, &Request::get("/basic").header("Authorization", "Basic YW5uOmFubi13b3Jk"))),
        ("jwt", kept(&gateway, &Request::get("/jwt").header("Authorization", &format!("Bearer {token}")))),
        ("hmac-auth", kept(&gateway, &sealed("/hmac"))),
        ("websocket", tunnel(&gateway, "ann-key")),
    ];
    let mut frames = multiplexed(&gateway, b"ann-key");
    let (mut ben, mut bens_tunnel) = (kept(&gateway, &key("/key", "ben-key")), tunnel(&gateway, "ben-key"));
    let mut nobody = gateway.connect();
    nobody.get("/key").expect(401);
    eventually("all are open", || gateway.status()["server"]["connections_active"] == 9);

    gateway.reload(&without_ann(&upstream.fill(CONFIG)), || ended(&gateway) == 6);
    for (what, client) in &mut ann {
        assert!(client.is_reset_within(AT_ONCE), "{what}");
    }
    assert!(frames.is_reset(), "HTTP/2");
    ben.send(&key("/key", "ben-key")).expect(200);
    bens_tunnel.write(b"pong").unwrap();
    assert_eq!(bens_tunnel.read_exact(4).unwrap(), b"pong");
    nobody.get("/key").expect(401);
    eventually("the gauge has no more of them", || gateway.status()["server"]["connections_active"] == 3);
    assert_eq!(ended(&gateway), 6);
}

#[test]
fn a_changed_file_and_the_admin_api_revoke_too() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = kept(&gateway, &key("/key", "ann-key"));
    gateway.replace_file(&upstream.fill(CONFIG).replace("ann-key", "other-key"));
    assert!(client.is_reset_within(AT_ONCE), "a key that was replaced");

    let mut client = kept(&gateway, &key("/key", "other-key"));
    let text = std::fs::read_to_string(gateway.config_file()).unwrap();
    gateway.admin_post("/config", "application/yaml", &without_ann(&text)).expect(201);
    assert!(client.is_reset_within(AT_ONCE), "a consumer that was removed");
}

#[test]
fn the_same_credentials_in_another_file_stay() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = kept(&gateway, &key("/key", "ann-key"));
    let mut tunnel = tunnel(&gateway, "ann-key");
    let more = format!("{}- username: eve\n", upstream.fill(CONFIG));
    gateway.reload(&more, || gateway.status()["config"]["consumers"] == 3);
    client.send(&key("/key", "ann-key")).expect(200);
    tunnel.write(b"ping").unwrap();
    assert_eq!(tunnel.read_exact(4).unwrap(), b"ping");
    assert_eq!(ended(&gateway), 0);
}

#[test]
fn by_tls_it_is_a_reset_too() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["a.test"]);
    let text = upstream.fill(&format!("{CONFIG}certificates:\n- {}\n", pair.entity(&["a.test"])));
    let gateway = Gateway::start(&text);
    let mut client = Client::connect_tls(gateway.proxy_tls(), "a.test");
    client.send(&key("/key", "ann-key").host("a.test")).expect(200);
    gateway.replace_file(&text.replace("ann-key", "other-key"));
    gateway.signal(Signal::SIGHUP);
    assert!(client.is_reset_within(AT_ONCE));
}

#[test]
fn an_answer_in_flight_is_cut() {
    let upstream = Upstream::new(|_| Answer::Stall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345".to_vec()));
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    let request = key("/slow", "ann-key");
    client.write(&request.head_bytes()).unwrap();
    client.read_head().unwrap().expect(200);
    gateway.replace_file(&upstream.fill(CONFIG).replace("ann-key", "other-key"));
    assert!(client.is_reset_within(AT_ONCE));
}

/// A key that is taken away while its request waits for the body opens nothing more.
#[test]
fn a_request_that_was_waiting_is_not_sent() {
    let upstream = Upstream::echo();
    let text = upstream.fill(CONFIG).replace("{ name: key-auth }", "{ name: key-auth, config: { key_in_body: true } }");
    let gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    let body = b"apikey=ann-key";
    let request = Request::post("/key", body).header("Content-Type", "application/x-www-form-urlencoded");
    client.write(&request.head_bytes()).unwrap();
    client.write(&body[..7]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    gateway.reload(&text.replace("ann-key", "other-key"), || {
        gateway.connect().try_send(&key("/key", "other-key")).is_ok_and(|reply| reply.status == 200)
    });
    let before = upstream.count();
    client.write(&body[7..]).unwrap();
    let refused = client.read_reply("POST").map_or(true, |reply| reply.status == 401);
    assert!(refused && upstream.count() == before, "{refused}: {:?}", upstream.seen());
}

/// A load balancer's connection carries many people: who is still known must not lose an answer.
#[test]
fn behind_a_trusted_proxy_the_others_on_the_connection_go_on() {
    let stalled = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    let upstream = Upstream::new(|seen| match &*seen.target {
        "/slow" => Answer::Stall(stalled.to_vec()),
        _ => Answer::reply(200, &[], b"here"),
    });
    let text = upstream.fill(&format!("{CONFIG}gateway:\n  trusted_ips: [127.0.0.1]\n"));
    let gateway = Gateway::start(&text);
    let mut shared = Frames::connect(gateway.proxy()).unwrap();
    shared.headers(1, &get(b"/slow", b"ann-key"), END_STREAM).unwrap();
    assert_eq!(shared.outcome(1), Outcome::Status(200));
    shared.headers(3, &get(b"/key", b"ben-key"), END_STREAM).unwrap();
    assert_eq!(shared.outcome(3), Outcome::Status(200));
    let mut idle = kept(&gateway, &key("/key", "ann-key"));
    let mut busy = gateway.connect();
    busy.write(&key("/slow", "ann-key").head_bytes()).unwrap();
    busy.read_head().unwrap().expect(200);

    gateway.replace_file(&text.replace("ann-key", "other-key"));
    assert!(busy.is_reset_within(AT_ONCE), "it serves whoever is gone, and nobody else");
    assert!(matches!(shared.outcome(1), Outcome::Reset(_)), "the stream alone");
    shared.headers(5, &get(b"/key", b"ben-key"), END_STREAM).unwrap();
    assert_eq!(shared.outcome(5), Outcome::Status(200));
    idle.send(&key("/key", "ben-key")).expect(200);
    idle.send(&key("/key", "ann-key")).expect(401);
}
