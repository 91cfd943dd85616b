//! Routing as Kong does it: which route a request meets, which path the upstream gets, and what a
//! request without a route is told.

use gateway_tests::tls::Pair;
use gateway_tests::{Client, Gateway, Reply, Request, Upstream};

fn gateway(upstream: &Upstream, text: &str) -> Gateway {
    Gateway::start(&upstream.fill(text))
}

/// Routes that tell the upstream their name.
const NAMED: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: prefix, paths: [/route], strip_path: false }
  - { name: longer, paths: [/route/deep], strip_path: false }
  - { name: method, paths: [/route], methods: [DELETE], strip_path: false }
  - { name: host, paths: [/route], hosts: [a.test], strip_path: false }
  - { name: left, hosts: ["*.wild.test"] }
  - { name: right, hosts: ["wild.*"] }
  - { name: header, paths: [/route], headers: { X-Version: [v1, V2] }, strip_path: false }
  - { name: pattern, paths: ['~/items/(?<id>\d+)$'], strip_path: false }
  - { name: preferred, paths: ['~/items/7'], regex_priority: 5, strip_path: false }
"#;

fn named() -> String {
    let mut out = String::new();
    for line in NAMED.lines() {
        match line.trim_start().strip_prefix("- { name: ").and_then(|rest| rest.split_once(',')) {
            Some((name, _)) => {
                let plugin = "plugins: [{ name: request-transformer, config: { add: { headers: [\"X-Met:";
                out.push_str(&format!("{}, {plugin}{name}\"] }} }} }}] }}\n", line.trim_end_matches(" }")));
            }
            None => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

#[test]
fn the_most_specific_route_is_met() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, &named());
    let met = |request: Request| gateway.send(&request).expect(200).echoed("x-met").unwrap_or_default();
    assert_eq!(met(Request::get("/route")), "prefix");
    // A prefix is a prefix of the text, not of whole segments.
    assert_eq!(met(Request::get("/routed")), "prefix");
    assert_eq!(met(Request::get("/route/deep/er")), "longer");
    assert_eq!(met(Request::new("DELETE", "/route/deep")), "method");
    assert_eq!(met(Request::get("/route").host("a.test")), "host");
    assert_eq!(met(Request::get("/route").host("A.TEST:8000")), "host");
    assert_eq!(met(Request::get("/other").host("x.y.wild.test")), "left");
    assert_eq!(met(Request::get("/other").host("wild.org")), "right");
    assert_eq!(met(Request::get("/route").header("x-version", "v2")), "header");
    assert_eq!(met(Request::get("/route").header("x-version", "v3")), "prefix");
    assert_eq!(met(Request::get("/items/12")), "pattern");
    assert_eq!(met(Request::get("/items/7")), "preferred");
    gateway.get("/items/x").expect_templated(404, "no Route matched with those values");
    gateway.send(&Request::get("/other").host("wild")).expect(404);
    gateway.send(&Request::get("/ROUTE")).expect(404);
}

#[test]
fn the_path_is_normalised_before_it_is_matched_and_forwarded() {
    let upstream = Upstream::echo();
    let gateway = gateway(
        &upstream,
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/public], strip_path: false }
  - { paths: [/private], plugins: [{ name: key-auth }] }
"#,
    );
    for (sent, forwarded) in [
        ("/public/./a", "/public/a"),
        ("/public//a", "/public/a"),
        ("/x/../public/a", "/public/a"),
        ("/%70ublic/a", "/public/a"),
        ("/public/a%2fb?c=%2F&d=../e", "/public/a%2Fb?c=%2F&d=../e"),
        ("/public/a?", "/public/a?"),
    ] {
        assert_eq!(gateway.get(sent).expect(200).echoed_uri(), forwarded, "{sent}");
    }
    let asked = upstream.count();
    for sent in [
        "/public/../private/x",
        "/public/%2e%2e/private/x",
        "/public/.%2e/private/x",
        "//private/x",
        "/%70rivate/x",
        "/public/..%2fprivate/x",
        "/public\\..\\private/x",
        "/public/..;/private/x",
        "/public/%252e%252e/private/x",
        "/public/%c0%ae%c0%ae/private/x",
        "/public/..%00/private/x",
    ] {
        let reply = gateway.get(sent);
        let forwarded = upstream.seen().split_off(asked);
        let hides = |target: &str| {
            let decoded = gateway_tests::echo::decode(&gateway_tests::echo::decode(target, false), false);
            decoded.replace('\\', "/").contains("..")
        };
        assert!(
            matches!(reply.status, 400 | 401 | 404) || !forwarded.iter().any(|seen| hides(&seen.target)),
            "{sent} was forwarded as {:?}",
            forwarded.iter().map(|seen| &seen.target).collect::<Vec<_>>()
        );
    }
}

#[test]
fn paths_are_stripped_and_joined() {
    let upstream = Upstream::echo();
    let gateway = gateway(
        &upstream,
        r#"
_format_version: "3.0"
services:
- name: based
  url: @UP@/base
  routes:
  - { paths: [/strip] }
  - { paths: [/keep], strip_path: false }
  - { paths: ['~/cut/\d+'] }
- name: slashed
  url: @UP@/base/
  routes: [{ paths: [/slash/] }]
"#,
    );
    for (sent, forwarded) in [
        ("/strip", "/base"),
        ("/strip/", "/base/"),
        ("/strip/a/b?q=1", "/base/a/b?q=1"),
        ("/stripes", "/base/es"),
        ("/keep/a", "/base/keep/a"),
        ("/cut/12/rest", "/base/rest"),
        ("/slash/a", "/base/a"),
    ] {
        assert_eq!(gateway.get(sent).expect(200).echoed_uri(), forwarded, "{sent}");
    }
    let prefix = |path: &str| gateway.get(path).expect(200).echoed("x-forwarded-prefix");
    assert_eq!(prefix("/strip/a").as_deref(), Some("/strip"));
    assert_eq!(prefix("/keep/a"), None);
    assert_eq!(prefix("/cut/12/rest").as_deref(), Some("/cut/12"));
}

