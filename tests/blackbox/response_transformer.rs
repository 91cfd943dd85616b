//! response-transformer: headers and top-level JSON of what the client gets.

use gateway_tests::upstream::response;
use gateway_tests::{Answer, Gateway, Upstream};
use serde_json::json;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: answers
  url: @UP@
  routes:
  - name: headers
    paths: [/headers]
    strip_path: false
    plugins:
    - name: response-transformer
      config:
        remove: { headers: [X-Remove, Set-Cookie] }
        rename: { headers: ["X-Old:X-New"] }
        replace: { headers: ["X-Replace:replaced", "X-Absent:never"] }
        add: { headers: ["X-Add:added", "X-Present:never"] }
        append: { headers: ["X-Append:two"] }
  - name: json
    paths: [/json, /text, /broken, /list]
    strip_path: false
    plugins:
    - name: response-transformer
      config:
        remove: { json: [gone] }
        rename: { json: ["old:new"] }
        replace: { json: ["there:7", "absent:never"], json_types: [number, string] }
        add: { json: ["flag:true", "kept:never"], json_types: [boolean, string] }
        append: { json: ["many:2"] }
"#;

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::new(|seen| {
        let json = ("Content-Type", "application/json; charset=utf-8");
        let body = br#"{"gone":1,"old":2,"there":3,"kept":{"gone":4},"many":"1"}"#;
        Answer::Bytes(match &*seen.target {
            "/json" => response(200, &[json], body),
            "/text" => response(200, &[("Content-Type", "text/plain")], body),
            "/broken" => response(200, &[json], b"{\"gone\":"),
            "/list" => response(200, &[json], b"[1,2]"),
            _ => response(
                200,
                &[
                    ("X-Remove", "1"),
                    ("Set-Cookie", "a=1"),
                    ("Set-Cookie", "b=2"),
                    ("X-Old", "moved"),
                    ("X-Replace", "1"),
                    ("X-Present", "kept"),
                    ("X-Append", "one"),
                ],
                b"",
            ),
        })
    });
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

#[test]
fn headers_in_kongs_order() {
    let (_upstream, gateway) = scene();
    let reply = gateway.get("/headers").expect(200);
    assert_eq!(reply.header("x-remove"), None);
    assert_eq!(reply.header("set-cookie"), None);
    assert_eq!(reply.header("x-old"), None);
    assert_eq!(reply.header("x-new"), Some("moved"));
    assert_eq!(reply.header("x-replace"), Some("replaced"));
    assert_eq!(reply.header("x-absent"), None);
    assert_eq!(reply.header("x-add"), Some("added"));
    assert_eq!(reply.all("x-present"), ["kept"]);
    assert_eq!(reply.all("x-append").join(", "), "one, two");
}

#[test]
fn top_level_json() {
    let (_upstream, gateway) = scene();
    let reply = gateway.get("/json").expect(200);
    let expected = json!({
        "new": 2, "there": 7, "kept": { "gone": 4 }, "many": ["1", "2"], "flag": true,
    });
    assert_eq!(reply.json(), expected);
}

#[test]
fn other_bodies_pass_as_they_are() {
    let (_upstream, gateway) = scene();
    assert!(gateway.get("/text").expect(200).text().contains("gone"));
    assert_eq!(gateway.get("/broken").expect(200).text(), "{\"gone\":");
}

#[test]
fn own_answers_are_transformed_too() {
    let upstream = Upstream::echo();
    let text = r#"
_format_version: "3.0"
services:
- url: @UP@
  routes: [{ paths: [/], plugins: [{ name: key-auth }] }]
plugins:
- { name: response-transformer, config: { add: { headers: ["X-Add:added"] } } }
"#;
    let gateway = Gateway::start(&upstream.fill(text));
    assert_eq!(gateway.get("/").expect(401).header("x-add"), Some("added"));
}
