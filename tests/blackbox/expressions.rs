//! Routes by expression: the flavour, the order among them and beside fields, what strip_path takes away; and the answers
//! of routes for gRPC.

use gateway_tests::gateway::command;
use gateway_tests::{Client, Request, Setup, Upstream, h2};

const CONFIG: &str = r##"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  routes:
  - { name: plain, paths: [/] }
  - { name: low, expression: 'http.path ^= "/a"', priority: 1 }
  - { name: high, expression: 'http.path ^= "/a/b" && http.method == "GET"', priority: 5 }
  - { name: regex, expression: 'http.path ~ r#"^/u/(?<id>\d+)"#', strip_path: true }
  - { name: header, expression: 'any(http.headers.x_tier) == "gold" && http.queries.v == "2"', priority: 9 }
  - { name: here, expression: 'net.dst.ip == 127.0.0.1 && http.path ^= "/ip"', priority: 8 }
  - { name: elsewhere, expression: 'net.dst.ip != 127.0.0.1 && http.path ^= "/ip"', priority: 9 }
  - { name: secure, expression: 'http.path ^= "/secure"', protocols: [https] }
"##;

fn config() -> String {
    let marks = ["plain", "low", "high", "regex", "header", "here", "elsewhere", "secure"].map(|name| {
        format!(
            "- {{ name: response-transformer, route: {name}, config: {{ add: {{ headers: ['x-route:{name}'] }} }} }}\n"
        )
    });
    format!("{CONFIG}plugins:\n{}", marks.concat())
}

#[test]
fn expressions_decide_by_priority_and_before_fields() {
    let upstream = Upstream::echo();
    let gateway = Setup::new(&upstream.fill(&config())).env("KONG_ROUTER_FLAVOR", "expressions").start();
    let route = |request: Request| gateway.send(&request).expect(200).header("x-route").unwrap_or_default().to_owned();
    assert_eq!(route(Request::get("/x")), "plain");
    assert_eq!(route(Request::get("/a/c")), "low");
    assert_eq!(route(Request::get("/a/b")), "high");
    assert_eq!(route(Request::post("/a/b", "")), "low");
    assert_eq!(route(Request::get("/a/b?v=2").header("X-Tier", "gold")), "header");
    assert_eq!(route(Request::get("/a/b?v=1").header("X-Tier", "gold")), "high");
    assert_eq!(route(Request::get("/ip")), "here");
    let stripped = gateway.get("/u/42/rest").expect(200);
    assert_eq!((stripped.header("x-route"), stripped.echoed_uri().as_str()), (Some("regex"), "/rest"));
    gateway.get("/secure/x").expect(426);
}

#[test]
fn the_flavour_is_needed_and_mistakes_have_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let upstream = "http://127.0.0.1:9";
    let text = CONFIG.replace("@UP@", upstream);
    std::fs::write(&file, &text).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert!(exit.code == Some(2) && exit.stderr.contains("router_flavor"), "{}", exit.stderr);
    let broken =
        text.replace("http.path ^= \"/a\"'", "http.pth ^= \"/a\"'") + "gateway: { router_flavor: expressions }\n";
    std::fs::write(&file, &broken).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2));
    assert!(
        exit.stderr.contains("kong.yml:8:30: error: `expression`, character 1: unknown field `http.pth`"),
        "{}",
        exit.stderr
    );
    assert_eq!(exit.stderr.matches(": error: ").count(), 1, "{}", exit.stderr);
}

#[test]
fn routes_for_grpc_refuse_what_is_none() {
    let upstream = Upstream::echo();
    let text = upstream.fill(
        "_format_version: \"3.0\"\nservices:\n- url: @UP@\n  routes:\n\
         \x20 - { name: g, paths: [/g], protocols: [grpc], strip_path: false }\n\
         \x20 - { name: gs, paths: [/s], protocols: [grpcs], strip_path: false }\n",
    );
    let gateway = Setup::new(&text).start();
    gateway.get("/g").expect_templated(415, "Non-gRPC request matched gRPC route");
    let grpc = |path: &str| Request::post(path, "").header("Content-Type", "application/grpc");
    let reply = Client::connect(gateway.proxy()).send(&grpc("/g")).expect(426);
    assert_eq!(reply.header("upgrade"), Some("HTTP/2"));
    let reply = h2::send_clear(gateway.proxy(), &[grpc("/s")]).remove(0).expect(200);
    assert_eq!(reply.header("grpc-status"), Some("1"));
    assert_eq!(reply.header("grpc-message"), Some("gRPC request matched gRPCs route"));
}
