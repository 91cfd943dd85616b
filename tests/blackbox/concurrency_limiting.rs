//! concurrency-limiting: so many requests of a caller under way and no more, on all workers together; a slot comes back
//! however a request ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use gateway_tests::grpc::{GrpcClient, GrpcServer};
use gateway_tests::{Answer, Client, Gateway, Request, Upstream, eventually};

/// Routes `/` with `config`, and `/plain` without a limit.
fn text(config: &str) -> String {
    format!(
        "_format_version: \"3.0\"\nservices:\n- name: s\n  url: @UP@\n  read_timeout: 20000\n  routes:\n  - name: limited\n    \
         paths: [/]\n    plugins: [{{ name: concurrency-limiting, config: {{ {config} }} }}]\n  - name: plain\n    \
         paths: [/plain]\ngateway:\n  workers: 4\n"
    )
}

/// An upstream that answers `/hang` when it is let, anything else at once.
fn holding() -> (Upstream, Arc<AtomicBool>) {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let upstream = Upstream::new(move |seen| match &*seen.target {
        "/hang" => {
            while !gate.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Answer::reply(200, &[], b"late")
        }
        "/never" => Answer::Hang,
        "/stall" => Answer::Stall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome".to_vec()),
        "/broken" => Answer::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome".to_vec()),
        "/gone" => Answer::Last(Vec::new()),
        _ => Answer::reply(200, &[], b"now"),
    });
    (upstream, open)
}

/// A connection on which a request is under way at the upstream.
fn ask(gateway: &Gateway, upstream: &Upstream, target: &str) -> Client {
    let before = upstream.count();
    let mut client = gateway.connect();
    client.write(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    eventually("the upstream is asked", || upstream.count() > before);
    client
}

fn is_free(gateway: &Gateway) -> bool {
    gateway.get("/").status == 200
}

#[test]
fn as_many_as_the_limit_are_under_way() {
    let (upstream, open) = holding();
    let gateway = Gateway::start(&upstream.fill(&text("limit: 3, limit_by: ip")));
    let mut clients: Vec<Client> = (0..3).map(|_| ask(&gateway, &upstream, "/hang")).collect();
    for _ in 0..8 {
        let reply = gateway.get("/").expect_templated(429, "Too many requests in flight");
        assert_eq!(reply.number("retry-after"), 1);
    }
    gateway.connect_from([127, 0, 0, 2]).get("/").expect(200);
    gateway.get("/plain").expect(200);
    assert_eq!(upstream.count(), 5);
    open.store(true, Ordering::SeqCst);
    for client in &mut clients {
        client.read_reply("GET").unwrap().expect(200);
    }
    eventually("slots are free", || is_free(&gateway));
}

#[test]
fn no_more_than_the_limit_on_all_workers_together() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, peak) = (Arc::clone(&now), Arc::clone(&most));
    let upstream = Upstream::new(move |_| {
        peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(std::time::Duration::from_millis(2));
        count.fetch_sub(1, Ordering::SeqCst);
        Answer::reply(200, &[], b"")
    });
    let gateway = Gateway::start(&upstream.fill(&text("limit: 4, limit_by: service")));
    let refused: usize = thread::scope(|scope| {
        let each = || {
            let mut client = gateway.connect();
            (0..60).filter(|_| client.get("/").status == 429).count()
        };
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(each)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(refused > 0, "the limit was reached");
    assert_eq!(most.load(Ordering::SeqCst), 4);
    eventually("all are over", || is_free(&gateway));
}

#[test]
fn a_slot_comes_back_however_a_request_ends() {
    let (upstream, _open) = holding();
    let gateway = Gateway::start(&upstream.fill(&text("limit: 1, limit_by: ip, error_code: 503, error_message: busy")));
    for target in ["/never", "/stall"] {
        let client = ask(&gateway, &upstream, target);
        gateway.get("/").expect_templated(503, "busy");
        drop(client);
        eventually("the client left", || is_free(&gateway));
    }
    let mut client = gateway.connect();
    client.write(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(client.read_reply("GET").is_err());
    eventually("the upstream broke off", || is_free(&gateway));
    gateway.get("/gone").expect(502);
    eventually("the upstream failed", || is_free(&gateway));
    // Several requests one after the other on one connection.
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/").expect(200);
    }
}

#[test]
fn a_tunnel_holds_its_slot_until_it_ends() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(&text("limit: 1, limit_by: ip")));
    let request = Request::get("/socket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut client = gateway.connect();
    client.send(&request).expect(101);
    for _ in 0..5 {
        client.write(b"ping").unwrap();
        assert_eq!(client.read_exact(4).unwrap(), b"ping");
        gateway.get("/").expect(429);
    }
    drop(client);
    eventually("the tunnel ended", || is_free(&gateway));
}

