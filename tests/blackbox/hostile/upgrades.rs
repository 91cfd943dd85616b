//! Ways out of HTTP: only a WebSocket that the client asked for and the upstream granted becomes a tunnel. `h2c` is never
//! forwarded, and a refused handshake leaves HTTP as it was.

use std::time::Duration;

use gateway_tests::{Answer, Gateway, Upstream};

use super::{Case, H, Refused, Safe, case, get, post, run, statuses};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

fn cases() -> Vec<Case> {
    let settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let mut out = Vec::new();
    for (what, fields) in [
        ("h2c", format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{settings}")),
        ("h2c not nominated", format!("Upgrade: h2c\r\n{settings}")),
        ("h2c in a list", format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket, h2c\r\n{settings}{KEY}")),
        ("h2c in two fields", "Connection: Upgrade\r\nUpgrade: foo\r\nUpgrade: h2c\r\n".into()),
        ("h2c in capitals", "Connection: Upgrade\r\nUpgrade: H2C\r\n".into()),
        ("h2", "Connection: Upgrade\r\nUpgrade: h2\r\n".into()),
        ("TLS", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n".into()),
        ("an unknown protocol", "Connection: Upgrade\r\nUpgrade: evil\r\n".into()),
        ("websocket and a version", format!("Connection: Upgrade\r\nUpgrade: websocket/13\r\n{KEY}")),
        ("websocket not nominated", format!("Upgrade: websocket\r\n{KEY}")),
        ("websocket without a key", "Connection: Upgrade\r\nUpgrade: websocket\r\n".into()),
    ] {
        out.push(case(what, Safe, get(&fields)).check(|seen| {
            ["upgrade", "connection", "http2-settings"].iter().all(|name| seen.header(name).is_none())
                || seen.header("upgrade") == Some("websocket")
        }));
    }
    let handshake = format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}");
    out.push(case("websocket by POST", Refused, post(&format!("{handshake}Content-Length: 0\r\n"), "")));
    out.push(case("websocket in HTTP/1.0", Safe, get(&handshake).replace("HTTP/1.1", "HTTP/1.0")));
    out.push(case("a key with underscores", Safe, get("Connection: Upgrade\r\nUp_grade: websocket\r\n")));
    out.push(case("behind the door", Refused, format!("GET /admin/x HTTP/1.1\r\n{H}{handshake}\r\n")));
    out
}

#[test]
fn only_a_websocket_leaves_http() {
    run("upgrades", cases());
}

/// The upstream says no (or something else), and the client goes on as if it had said yes.
#[test]
fn a_refused_handshake_is_no_tunnel() {
    let answers: [(&str, &str); 6] = [
        ("426", "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n"),
        ("200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("400", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        ("101 of another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\n"),
        ("101 without a protocol", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (
            "101 nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ];
    for (what, bytes) in answers {
        let answer = bytes.as_bytes().to_vec();
        let upstream = Upstream::new(move |seen| match &*seen.target {
            "/pub/x" if answer.starts_with(b"HTTP/1.1 101") => Answer::Tunnel(answer.clone()),
            "/pub/x" => Answer::Bytes(answer.clone()),
            _ => Answer::reply(200, &[], b"reached"),
        });
        let gateway = Gateway::start(&upstream.fill(super::CONFIG));
        let asks = if what == "101 nobody asked for" { "" } else { "Connection: Upgrade\r\nUpgrade: websocket\r\n" };
        let mut client = gateway.connect();
        client.write(format!("GET /pub/x HTTP/1.1\r\nHost: a\r\n{asks}{KEY}\r\n").as_bytes()).unwrap();
        client.patience(Duration::from_secs(5));
        assert!(client.await_byte(), "{what}: an answer");
        // Raw bytes for the protected prefix: through a tunnel they would reach the upstream.
        let _ = client.write(b"GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n");
        let (read, _) = client.drain(Duration::from_millis(300));
        let seen = upstream.seen();
        assert!(seen.iter().all(|seen| !seen.target.contains("admin")), "{what}");
        assert!(!statuses(&read).contains(&101), "{what}: {}", String::from_utf8_lossy(&read));
        let text = String::from_utf8_lossy(&read).into_owned();
        assert!(!text.contains("GET /admin/x"), "{what}: raw bytes came back: {text}");
        gateway.get("/pub/next").expect(200);
    }
    gateway_tests::deadline::say(&format!("CASES refused handshakes: {}", answers.len()));
}