#[test]
fn the_host_is_the_upstreams_unless_preserved() {
    let upstream = Upstream::echo();
    let gateway = gateway(
        &upstream,
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - { paths: [/own] }
  - { paths: [/client], preserve_host: true }
- host: pool
  routes: [{ paths: [/pool] }]
upstreams:
- name: pool
  host_header: pool.test
  targets: [{ target: "127.0.0.1:@PORT@" }]
"#,
    );
    let host = |path: &str| gateway.send(&Request::get(path).host("client.test:81")).expect(200).echoed("host");
    assert_eq!(host("/own"), Some(upstream.address().to_string()));
    assert_eq!(host("/client").as_deref(), Some("client.test:81"));
    assert_eq!(host("/pool").as_deref(), Some("pool.test"));
}

#[test]
fn an_https_route_sends_http_away() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["secure.test"]);
    let text = format!(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - {{ paths: [/upgrade], protocols: [https] }}
  - {{ paths: [/moved], protocols: [https], https_redirect_status_code: 301 }}
  - {{ paths: [/again], protocols: [https], https_redirect_status_code: 308 }}
  - {{ paths: [/plain], protocols: [http] }}
certificates:
- {}
"#,
        pair.entity(&["secure.test"])
    );
    let gateway = gateway(&upstream, &text);
    let reply = gateway.get("/upgrade").expect_templated(426, "Please use HTTPS protocol");
    assert_eq!(reply.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(reply.header("upgrade"), Some("TLS/1.2, HTTP/1.1"));
    let ask = |path: &str| gateway.send(&Request::get(path).host("secure.test"));
    let reply = ask("/moved/a?b=c").expect(301);
    assert_eq!(reply.header("location"), Some("https://secure.test/moved/a?b=c"));
    assert!(reply.body.is_empty());
    ask("/again").expect(308);
    assert_eq!(upstream.count(), 0);
    let secure = |path: &str| -> Reply {
        Client::connect_tls(gateway.proxy_tls(), "secure.test").send(&Request::get(path).host("secure.test"))
    };
    secure("/upgrade").expect(200);
    // A route of plain http is served to https as well, as Kong does.
    secure("/plain").expect(200);
}

#[test]
fn a_route_by_sni() {
    let upstream = Upstream::echo();
    let pair = Pair::new(&["a.test", "b.test"]);
    let text = format!(
        r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{{ protocols: [https], snis: [a.test] }}]
certificates:
- {}
"#,
        pair.entity(&["a.test", "b.test"])
    );
    let gateway = gateway(&upstream, &text);
    let ask = |sni: &str| Client::connect_tls(gateway.proxy_tls(), sni).get("/");
    ask("a.test").expect(200);
    ask("b.test").expect(404);
}

#[test]
fn what_has_no_service_says_so() {
    let upstream = Upstream::echo();
    let gateway = gateway(
        &upstream,
        r#"
_format_version: "3.0"
services:
- { name: disabled, url: @UP@, enabled: false, routes: [{ paths: [/disabled] }] }
routes:
- { name: lonely, paths: [/lonely] }
"#,
    );
    gateway.get("/lonely").expect_templated(503, "no Service found with those values");
    gateway.get("/nowhere").expect_templated(404, "no Route matched with those values");
    let disabled = gateway.get("/disabled").status;
    assert!(matches!(disabled, 404 | 503), "{disabled}");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn errors_are_written_in_the_form_that_is_accepted() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, "_format_version: \"3.0\"\n");
    let ask = |accept: &str| gateway.send(&Request::get("/").header("Accept", accept)).expect(404);
    let html = ask("text/html,application/xhtml+xml,*/*;q=0.8");
    assert_eq!(html.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(html.text().contains("no Route matched"));
    let xml = ask("application/xml");
    assert_eq!(xml.header("content-type"), Some("application/xml; charset=utf-8"));
    let plain = ask("text/html;q=0.5, text/plain;q=0.9");
    assert_eq!(plain.header("content-type"), Some("text/plain; charset=utf-8"));
    let id = plain.header("x-kong-request-id").unwrap().to_owned();
    let text = format!("no Route matched with those values\nrequest_id: {id}");
    assert_eq!(plain.text().trim_end(), text);
    for json in ["*/*", "image/png", ""] {
        assert_eq!(ask(json).header("content-type"), Some("application/json; charset=utf-8"), "{json}");
    }
    let head = gateway.send(&Request::new("HEAD", "/")).expect(404);
    assert!(head.body.is_empty());
}

#[test]
fn old_formats_are_read() {
    let upstream = Upstream::echo();
    let gateway = gateway(
        &upstream,
        r#"
_format_version: "1.1"
services:
- url: @UP@
  routes: [{ paths: ['/pets/(?<id>\d+)$', /plain.path], strip_path: false }]
"#,
    );
    gateway.get("/pets/12").expect(200);
    gateway.get("/pets/x").expect(404);
    gateway.get("/plain.path/x").expect(200);
    gateway.get("/plainxpath").expect(404);
}
