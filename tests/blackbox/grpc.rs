//! Services of protocol grpc and grpcs: HTTP/2 to the upstream, messages as they come, the outcome in trailers.

use std::collections::BTreeSet;

use gateway_tests::absent::Refusing;
use gateway_tests::grpc::{GrpcClient, GrpcServer, Outcome};
use gateway_tests::tls::Pair;
use gateway_tests::{Gateway, Request, Upstream, eventually, send};

fn config(protocol: &str, port: u16, more: &str) -> String {
    format!(
        r#"
_format_version: "3.0"
services:
- name: s
  protocol: {protocol}
  host: 127.0.0.1
  port: {port}
  {more}
  routes:
  - {{ name: r, protocols: [grpc, grpcs], paths: [/echo.Echo/] }}
gateway:
  workers: 1
"#
    )
}

fn scene() -> (GrpcServer, Gateway) {
    let server = GrpcServer::start();
    let gateway = Gateway::start(&config("grpc", server.address().port(), ""));
    (server, gateway)
}

#[track_caller]
fn good(outcome: &Outcome, text: &str) {
    assert_eq!((outcome.status, outcome.code(), outcome.broken), (200, Some("0"), false), "{outcome:?}");
    assert_eq!(outcome.text(), text);
}

#[test]
fn a_call_goes_through_with_its_trailers() {
    let (server, gateway) = scene();
    let client = GrpcClient::connect(gateway.proxy());
    let outcome = client.call_with("/echo.Echo/Unary", &[("x-mine", "7"), ("grpc-timeout", "5S")], "hello");
    good(&outcome, "hello");
    assert_eq!(outcome.trailers["x-outcome"], "done");
    assert_eq!(outcome.headers["content-type"], "application/grpc");
    assert!(outcome.headers.contains_key("x-kong-upstream-latency"), "{:?}", outcome.headers);
    let call = server.last();
    assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/echo.Echo/Unary"));
    assert_eq!(call.authority, format!("127.0.0.1:{}", server.address().port()));
    for (name, value) in [
        ("te", "trailers"),
        ("x-mine", "7"),
        ("grpc-timeout", "5S"),
        ("content-type", "application/grpc"),
        ("x-forwarded-host", "grpc.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(call.headers.get(name).map(|v| v.as_bytes()), Some(value.as_bytes()), "{name}");
    }
}

#[test]
fn an_outcome_in_the_head_stays_there() {
    let (_server, gateway) = scene();
    let outcome = GrpcClient::connect(gateway.proxy()).call("/echo.Echo/Fails", "x");
    assert_eq!(outcome.headers["grpc-status"], "5");
    assert_eq!(outcome.headers["grpc-message"], "no such thing");
    assert!(outcome.messages.is_empty() && outcome.trailers.is_empty() && !outcome.broken, "{outcome:?}");
}

#[test]
fn messages_come_as_they_are_sent_both_ways() {
    let (_server, gateway) = scene();
    let client = GrpcClient::connect(gateway.proxy());
    good(&client.call("/echo.Echo/Stream", "one;two;three"), "onetwothree");
    let mut talk = client.open("/echo.Echo/Chat");
    for word in ["first", "second", "third"] {
        talk.say(word);
        assert_eq!(talk.hear().as_deref(), Some(word), "an answer while the request is open");
    }
    good(&talk.end(), "");
}

#[test]
fn a_stream_that_nobody_reads_stops_no_other() {
    let (_server, gateway) = scene();
    let client = GrpcClient::connect(gateway.proxy());
    let stalled: Vec<_> = (0..20).map(|_| client.open("/echo.Echo/Large")).collect();
    let other = GrpcClient::connect(gateway.proxy());
    good(&other.call("/echo.Echo/Unary", "still here"), "still here");
    drop(stalled);
    assert_eq!(other.call("/echo.Echo/Large", "").text().len(), 64 * 64 * 1024);
}

#[test]
fn many_calls_share_one_connection() {
    let (server, gateway) = scene();
    let client = GrpcClient::connect(gateway.proxy());
    for round in 0..5 {
        let words: Vec<String> = (0..40).map(|at| format!("{round}-{at}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcomes = client.calls("/echo.Echo/Unary", &[], &words);
        let texts: BTreeSet<String> = outcomes.iter().map(Outcome::text).collect();
        assert_eq!(texts.len(), 40);
        assert!(outcomes.iter().all(|outcome| outcome.code() == Some("0")), "{outcomes:?}");
    }
    assert_eq!((server.count(), server.connections()), (200, 1));
}

#[test]
fn an_upstream_that_takes_few_gets_more_connections() {
    let server = GrpcServer::narrow(2);
    let gateway = Gateway::start(&config("grpc", server.address().port(), ""));
    let client = GrpcClient::connect(gateway.proxy());
    good(&client.call("/echo.Echo/Unary", "x"), "x");
    let mut talks: Vec<_> = (0..6).map(|_| client.open("/echo.Echo/Chat")).collect();
    for talk in &mut talks {
        talk.say("here");
        assert_eq!(talk.hear().as_deref(), Some("here"));
    }
    assert!(server.connections() >= 3, "{}", server.connections());
    talks.into_iter().for_each(|talk| good(&talk.end(), ""));
}

#[test]
fn by_tls_on_both_sides() {
    let pair = Pair::new(&["grpc.test"]);
    let server = GrpcServer::secure(&pair);
    let text = config("grpcs", server.address().port(), "").replace("[grpc, grpcs]", "[grpcs]");
    let gateway = Gateway::start(&format!("{text}certificates:\n- {}\n", pair.entity(&["grpc.test"])));
    good(&GrpcClient::connect_tls(gateway.proxy_tls(), "grpc.test").call("/echo.Echo/Unary", "safe"), "safe");
    assert_eq!(server.last().headers["x-forwarded-proto"], "https");
    let plain = GrpcClient::connect(gateway.proxy()).call("/echo.Echo/Unary", "x");
    assert_eq!((plain.status, plain.code()), (200, Some("1")), "{plain:?}");
    assert_eq!(plain.headers["grpc-message"], "gRPC request matched gRPCs route");
}

#[test]
fn an_upstream_that_speaks_http_1_alone_is_no_upstream() {
    let pair = Pair::new(&["grpc.test"]);
    let upstream = Upstream::echo_tls(&pair);
    let gateway = Gateway::start(&config("grpcs", upstream.port(), "retries: 0"));
    let outcome = GrpcClient::connect(gateway.proxy()).call("/echo.Echo/Unary", "x");
    assert_eq!((outcome.status, outcome.code()), (502, Some("14")), "{outcome:?}");
}

#[test]
fn what_fails_is_told_in_grpcs_words() {
    let refusing = Refusing::new();
    let gateway = Gateway::start(&config("grpc", refusing.address().port(), ""));
    let gone = GrpcClient::connect(gateway.proxy()).call("/echo.Echo/Unary", "x");
    assert_eq!((gone.status, gone.code()), (502, Some("14")), "{gone:?}");
    assert_eq!(gone.headers["content-type"], "application/grpc");
    let (server, gateway) = {
        let server = GrpcServer::start();
        let gateway = Gateway::start(&config("grpc", server.address().port(), "read_timeout: 300"));
        (server, gateway)
    };
    let client = GrpcClient::connect(gateway.proxy());
    let late = client.call("/echo.Echo/Hang", "x");
    assert_eq!((late.status, late.code()), (504, Some("4")), "{late:?}");
    good(&client.call("/echo.Echo/Unary", "x"), "x");
    assert_eq!(server.connections(), 2, "one that went unanswered is not trusted with more");
    let missing = client.call("/other.Other/Unary", "x");
    assert_eq!((missing.status, missing.code()), (404, Some("5")), "{missing:?}");
}

#[test]
fn a_silent_answer_ends_and_an_upload_is_no_silence() {
    let server = GrpcServer::start();
    let gateway = Gateway::start(&config("grpc", server.address().port(), "read_timeout: 1000"));
    let client = GrpcClient::connect(gateway.proxy());
    let mut talk = client.open("/echo.Echo/Chat");
    for _ in 0..6 {
        talk.say("x");
        assert_eq!(talk.hear().as_deref(), Some("x"));
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    assert_eq!(talk.hear(), None, "nobody said anything");
    assert!(talk.end().code().is_none());
}

#[test]
fn who_gives_up_is_given_up() {
    let (server, gateway) = scene();
    let client = GrpcClient::connect(gateway.proxy());
    let mut talk = client.open("/echo.Echo/Chat");
    talk.say("x");
    assert_eq!(talk.hear().as_deref(), Some("x"));
    drop(talk);
    drop(client);
    eventually("the server is told", || server.cancelled() == 1);
    good(&GrpcClient::connect(gateway.proxy()).call("/echo.Echo/Unary", "y"), "y");
    assert_eq!(server.connections(), 1, "a stream that is given up costs no connection");
}

#[test]
fn a_connection_that_breaks_is_replaced() {
    let (server, gateway) = scene();
    let client = GrpcClient::connect(gateway.proxy());
    let mut talk = client.open("/echo.Echo/Chat");
    talk.say("x");
    assert_eq!(talk.hear().as_deref(), Some("x"));
    server.cut_connections();
    assert_eq!(talk.hear(), None);
    assert!(talk.end().code().is_none(), "what has begun cannot be mended");
    eventually("a new connection", || client.call("/echo.Echo/Unary", "again").code() == Some("0"));
    assert_eq!(server.connections(), 2);
}

#[test]
fn another_target_takes_over_and_health_is_counted() {
    let (server, refusing) = (GrpcServer::start(), Refusing::new());
    let text = config("grpc", 80, "").replace("host: 127.0.0.1", "host: pool");
    let gateway = Gateway::start(&format!(
        "{text}upstreams:\n- name: pool\n  healthchecks: {{ passive: {{ type: grpc, unhealthy: {{ tcp_failures: 1 }} }} }}\n  targets: [{{ target: '{}' }}, {{ target: '{}' }}]\n",
        server.address(),
        refusing.address()
    ));
    let client = GrpcClient::connect(gateway.proxy());
    for _ in 0..6 {
        good(&client.call("/echo.Echo/Unary", "x"), "x");
    }
    let health = gateway.admin_get("/upstreams/pool/health").expect(200).json();
    let states: BTreeSet<&str> =
        health["data"].as_array().unwrap().iter().filter_map(|t| t["health"].as_str()).collect();
    assert_eq!(states, BTreeSet::from(["HEALTHY", "UNHEALTHY"]), "{health}");
}

#[test]
fn plugins_are_for_the_protocols_that_they_name() {
    let server = GrpcServer::start();
    let text = config("grpc", server.address().port(), "plugins: [{ name: key-auth, config: { key_names: [k] } }]");
    let gateway = Gateway::start(&format!(
        "{text}plugins:\n- {{ name: correlation-id, protocols: [http], config: {{ echo_downstream: true }} }}\nconsumers:\n- {{ username: ann, keyauth_credentials: [{{ key: anns-key }}] }}\n"
    ));
    let client = GrpcClient::connect(gateway.proxy());
    let nobody = client.call("/echo.Echo/Unary", "x");
    assert_eq!((nobody.status, nobody.code()), (401, Some("16")), "{nobody:?}");
    let ann = client.call_with("/echo.Echo/Unary", &[("k", "anns-key")], "x");
    good(&ann, "x");
    assert_eq!(server.last().headers["x-consumer-username"], "ann");
    assert!(!ann.headers.contains_key("kong-request-id"), "{:?}", ann.headers);
}

#[test]
fn a_route_for_http_reaches_it_too() {
    let server = GrpcServer::start();
    let text = config("grpc", server.address().port(), "").replace("[grpc, grpcs]", "[http]");
    let gateway = Gateway::start(&text);
    let reply = send(gateway.proxy(), &Request::post("/echo.Echo/Unary", "by HTTP/1")).expect(200);
    assert_eq!(reply.text(), "by HTTP/1");
    assert_eq!(server.last().path, "/Unary", "strip_path holds for such a route");
}

#[test]
fn a_path_has_no_place_there() {
    let exit = gateway_tests::Setup::new(&config("grpc", 80, "path: /x")).refuse();
    assert!(exit.stderr.contains("`path` must be null when protocol is grpc"), "{}", exit.stderr);
}
