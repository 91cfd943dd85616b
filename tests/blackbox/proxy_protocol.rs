//! The PROXY protocol in front of HTTP, TLS and streams: whose word counts, what is refused, and for whom limits and the ladder
//! count.

use std::time::Duration;

use gateway_tests::h2frames::{Frames, Outcome};
use gateway_tests::tls::Pair;
use gateway_tests::{Client, Gateway, Reply, Request, Setup, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  routes:
  - { name: echo, paths: [/echo] }
  - { name: limited, paths: [/limited], plugins: [{ name: rate-limiting, config: { hour: 2, limit_by: ip } }] }
  - { name: closed, paths: [/closed], plugins: [{ name: key-auth }] }
"#;

/// The load balancer is trusted, and connects from loopback.
const TRUSTED: &str = "  trusted_ips: [127.0.0.0/8]\n  real_ip_header: proxy_protocol\n";
const LISTEN: &str = "  listen: [\"127.0.0.1:0 proxy_protocol\"]\n";

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 8000\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn start(more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&format!("{}gateway:\n{LISTEN}{more}", upstream.fill(CONFIG)));
    (upstream, gateway)
}

/// A connection that begins with these bytes.
fn behind(gateway: &Gateway, header: &[u8]) -> Client {
    let mut client = gateway.connect();
    client.write(header).unwrap();
    client
}

fn line(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 10.0.0.1 4711 8000\r\n").into_bytes()
}

/// A header of version 2.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0x1f, 0x40];

fn real_ip(reply: Reply) -> String {
    reply.expect(200).echoed("x-real-ip").unwrap()
}

#[test]
fn a_trusted_load_balancer_names_the_client() {
    let (_upstream, gateway) = start(TRUSTED);
    let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[1, 2, 3, 4]].concat();
    let extended = [&V4[..], &[0x04, 0, 3, 0, 0, 0]].concat();
    for (header, source) in [
        (LINE.to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 8000\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 8000\r\n".to_vec(), "192.0.2.7"),
        (binary(0x21, 0x11, &V4), "192.0.2.7"),
        (binary(0x21, 0x11, &extended), "192.0.2.7"),
        (binary(0x21, 0x21, &v6), "2001:db8::7"),
        // Its own connections are its own.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0x20, 0x00, &[]), "127.0.0.1"),
        (binary(0x21, 0x00, b"some"), "127.0.0.1"),
    ] {
        let mut client = behind(&gateway, &header);
        assert_eq!(real_ip(client.get("/echo")), source, "{header:?}");
        assert_eq!(client.get("/echo").echoed("x-forwarded-for").unwrap(), source, "on the second request too");
    }
}