#[test]
fn a_grpc_stream_holds_its_slot_until_it_ends() {
    let server = GrpcServer::start();
    let text = format!(
        "_format_version: \"3.0\"\nservices:\n- name: s\n  protocol: grpc\n  host: 127.0.0.1\n  port: {}\n  routes:\n  - \
         {{ name: r, protocols: [grpc, grpcs], paths: [/echo.Echo/] }}\n  plugins:\n  - {{ name: concurrency-limiting, \
         config: {{ limit: 1, limit_by: ip }} }}\n",
        server.address().port()
    );
    let gateway = Gateway::start(&text);
    let client = GrpcClient::connect(gateway.proxy());
    let mut talk = client.open("/echo.Echo/Chat");
    for word in ["one", "two"] {
        talk.say(word);
        assert_eq!(talk.hear().as_deref(), Some(word));
        assert_eq!(client.call("/echo.Echo/Unary", "x").status, 429);
    }
    let outcome = talk.end();
    assert_eq!(outcome.code(), Some("0"));
    eventually("the stream ended", || client.call("/echo.Echo/Unary", "x").status == 200);
    let mut given_up = client.open("/echo.Echo/Chat");
    given_up.say("one");
    assert!(given_up.hear().is_some());
    drop(given_up);
    drop(client);
    let client = GrpcClient::connect(gateway.proxy());
    eventually("the client left", || client.call("/echo.Echo/Unary", "x").status == 200);
}

#[test]
fn what_is_under_way_counts_after_a_reload() {
    let (upstream, open) = holding();
    let config =
        |limit: u32| upstream.fill(&text(&format!("limit: {limit}, limit_by: route, error_message: of {limit}")));
    let gateway = Gateway::start(&config(2));
    let mut clients: Vec<Client> = (0..2).map(|_| ask(&gateway, &upstream, "/hang")).collect();
    gateway.get("/").expect_templated(429, "of 2");
    gateway.reload(&config(3), || gateway.get("/").status == 200);
    clients.push(ask(&gateway, &upstream, "/hang"));
    gateway.get("/").expect_templated(429, "of 3");
    gateway.reload(&config(1), || gateway.get("/").error_message() == "of 1");
    open.store(true, Ordering::SeqCst);
    for client in &mut clients {
        client.read_reply("GET").unwrap().expect(200);
    }
    eventually("all are over", || is_free(&gateway));
}

#[test]
fn each_consumer_has_slots_of_its_own() {
    let (upstream, open) = holding();
    let mut config = text("limit: 1").replace("plugins: [{", "plugins: [{ name: key-auth }, {");
    config += "consumers:\n- { username: ann, keyauth_credentials: [{ key: ann }, { key: ann-too }] }\n\
               - { username: ben, keyauth_credentials: [{ key: ben }] }\n";
    let gateway = Gateway::start(&upstream.fill(&config));
    let mut client = gateway.connect();
    client.write(b"GET /hang HTTP/1.1\r\nHost: a\r\napikey: ann\r\n\r\n").unwrap();
    eventually("the upstream is asked", || upstream.count() == 1);
    let send = |key: &str| gateway.send(&Request::get("/").header("apikey", key)).status;
    assert_eq!(["ann-too", "ben", "none"].map(send), [429, 200, 401]);
    open.store(true, Ordering::SeqCst);
    client.read_reply("GET").unwrap().expect(200);
    eventually("ann has one again", || send("ann-too") == 200);
}
