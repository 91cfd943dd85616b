//! Bodies and framing, both ways, on connections that are used again.

use gateway_tests::upstream::response;
use gateway_tests::{Answer, Gateway, Request, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/] }]
"#;

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + u8::try_from(at % 23).expect("below 23")).collect()
}

#[test]
fn request_bodies_arrive_as_sent() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    for size in [0, 1, 1000, 65_536, 1_000_000] {
        let body = pattern(size);
        client.send(&Request::post("/", body.clone())).expect(200);
        let seen = upstream.last();
        assert!(seen.body == body, "{size} bytes with a length");
        assert_eq!(seen.header("content-length"), Some(&*size.to_string()));
        client.send(&Request::post("/", body.clone()).chunked(997)).expect(200);
        assert!(upstream.last().body == body, "{size} bytes in chunks");
    }
    assert!(upstream.seen().iter().all(|seen| seen.faults.is_empty()));
}

#[test]
fn response_bodies_arrive_as_sent() {
    let upstream = Upstream::new(|seen| {
        let (kind, size) = seen.target[1..].split_once('/').expect("/KIND/SIZE");
        let body = pattern(size.parse().expect("a size"));
        match kind {
            "length" => Answer::Bytes(response(200, &[], &body)),
            "chunked" => {
                let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for chunk in body.chunks(1234) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
                Answer::Bytes(out)
            }
            _ => Answer::Last([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &body].concat()),
        }
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    for kind in ["length", "chunked", "until-the-end"] {
        for size in [0, 1, 5000, 300_000] {
            let reply = client.get(&format!("/{kind}/{size}")).expect(200);
            assert!(reply.body == pattern(size), "{kind} {size}: {} bytes", reply.body.len());
        }
    }
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let upstream = Upstream::new(|seen| match &*seen.target {
        "/no-content" => Answer::reply(204, &[], b""),
        "/not-modified" => {
            Answer::Bytes(b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n".to_vec())
        }
        "/head" => Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec()),
        _ => Answer::reply(200, &[], b"body"),
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    let empty = client.get("/no-content").expect(204);
    assert_eq!(empty.header("content-length"), None);
    assert_eq!(empty.header("transfer-encoding"), None);
    let same = client.get("/not-modified").expect(304);
    assert_eq!(same.header("etag"), Some("\"x\""));
    let head = client.send(&Request::new("HEAD", "/head")).expect(200);
    assert_eq!(head.header("content-length"), Some("1234"));
    assert_eq!(client.get("/after").expect(200).text(), "body");
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    let request = Request::post("/", "hello").header("Expect", "100-continue");
    client.write(&request.head_bytes()).unwrap();
    let interim = client.read_head().unwrap();
    assert_eq!(interim.status, 100);
    client.write(&request.body_bytes()).unwrap();
    client.read_reply("POST").unwrap().expect(200);
    assert_eq!(upstream.last().body, b"hello");
}

#[test]
fn connections_are_used_again_on_both_sides() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/").expect(200);
    }
    assert_eq!(upstream.connections(), 1, "one upstream connection for 20 requests");
    // Two requests written at once are answered in order.
    client.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.read_reply("GET").unwrap().echoed_uri(), "/a");
    assert_eq!(client.read_reply("GET").unwrap().echoed_uri(), "/b");
    let closing = client.send(&Request::get("/").header("Connection", "close")).expect(200);
    assert_eq!(closing.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    assert!(client.closes_within(std::time::Duration::from_secs(5)));
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let (_upstream, gateway) = scene();
    let mut client = gateway.connect();
    client.write(b"GET /old HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let reply = client.read_reply("GET").unwrap().expect(200);
    assert_eq!(reply.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
    assert!(client.closes_within(std::time::Duration::from_secs(5)));
}

#[test]
fn answers_stream() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n".to_vec();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        assert!(socket.read(&mut buffer).unwrap() > 0);
        socket.write_all(&first).unwrap();
        wait.lock().unwrap().recv().unwrap();
        socket.write_all(b"4\r\nlast\r\n0\r\n\r\n").unwrap();
    });
    let gateway = Gateway::start(&CONFIG.replace("@UP@", &format!("http://{address}")));
    let mut client = gateway.connect();
    client.write(&Request::get("/").head_bytes()).unwrap();
    let mut reply = client.read_head().unwrap();
    assert_eq!(reply.status, 200);
    // The first chunk is here while the upstream still holds back the rest.
    let (early, closed) = client.drain(std::time::Duration::from_millis(200));
    assert!(!closed && String::from_utf8_lossy(&early).contains("first"), "{early:?}");
    go.send(()).unwrap();
    client.patience(std::time::Duration::from_secs(10));
    client.read_body(&mut reply, "GET").unwrap();
    assert_eq!(reply.text(), "firstlast");
    thread.join().unwrap();
}

#[test]
fn trailers_pass_but_cannot_pose_as_headers() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   2\r\nhi\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer x\r\nContent-Length: 50\r\n\
                   X-Consumer-Username: root\r\n\r\n";
    client.write(request.as_bytes()).unwrap();
    let reply = client.read_reply("POST").unwrap();
    assert!(matches!(reply.status, 200 | 400), "{}", reply.status);
    for seen in upstream.seen() {
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header("x-consumer-username"), None);
        let forbidden = ["authorization", "content-length", "host", "transfer-encoding"];
        for (name, _) in &seen.trailers {
            assert!(!forbidden.contains(&name.to_ascii_lowercase().as_str()), "trailer {name}");
        }
        assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    }
}