#[test]
fn a_header_may_come_in_pieces_and_with_a_request_behind_it() {
    let (_upstream, gateway) = start(TRUSTED);
    for header in [LINE.to_vec(), binary(0x21, 0x11, &V4)] {
        let mut client = gateway.connect();
        for byte in &header {
            client.write(&[*byte]).unwrap();
        }
        assert_eq!(real_ip(client.get("/echo")), "192.0.2.7");
        let whole = [&header[..], b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let mut client = behind(&gateway, &whole);
        assert_eq!(real_ip(client.read_reply("GET").unwrap()), "192.0.2.7");
    }
    // As long as it may be, with an extension that fills it.
    let filled = [&V4[..], &[0x04, 0x0f, 0xe1], &[0; 4065]].concat();
    assert_eq!(real_ip(behind(&gateway, &binary(0x21, 0x11, &filled)).get("/echo")), "192.0.2.7");
}

#[test]
fn what_is_no_header_is_never_answered() {
    let (upstream, gateway) = start(TRUSTED);
    let request = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    let overrun = [&V4[..], &[0x04, 0, 9, 0]].concat();
    let broken_sum = [&V4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    for header in [
        &b""[..],
        b"proxy TCP4 192.0.2.7 10.0.0.1 4711 8000\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 8000\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 08000\r\n",
        b"PROXY TCP4 192.0.2.700 10.0.0.1 4711 8000\r\n",
        b"PROXY TCP4 192.0.2.7, 10.0.0.1 4711 8000\r\n",
        b"\r\n\r\n\0\r\nQUIT \x21\x11\0\0",
        &long,
        &binary(0x11, 0x11, &V4),
        &binary(0x21, 0x12, &V4),
        &binary(0x21, 0x11, &V4[..8]),
        &binary(0x21, 0x11, &overrun),
        &binary(0x21, 0x11, &broken_sum),
        &binary(0x21, 0x11, &[0; 5000]),
    ] {
        let mut client = gateway.connect();
        // It may be refused before all is written.
        let _ = client.write(&[header, request].concat());
        let (answer, closed) = client.drain(Duration::from_secs(5));
        assert!(closed && answer.is_empty(), "{header:?}: {answer:?}");
    }
    assert_eq!(upstream.count(), 0);
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    assert!(metrics.contains("gateway_connections_refused_total{reason=\"proxy_protocol\"} 14"), "{metrics}");
    behind(&gateway, LINE).get("/echo").expect(200);
}

#[test]
fn a_second_header_is_no_header() {
    let (upstream, gateway) = start(TRUSTED);
    let mut client = behind(&gateway, &[LINE, LINE].concat());
    client.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (answer, closed) = client.drain(Duration::from_secs(5));
    assert!(closed && answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn silence_has_the_time_of_a_head() {
    let (_upstream, gateway) = start(&format!("{TRUSTED}  timeouts: {{ header: 1s }}\n"));
    for part in [&b""[..], b"PROXY TC", &SIGNATURE[..7], &binary(0x21, 0x11, &V4)[..20]] {
        assert!(behind(&gateway, part).closes_within(Duration::from_secs(10)), "{part:?}");
    }
    assert!(behind(&gateway, LINE).closes_within(Duration::from_secs(10)), "a header alone is no request");
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    assert!(metrics.contains("gateway_connections_refused_total{reason=\"first_byte\"} 4"), "{metrics}");
    behind(&gateway, LINE).get("/echo").expect(200);
}

#[test]
fn a_stop_does_not_wait_for_a_header() {
    let (_upstream, mut gateway) = start(TRUSTED);
    let _silent = behind(&gateway, b"PROXY TC");
    eventually("it is accepted", || gateway.status()["server"]["connections_active"] == 1);
    gateway.sigterm();
    assert!(gateway.wait(Duration::from_secs(5)).is_some(), "ended by far before the time of a head");
}

#[test]
fn the_word_of_others_is_read_and_passed_over() {
    let strangers = "  trusted_ips: [10.0.0.0/8]\n  real_ip_header: proxy_protocol\n";
    let by_header = "  trusted_ips: [127.0.0.0/8]\n  real_ip_header: X-Real-IP\n";
    for (what, settings) in [("nobody is trusted", ""), ("others are", strangers)] {
        let (_upstream, gateway) = start(settings);
        assert_eq!(real_ip(behind(&gateway, LINE).get("/echo")), "127.0.0.1", "{what}");
    }
    let (_upstream, gateway) = start(by_header);
    let request = Request::get("/echo").header("X-Real-IP", "198.51.100.1");
    assert_eq!(real_ip(behind(&gateway, LINE).send(&request)), "198.51.100.1", "the setting decides (Kong)");
}

#[test]
fn a_client_behind_it_cannot_speak_for_others() {
    let (_upstream, gateway) = start(TRUSTED);
    let fields = [
        ("X-Forwarded-For", "198.51.100.1"),
        ("X-Real-IP", "198.51.100.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Consumer-Username", "admin"),
    ];
    let request = fields.iter().fold(Request::get("/echo"), |request, (name, value)| request.header(name, value));
    let reply = behind(&gateway, LINE).send(&request).expect(200);
    let seen = |name| reply.echoed(name);
    assert_eq!(seen("x-real-ip").as_deref(), Some("192.0.2.7"));
    assert_eq!(seen("x-forwarded-for").as_deref(), Some("198.51.100.1, 192.0.2.7"));
    assert_eq!(seen("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(seen("x-forwarded-host").as_deref(), Some("gateway.test"));
    assert_eq!(seen("x-consumer-username"), None);
    // A trusted proxy behind the load balancer may.
    let reply = behind(&gateway, &line("127.9.9.9")).send(&request).expect(200);
    assert_eq!(reply.echoed("x-forwarded-proto").as_deref(), Some("https"));
}

#[test]
fn tls_and_http2_come_behind_it() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["gw.test"]);
    let text = format!(
        "{}certificates:\n- {}\ngateway:\n  listen: [\"127.0.0.1:0 proxy_protocol\", \"127.0.0.1:0 ssl proxy_protocol\"]\n{TRUSTED}",
        upstream.fill(CONFIG),
        pair.entity(&["gw.test"])
    );
    let gateway = Gateway::start(&text);
    for header in [LINE.to_vec(), binary(0x21, 0x11, &V4)] {
        let mut client = Client::connect_tls_behind(gateway.proxy_tls(), "gw.test", &header);
        assert_eq!(client.certificate.as_deref(), Some(&pair.der[..]));
        assert_eq!(real_ip(client.get("/echo")), "192.0.2.7");
        let mut frames = Frames::connect_behind(gateway.proxy(), &header).unwrap();
        let fields: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/echo"), (b":authority", b"a")];
        frames.headers(1, &fields, 1).unwrap();
        assert_eq!(frames.outcome(1), Outcome::Status(200));
        assert_eq!(upstream.last().header("x-real-ip"), Some("192.0.2.7"));
    }
}

#[test]
fn limits_and_logs_are_of_the_client() {
    let (_upstream, gateway) = start(&format!("{TRUSTED}  limits: {{ connections_per_source: 2 }}\n"));
    let ask = |source: &str| behind(&gateway, &line(source)).get("/limited").status;
    assert_eq!([ask("192.0.2.1"), ask("192.0.2.1"), ask("192.0.2.1")], [200, 200, 429]);
    assert_eq!(ask("192.0.2.2"), 200, "another client of the same load balancer");
    let record = gateway.access_record(|record| record.to_string().contains("192.0.2.2"));
    assert!(!record.to_string().contains("127.0.0.1:4711"), "{record}");
    let mut kept: Vec<Client> = (0..2).map(|_| behind(&gateway, LINE)).collect();
    kept.iter_mut().for_each(|client| drop(client.get("/echo").expect(200)));
    assert!(behind(&gateway, LINE).closes_within(Duration::from_secs(5)), "a third connection of one client");
    behind(&gateway, &line("192.0.2.8")).get("/echo").expect(200);
    drop(kept);
    eventually("its places are free", || {
        behind(&gateway, LINE).try_send(&Request::get("/echo")).is_ok_and(|reply| reply.status == 200)
    });
}

#[test]
fn the_ladder_judges_clients_and_never_their_load_balancer() {
    let (_upstream, gateway) = start(&format!(
        "{TRUSTED}  edge:\n    mode: enforce\n    ladder: {{ degrade_after: 3, failures_run: 3, drop_after: 3 }}\n"
    ));
    let ask = |source: &str, path: &str| {
        behind(&gateway, &line(source)).try_send(&Request::get(path)).map(|reply| reply.status).ok()
    };
    eventually("the abuser is kept out", || ask("192.0.2.66", "/closed").is_none());
    for _ in 0..3 {
        assert_eq!(ask("192.0.2.7", "/echo"), Some(200), "another client of the same load balancer");
    }
    let why = |ip: &str| gateway.admin_get(&format!("/edge/why?ip={ip}")).expect(200).json();
    let (client, balancer) = (why("192.0.2.66"), why("127.0.0.1"));
    assert!(client.to_string().contains("key-auth"), "{client:#}");
    assert!(!balancer.to_string().contains("key-auth"), "{balancer:#}");
    let metrics = gateway.admin_get("/metrics").expect(200).text();
    assert!(metrics.contains("gateway_connections_refused_total{reason=\"edge\"}"), "{metrics}");
}

#[test]
fn streams_have_their_client_too() {
    let upstream = Upstream::echo();
    let text = format!(
        r#"
_format_version: "3.0"
services:
- name: s
  protocol: tcp
  host: 127.0.0.1
  port: {}
  routes: [{{ name: r, protocols: [tcp], sources: [{{ ip: 192.0.2.0/24 }}] }}]
gateway:
  stream_listen: ["127.0.0.1:0 proxy_protocol"]
  trusted_ips: [127.0.0.0/8]
"#,
        upstream.port()
    );
    let gateway = Gateway::start(&text);
    let mut client = Client::connect(gateway.stream());
    client.write(LINE).unwrap();
    client.get("/echo").expect(200);
    let mut other = Client::connect(gateway.stream());
    other.write(&line("198.51.100.7")).unwrap();
    assert!(other.closes_within(Duration::from_secs(5)), "no route for that source");
    let mut none = Client::connect(gateway.stream());
    none.write(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(none.closes_within(Duration::from_secs(5)), "no header");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let upstream = Upstream::echo();
    let refuse = |block: &str| Setup::new(&format!("{}gateway:\n{block}", upstream.fill(CONFIG))).refuse().stderr;
    let stderr = refuse("  real_ip_header: proxy_protocol\n");
    assert!(stderr.contains("no listener speaks it"), "{stderr}");
    let stderr = refuse("  admin: \"127.0.0.1:0 proxy_protocol\"\n");
    assert!(stderr.contains("`admin` is"), "{stderr}");
    let gateway = Setup::by_environment(&upstream.fill(CONFIG))
        .env("KONG_PROXY_LISTEN", "127.0.0.1:0 proxy_protocol reuseport")
        .env("KONG_TRUSTED_IPS", "127.0.0.0/8")
        .env("KONG_REAL_IP_HEADER", "proxy_protocol")
        .start();
    assert_eq!(real_ip(behind(&gateway, LINE).get("/echo")), "192.0.2.7");
    assert_eq!(gateway.status()["listeners"][0]["proxy_protocol"], true);
}
