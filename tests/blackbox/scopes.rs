//! Which of several instances of a plugin holds for a request, and several authentications at once.

use gateway_tests::{Gateway, Request, Upstream};

#[test]
fn the_narrowest_scope_holds() {
    let upstream = Upstream::echo();
    let plugin = |scope: &str, name: &str| {
        format!("- {{ name: response-transformer, {scope} config: {{ add: {{ headers: [\"X-Scope:{name}\"] }} }} }}\n")
    };
    let plugins = [
        plugin("", "global"),
        plugin("service: s,", "service"),
        plugin("route: r,", "route"),
        plugin("consumer: ann,", "consumer"),
        plugin("route: r, service: s,", "route and service"),
        plugin("service: s, consumer: ann,", "service and consumer"),
        plugin("route: r, consumer: ann,", "route and consumer"),
        plugin("route: r, service: s, consumer: ann,", "all"),
    ];
    // From the most general to the most specific (facts of Kong's OSS precedence).
    let asked = [("/other", ""), ("/s", ""), ("/r", ""), ("/r", "ann")];
    let answer = |upto: usize| {
        let text = format!(
            r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  routes: [{{ name: r, paths: [/r] }}, {{ name: plain, paths: [/s] }}]
- name: other
  url: @UP@
  routes: [{{ name: other, paths: [/other] }}]
consumers:
- {{ username: ann, keyauth_credentials: [{{ key: ann }}] }}
- {{ username: nobody }}
plugins:
- {{ name: key-auth, config: {{ anonymous: nobody }} }}
{}"#,
            plugins[..upto].concat()
        );
        let gateway = Gateway::start(&upstream.fill(&text));
        asked.map(|(path, key)| {
            let reply = gateway.send(&Request::get(path).header("apikey", key)).expect(200);
            reply.header("x-scope").unwrap_or("none").to_owned()
        })
    };
    assert_eq!(answer(0), ["none", "none", "none", "none"]);
    assert_eq!(answer(1), ["global", "global", "global", "global"]);
    assert_eq!(answer(2), ["global", "service", "service", "service"]);
    assert_eq!(answer(3), ["global", "service", "route", "route"]);
    assert_eq!(answer(4), ["global", "service", "route", "consumer"]);
    assert_eq!(answer(5), ["global", "service", "route and service", "route and service"]);
    assert_eq!(answer(6), ["global", "service", "route and service", "service and consumer"]);
    assert_eq!(answer(7), ["global", "service", "route and service", "route and consumer"]);
    assert_eq!(answer(8), ["global", "service", "route and service", "all"]);
}

#[test]
fn a_disabled_plugin_does_nothing() {
    let upstream = Upstream::echo();
    let text = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ name: r, paths: [/] }]
plugins:
- { name: key-auth, enabled: false }
- { name: request-termination, route: r, protocols: [https] }
"#;
    let gateway = Gateway::start(&upstream.fill(text));
    gateway.get("/").expect(200);
}

const TWO: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes:
  - name: both
    paths: [/both]
    plugins: [{ name: key-auth }, { name: jwt }]
  - name: either
    paths: [/either]
    plugins:
    - { name: key-auth, config: { anonymous: nobody } }
    - { name: jwt, config: { anonymous: nobody } }
  - name: must
    paths: [/must]
    plugins:
    - { name: key-auth, config: { anonymous: nobody } }
    - { name: jwt, config: { anonymous: nobody } }
    - { name: request-termination, consumer: nobody, config: { status_code: 401 } }
consumers:
- { username: ann, keyauth_credentials: [{ key: ann }] }
- { username: bob, jwt_secrets: [{ key: bob, secret: bob-secret }] }
- { username: nobody }
"#;

#[test]
fn two_authentications_are_both_needed_unless_anonymous() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(TWO));
    let token = gateway_tests::jwt::hmac_token("HS256", &serde_json::json!({ "iss": "bob" }), b"bob-secret");
    let bearer = format!("Bearer {token}");
    let ask = |path: &str, key: bool, token: bool| {
        let mut request = Request::get(path);
        if key {
            request = request.header("apikey", "ann");
        }
        if token {
            request = request.header("Authorization", &bearer);
        }
        gateway.send(&request)
    };
    ask("/both", true, true).expect(200);
    ask("/both", true, false).expect(401);
    ask("/both", false, true).expect(401);
    let consumer = |key, token| ask("/either", key, token).expect(200).echoed("x-consumer-username").unwrap();
    assert_eq!(consumer(true, false), "ann");
    assert_eq!(consumer(false, true), "bob");
    assert_eq!(consumer(false, false), "nobody");
    ask("/must", true, false).expect(200);
    ask("/must", false, true).expect(200);
    ask("/must", false, false).expect(401);
}
