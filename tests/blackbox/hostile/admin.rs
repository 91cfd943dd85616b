//! The admin API against pages, forms, rebinding, rubbish and the data plane's detours.

use std::time::Duration;

use gateway_tests::deadline::say;
use gateway_tests::{Client, Gateway, Upstream};

use super::{is_refusal, statuses};

#[test]
fn nobody_gets_in_by_a_trick() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(super::CONFIG));
    let own = gateway.admin().to_string();
    let mut cases: Vec<(String, String)> = Vec::new();
    for host in [
        "evil.test",
        "",
        "a b",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "evil.test:8001",
        "1.2.3",
        "u@127.0.0.1",
        "0x7f000001",
        "2130706433",
        "127.1",
        "127.0.0.1/x",
    ] {
        cases.push((format!("Host {host:?}"), format!("GET /config HTTP/1.1\r\nHost: {host}\r\n\r\n")));
    }
    cases.push(("no host".into(), "GET /config HTTP/1.1\r\n\r\n".into()));
    cases.push(("two hosts".into(), format!("GET /config HTTP/1.1\r\nHost: {own}\r\nHost: evil.test\r\n\r\n")));
    let forged = |fields: &str| {
        let body = "_format_version: \"3.0\"\n";
        format!("POST /config HTTP/1.1\r\nHost: {own}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    for fields in [
        "Content-Type: text/plain\r\n",
        "Content-Type: text/plain; charset=utf-8\r\n",
        "Content-Type: TEXT/PLAIN\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Content-Type: application/json\r\nOrigin: http://evil.test\r\n",
        "Content-Type: application/json\r\nOrigin: null\r\n",
        "Content-Type: application/yaml\r\nOrigin: http://127.0.0.1:8001\r\n",
        "Transfer-Encoding: cow\r\n",
    ] {
        cases.push((fields.trim().to_owned(), forged(fields)));
    }
    for line in [
        "TRACE / HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "GET /../etc/passwd HTTP/1.1",
        "GET //config HTTP/1.1",
        "BREW / HTTP/1.1",
        "GET /config/../config HTTP/1.1",
        "GET /%63onfig HTTP/1.1",
        "PUT /config HTTP/1.1",
        "DELETE /config HTTP/1.1",
    ] {
        cases.push((line.to_owned(), format!("{line}\r\nHost: {own}\r\n\r\n")));
    }
    for (what, bytes) in &cases {
        let mut client = Client::connect(gateway.admin());
        client.write(bytes.as_bytes()).unwrap();
        client.patience(Duration::from_secs(5));
        let _ = client.await_byte();
        let (read, closed) = client.drain(Duration::from_millis(100));
        let answers = statuses(&read);
        assert!(answers.first().map_or(closed, |status| is_refusal(*status)), "{what}: {answers:?}");
        assert!(!String::from_utf8_lossy(&read).contains("_format_version"), "{what}: the configuration is told");
    }
    gateway.get("/pub/x").expect(200);
    assert!(gateway.runs());
    say(&format!("CASES admin: {}", cases.len()));
}

#[test]
fn the_proxy_is_no_way_to_it() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(super::CONFIG));
    let own = gateway.admin();
    for bytes in [
        format!("GET http://{own}/config HTTP/1.1\r\nHost: {own}\r\n\r\n"),
        format!("GET /config HTTP/1.1\r\nHost: {own}\r\n\r\n"),
        format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\n"),
        format!("GET @{own}/config HTTP/1.1\r\nHost: {own}\r\n\r\n"),
        format!("GET /status HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: {own}\r\n\r\n"),
    ] {
        let mut client = gateway.connect();
        client.write(bytes.as_bytes()).unwrap();
        let (read, closed) = client.drain(Duration::from_millis(300));
        assert!(statuses(&read).first().map_or(closed, |status| is_refusal(*status)), "{bytes}");
    }
    say("CASES admin through the proxy: 5");
}