#[test]
fn a_websocket_is_a_tunnel_after_its_handshake() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    let request = Request::get("/socket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let reply = client.send(&request).expect(101);
    assert_eq!(reply.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
    assert_eq!(reply.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for text in ["ping", "and again", "\u{0}\u{1}\u{2}"] {
        client.write(text.as_bytes()).unwrap();
        assert_eq!(client.read_exact(text.len()).unwrap(), text.as_bytes());
    }
    assert_eq!(upstream.last().header("sec-websocket-version"), Some("13"));
    drop(client);
    // The tunnel ends on both sides: the gateway goes on serving.
    gateway.get("/").expect(200);
}

#[test]
fn an_upgrade_to_anything_else_is_not_a_tunnel() {
    let upstream = Upstream::new(|seen| match seen.header("upgrade") {
        Some(_) => Answer::reply(200, &[], b"asked to upgrade"),
        // An upstream that switches although it was not asked to.
        None if seen.target == "/rogue" => {
            Answer::Tunnel(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\n".to_vec())
        }
        None => Answer::reply(200, &[], b"plain"),
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let ask = |path: &str, to: &str| {
        let request = Request::get(path).header("Connection", "Upgrade").header("Upgrade", to);
        gateway.connect().try_send(&request)
    };
    assert_eq!(ask("/", "h2c").unwrap().text(), "plain");
    let rogue = ask("/rogue", "evil");
    assert!(rogue.is_err() || rogue.is_ok_and(|reply| reply.status == 502));
}

#[test]
fn a_stale_upstream_connection_costs_no_request() {
    let (upstream, gateway) = scene();
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/").expect(200);
        upstream.cut_connections();
        client.get("/").expect(200);
    }
    assert_eq!(upstream.count(), 40, "nothing was sent twice");
}

#[test]
fn an_early_answer_ends_the_upload() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = [0; 1024];
        assert!(socket.read(&mut buffer).unwrap() > 0);
        socket.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").unwrap();
        // Reads on so that no reset overtakes the answer, and keeps nothing.
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let gateway = Gateway::start(&CONFIG.replace("@UP@", &format!("http://{address}")));
    let mut client = gateway.connect();
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\nbegin").unwrap();
    assert_eq!(client.read_reply("POST").unwrap().expect(413).text(), "big");
    drop(client);
    thread.join().unwrap();
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let upstream = Upstream::new(|_| Answer::Hang);
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let mut client = gateway.connect();
    client.write(&Request::get("/").head_bytes()).unwrap();
    eventually("the upstream is asked", || upstream.count() == 1);
    drop(client);
    // The gateway still answers others on the same worker.
    gateway.admin_get("/status").expect(200);
}
