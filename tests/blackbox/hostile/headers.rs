//! Who the client is and what stays on its side: spoofed identity, hop-by-hop fields, names with underscores, fields by
//! which an upstream could be told another story.

use gateway_tests::upstream::{Seen, response};
use gateway_tests::{Answer, Gateway, Request, Upstream};

use super::{Case, Refused, Safe, Served, case, get, post, run};

fn last_forwarded(seen: &Seen) -> Option<String> {
    let all = seen.all("x-forwarded-for").join(", ");
    all.rsplit(',').next().map(|last| last.trim().to_owned())
}

fn spoofs() -> Vec<Case> {
    let mut out = Vec::new();
    for value in
        ["1.2.3.4", "127.0.0.1", "1.2.3.4, 5.6.7.8", "", ",", "unknown", "evil", "::1", "[::1]:80", "1.2.3.4\t"]
    {
        let fields = format!("X-Forwarded-For: {value}\r\n");
        out.push(
            case(format!("X-Forwarded-For {value:?}"), Served, get(&fields))
                .check(|seen| last_forwarded(seen).as_deref() == Some("127.0.0.1")),
        );
    }
    let two = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n";
    out.push(
        case("two X-Forwarded-For", Served, get(two))
            .check(|seen| last_forwarded(seen).as_deref() == Some("127.0.0.1")),
    );
    for (name, value, own) in [
        ("X-Real-IP", "1.2.3.4", Some("127.0.0.1")),
        ("X-Forwarded-Proto", "https", Some("http")),
        ("X-Forwarded-Host", "evil.test", Some("gw.test")),
        ("X-Forwarded-Port", "443", None),
        ("X-Forwarded-Path", "/evil", Some("/pub/x")),
        ("X-Forwarded-Prefix", "/evil", None),
        ("Forwarded", "for=1.2.3.4;host=evil.test", None),
        ("Proxy", "http://evil.test", None),
        ("X-Kong-Request-Id", "evil", None),
        ("Via", "1.1 evil, 1.1 evil", None),
    ] {
        let fields = format!("{name}: {value}\r\n{name}: {value}\r\n");
        out.push(case(format!("a spoofed {name}"), Safe, get(&fields)).check(move |seen| {
            let told = seen.all(name);
            let spoofed = name != "Via" && told.contains(&value);
            !spoofed && own.is_none_or(|own| told == [own])
        }));
    }
    for name in [
        "Content_Length",
        "Transfer_Encoding",
        "Host_",
        "X_Forwarded_For",
        "X_Real_IP",
        "X_Consumer_ID",
        "X_Consumer_Username",
        "X-Consumer_Username",
        "X_Credential_Identifier",
        "X_Anonymous_Consumer",
        "X_Authenticated_Groups",
        "X_Kong_Request_Id",
        "Proxy_Authorization",
        "Author_ization",
    ] {
        out.push(case(format!("{name} with underscores"), Safe, get(&format!("{name}: 5\r\n"))).check(|seen| {
            // A name that no field of ours can be taken for may pass; the strict reader judges it.
            seen.faults.is_empty()
        }));
    }
    out
}

#[test]
fn identity_is_the_gateways_word() {
    run("spoofed identity", spoofs());
}

