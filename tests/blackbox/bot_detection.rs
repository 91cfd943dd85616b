//! bot-detection: clients are judged by the name that they give themselves.

use gateway_tests::{Gateway, Request, Upstream};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins:
    - name: bot-detection
    - name: key-auth
  - name: lists
    paths: [/lists]
    plugins:
    - { name: bot-detection, config: { allow: [GoodBot], deny: ["^curl/"] } }
"#;

#[test]
fn names_decide_before_anything_else() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    let ask = |path: &str, agent: &str| gateway.send(&Request::get(path).header("User-Agent", agent));
    let crawler = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    ask("/plain", crawler).expect_templated(403, "Forbidden");
    ask("/plain", "curl/8.5.0").expect_templated(401, "No API key found in request");
    ask("/lists", "Mozilla/5.0 (X11; Linux x86_64)").expect(200);
    ask("/lists", "GoodBot/1.0").expect(200);
    ask("/lists", "curl/8.5.0").expect(403);
    ask("/lists", "badspider/1.0").expect(403);
    gateway.get("/lists").expect(200);
    let twice = Request::get("/lists").header("User-Agent", "a").header("User-Agent", "b");
    gateway.send(&twice).expect_templated(400, "Only one User-Agent header allowed");
    assert_eq!(upstream.count(), 3);
}
