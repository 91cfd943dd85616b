//! request-transformer: remove, rename, replace, add, append on headers, query and body.

use gateway_tests::{Gateway, Reply, Request, Upstream};
use serde_json::json;

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: headers
    paths: [/headers]
    plugins:
    - name: request-transformer
      config:
        remove: { headers: [X-Remove] }
        rename: { headers: ["X-Old:X-New"] }
        replace: { headers: ["X-Replace:replaced", "X-Absent:never", "Host:other.test"] }
        add: { headers: ["X-Add:added", "X-Present:never", "X-Url:http://a:1/b"] }
        append: { headers: ["X-Append:two", "X-Append:three"] }
  - name: query
    paths: [/query]
    plugins:
    - name: request-transformer
      config:
        remove: { querystring: [gone] }
        rename: { querystring: ["old:new"] }
        replace: { querystring: ["there:replaced", "absent:never"] }
        add: { querystring: ["added:1", "there:never"] }
        append: { querystring: ["many:2"] }
  - name: body
    paths: [/body]
    plugins:
    - name: request-transformer
      config:
        remove: { body: [gone] }
        rename: { body: ["old:new"] }
        replace: { body: ["there:replaced", "absent:never"] }
        add: { body: ["added:1"] }
        append: { body: ["many:2"] }
  - name: uri
    paths: [/uri]
    plugins:
    - { name: request-transformer, config: { replace: { uri: /elsewhere }, http_method: PUT } }
  - name: template
    paths: ["~/template/(?<user>[a-z]+)"]
    plugins:
    - name: request-transformer
      config:
        replace: { uri: "/users/$(uri_captures.user)/$(query_params.of)" }
        remove: { querystring: [key, of] }
        add:
          headers:
          - "Authorization:$(query_params.key and 'Bearer ' .. query_params.key or headers.x_key)"
          - "X-Start:$((headers.x_key or 'none'):sub(1, 3))"
"#;

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

#[test]
fn headers_in_kongs_order() {
    let (_upstream, gateway) = scene();
    let request = Request::get("/headers")
        .header("X-Remove", "1")
        .header("x-old", "moved")
        .header("X-Replace", "1")
        .header("X-Present", "kept")
        .header("X-Append", "one");
    let reply = gateway.send(&request).expect(200);
    let seen = |name: &str| reply.echoed(name);
    assert_eq!(seen("x-remove"), None);
    assert_eq!(seen("x-old"), None);
    assert_eq!(seen("x-new").as_deref(), Some("moved"));
    assert_eq!(seen("x-replace").as_deref(), Some("replaced"));
    assert_eq!(seen("x-absent"), None);
    assert_eq!(seen("host").as_deref(), Some("other.test"));
    assert_eq!(seen("x-add").as_deref(), Some("added"));
    assert_eq!(seen("x-present").as_deref(), Some("kept"));
    assert_eq!(seen("x-url").as_deref(), Some("http://a:1/b"));
    assert_eq!(seen("x-append").as_deref(), Some("one, two, three"));
}

#[test]
fn the_query() {
    let (_upstream, gateway) = scene();
    let reply = gateway.get("/query?gone=1&old=2&there=3&many=1&kept=a%20b").expect(200);
    let expected = json!({
        "new": "2", "there": "replaced", "many": ["1", "2"], "kept": "a b", "added": "1",
    });
    assert_eq!(reply.json()["uri_args"], expected);
}

fn params(reply: &Reply) -> serde_json::Value {
    reply.json()["post_data"]["params"].clone()
}

#[test]
fn bodies_of_json_and_forms() {
    let (upstream, gateway) = scene();
    let body = json!({ "gone": 1, "old": 2, "there": { "deep": 3 }, "many": "1", "kept": [4] });
    let request = Request::post("/body", body.to_string()).header("Content-Type", "application/json; charset=utf-8");
    let reply = gateway.send(&request).expect(200);
    let expected = json!({
        "new": 2, "there": "replaced", "many": ["1", "2"], "kept": [4], "added": "1",
    });
    assert_eq!(params(&reply), expected);
    let length: usize = upstream.last().header("content-length").unwrap().parse().unwrap();
    assert_eq!(length, upstream.last().body.len());

    let request = Request::post("/body", "gone=1&old=2&there=3&many=1&kept=a%20b")
        .header("Content-Type", "application/x-www-form-urlencoded");
    let reply = gateway.send(&request).expect(200);
    let expected = json!({
        "new": "2", "there": "replaced", "many": ["1", "2"], "kept": "a b", "added": "1",
    });
    assert_eq!(params(&reply), expected);
}

#[test]
fn other_bodies_pass_as_they_are() {
    let (upstream, gateway) = scene();
    for (kind, body) in [("text/plain", "gone=1"), ("application/json", "{not json")] {
        gateway.send(&Request::post("/body", body).header("Content-Type", kind)).expect(200);
        assert_eq!(upstream.last().body, body.as_bytes(), "{kind}");
    }
    let chunked = Request::post("/body", r#"{"gone":1,"kept":2}"#).chunked(3);
    let reply = gateway.send(&chunked.header("Content-Type", "application/json")).expect(200);
    assert_eq!(params(&reply), json!({ "kept": 2, "added": "1", "many": ["2"] }));
}

#[test]
fn path_and_method() {
    let (_upstream, gateway) = scene();
    let reply = gateway.get("/uri/rest?a=1").expect(200).json();
    assert_eq!(reply["vars"]["request_uri"], "/elsewhere?a=1");
    assert_eq!(reply["vars"]["request_method"], "PUT");
}

#[test]
fn templates_take_values_from_the_request() {
    let (_upstream, gateway) = scene();
    let reply = gateway.get("/template/ann?key=k%201&of=a%3Fb&rest=1").expect(200);
    let json = reply.json();
    assert_eq!(json["vars"]["request_uri"], "/users/ann/a%3Fb?rest=1");
    assert_eq!(reply.echoed("authorization").as_deref(), Some("Bearer k 1"));
    assert_eq!(reply.echoed("x-start").as_deref(), Some("non"));
    let reply = gateway.send(&Request::get("/template/ann").header("X-Key", "other")).expect(200);
    assert_eq!(reply.echoed("authorization").as_deref(), Some("other"));
    assert_eq!(reply.echoed("x-start").as_deref(), Some("oth"));
    // A value can neither climb out of the path nor begin a header of its own.
    gateway.get("/template/ann?of=..%2fadmin").expect_templated(500, "An unexpected error occurred");
    gateway.get("/template/ann?key=a%0d%0aX-Admin:1").expect_templated(500, "An unexpected error occurred");
}

#[test]
fn multipart_fields_change() {
    let (_upstream, gateway) = scene();
    let part =
        |name: &str, value: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let body = [part("gone", "1"), part("old", "2"), part("there", "3"), "--b--\r\n".to_owned()].concat();
    let request = Request::post("/body", body).header("Content-Type", "multipart/form-data; boundary=b");
    let reply = gateway.send(&request).expect(200);
    assert_eq!(reply.json()["post_data"]["params"], json!({ "new": "2", "there": "replaced", "added": "1" }));
}
