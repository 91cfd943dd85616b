//! SIGTERM: what is in flight is finished, what is idle is let go, and then the process ends with 0.

use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::{Client, Gateway, Request, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/] }]
"#;

#[test]
fn requests_in_flight_are_finished() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(CONFIG));
    let idle = gateway.connect();
    let flying: Vec<_> = (0..10)
        .map(|_| {
            let mut client = gateway.connect();
            thread::spawn(move || client.try_send(&Request::get("/delay/1")))
        })
        .collect();
    eventually("ten are in flight", || upstream.count() == 10);
    gateway.sigterm();
    for thread in flying {
        let reply = thread.join().unwrap().expect("an answer in spite of the signal");
        let reply = reply.expect(200);
        let connection = reply.header("connection").map(str::to_ascii_lowercase);
        assert_eq!(connection.as_deref(), Some("close"), "the client is told to go");
    }
    let begun = Instant::now();
    let status = gateway.wait(Duration::from_secs(10)).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "an idle connection does not hold it");
    drop(idle);
}

#[test]
fn a_listener_that_drains_takes_no_new_connections() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(CONFIG));
    let to = gateway.proxy();
    let mut client = gateway.connect();
    client.write(&Request::get("/delay/2").head_bytes()).unwrap();
    eventually("it is in flight", || upstream.count() == 1);
    gateway.sigterm();
    eventually("new connections are refused", || Client::try_connect_from(to, std::net::Ipv4Addr::LOCALHOST).is_err());
    client.read_reply("GET").unwrap().expect(200);
    assert_eq!(gateway.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(0));
}

#[test]
fn the_drain_has_an_end() {
    let upstream = Upstream::new(|_| gateway_tests::Answer::Hang);
    let text = format!("{}gateway:\n  timeouts: {{ drain: 1s }}\n", upstream.fill(CONFIG));
    let mut gateway = Gateway::start(&text);
    let mut client = gateway.connect();
    client.write(&Request::get("/").head_bytes()).unwrap();
    eventually("it is in flight", || upstream.count() == 1);
    let begun = Instant::now();
    gateway.sigterm();
    assert!(gateway.wait(Duration::from_secs(10)).is_some(), "it ends");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
}