fn hops() -> Vec<Case> {
    let mut out = Vec::new();
    for (named, field) in [
        ("X-Forwarded-For", "X-Forwarded-For: 1.2.3.4"),
        ("Host", "X-A: b"),
        ("Content-Length", "X-A: b"),
        ("Transfer-Encoding", "X-A: b"),
        ("X-Real-IP", "X-A: b"),
        ("X-Forwarded-Proto", "X-A: b"),
        ("X-Forwarded-Host", "X-A: b"),
        ("Authorization", "Authorization: Basic YTpi"),
        ("Cookie", "Cookie: a=b"),
        ("Content-Type", "Content-Type: text/plain"),
        ("Via", "X-A: b"),
        ("X-Kong-Request-Id", "X-A: b"),
    ] {
        let fields = format!("Connection: close, {named}\r\n{field}\r\nContent-Length: 5\r\n");
        out.push(case(format!("nominated {named}"), Safe, post(&fields, "hello")).check(move |seen| {
            let stays = match named {
                // It came with the request and cannot be nominated away, or is set by the gateway itself.
                "Transfer-Encoding" => true,
                name => seen.header(name).is_some(),
            };
            stays && seen.body == b"hello" && last_forwarded(seen).as_deref() == Some("127.0.0.1")
        }));
    }
    for (what, fields) in [
        ("a nominated field", "Connection: X-Hop\r\nX-Hop: 1\r\n"),
        ("nominated in a list", "Connection: close, X-Hop\r\nX-Hop: 1\r\n"),
        ("nominated in another case", "Connection: x-HOP\r\nX-Hop: 1\r\n"),
        ("nominated in a second field", "Connection: close\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"),
        ("nominated with blanks", "Connection:  ,, X-Hop ,\r\nX-Hop: 1\r\n"),
        ("keep-alive", "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"),
        ("proxy-connection", "Proxy-Connection: keep-alive\r\n"),
        ("te", "Connection: TE\r\nTE: gzip\r\n"),
        ("trailer", "Trailer: X-A\r\n"),
        ("upgrade", "Upgrade: foo\r\n"),
        ("nominated twice", "Connection: X-Hop\r\nX-Hop: 1\r\nX-Hop: 2\r\n"),
    ] {
        out.push(case(what, Safe, get(fields)).check(|seen| {
            let hop = ["x-hop", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "connection"];
            hop.iter().all(|name| seen.header(name).is_none())
        }));
    }
    out.push(case("a thousand nominations", Safe, get(&format!("Connection: {}\r\n", "x,".repeat(1000)))));
    out
}

#[test]
fn hop_by_hop_fields_end_here() {
    run("hop-by-hop", hops());
}

#[test]
fn hop_by_hop_fields_of_answers_end_here() {
    let cases: [(&str, &str); 5] = [
        ("Connection: close, X-Hop\r\nX-Hop: 1\r\n", "x-hop"),
        ("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n", "keep-alive"),
        ("Proxy-Connection: close\r\n", "proxy-connection"),
        ("Upgrade: h2c\r\n", "upgrade"),
        ("Trailer: X-A\r\n", "trailer"),
    ];
    for (fields, gone) in cases {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into_bytes();
        let upstream = Upstream::new(move |seen| match &*seen.target {
            "/pub/x" => Answer::Bytes(bytes.clone()),
            _ => Answer::Bytes(response(200, &[], b"next")),
        });
        let gateway = Gateway::start(&upstream.fill(super::CONFIG));
        let reply = gateway.get("/pub/x").expect(200);
        assert!(reply.header(gone).is_none(), "{fields:?}: {reply:?}");
        assert_eq!(reply.text(), "ok");
    }
    gateway_tests::deadline::say(&format!("CASES hop-by-hop of answers: {}", cases.len()));
}

#[test]
fn a_consumer_is_never_taken_from_the_client() {
    let names = [
        "X-Consumer-ID",
        "X-Consumer-Username",
        "X-Consumer-Custom-ID",
        "X-Credential-Identifier",
        "X-Anonymous-Consumer",
        "X-Consumer-Groups",
        "X-Authenticated-Groups",
        "x-consumer-username",
        "X-CONSUMER-USERNAME",
    ];
    let upstream = Upstream::echo();
    let text = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/pub], plugins: [{ name: key-auth }] }
consumers:
- { username: alice, custom_id: a-1, keyauth_credentials: [{ key: alice-key }] }
"#;
    let gateway = Gateway::start(&upstream.fill(text));
    for name in names {
        let request = Request::get("/pub/x").header("apikey", "alice-key").header(name, "root");
        for request in [request.clone().header("Connection", name), request] {
            let reply = gateway.send(&request).expect(200);
            assert!(!reply.text().contains("root"), "{name}: {}", reply.text());
            assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("alice"), "{name}");
        }
    }
    gateway_tests::deadline::say(&format!("CASES spoofed consumers: {}", names.len() * 2));
}

fn refused() -> Vec<Case> {
    vec![
        case("a Connection that is no list", Safe, get("Connection: a b c\r\n")),
        case("an Upgrade over HTTP/1.0", Safe, get("Upgrade: websocket\r\n").replace("HTTP/1.1", "HTTP/1.0")),
        case("a websocket by POST", Refused, {
            post("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nContent-Length: 0\r\n", "")
        }),
    ]
}

#[test]
fn odd_connection_fields() {
    run("odd connection fields", refused());
}
