//! Health of upstreams and their targets as tools that know Kong's admin API read and set it.

use gateway_tests::absent::Refusing;
use gateway_tests::{Gateway, Reply, Request, Upstream, send};
use serde_json::Value;

fn config(good: u16, bad: u16) -> String {
    format!(
        r#"
_format_version: "3.0"
upstreams:
- name: checked
  healthchecks: {{ passive: {{ unhealthy: {{ tcp_failures: 1 }} }} }}
  targets:
  - {{ target: "127.0.0.1:{good}" }}
  - {{ target: "127.0.0.1:{bad}" }}
  - {{ target: "127.0.0.1:1", weight: 0 }}
  - {{ target: "nowhere.invalid" }}
- {{ name: unchecked, targets: [{{ target: "127.0.0.1:{good}" }}] }}
services:
- {{ name: s, host: checked, routes: [{{ name: r, paths: [/] }}] }}
"#
    )
}

fn health(gateway: &Gateway, target: &str) -> Value {
    let page = gateway.admin_get("/upstreams/checked/health").expect(200).json();
    assert!(page["node_id"].is_string(), "{page}");
    let list = page["data"].as_array().expect("a list").clone();
    let found = list.into_iter().find(|entry| entry["target"] == target);
    found.unwrap_or_else(|| panic!("{target}: {page}"))
}

fn put(gateway: &Gateway, path: &str) -> Reply {
    send(gateway.admin(), &Request::new("PUT", path).host(&gateway.admin().to_string()))
}

#[test]
fn health_is_what_requests_saw_and_what_was_set() {
    let (upstream, refusing) = (Upstream::echo(), Refusing::new());
    let gateway = Gateway::start(&config(upstream.port(), refusing.address().port()));
    let (good, bad) = (format!("127.0.0.1:{}", upstream.port()), format!("127.0.0.1:{}", refusing.address().port()));
    assert_eq!(health(&gateway, &bad)["health"], "HEALTHY");
    for _ in 0..8 {
        gateway.get("/").expect(200);
    }
    assert_eq!(health(&gateway, &good)["health"], "HEALTHY");
    let seen = health(&gateway, &bad);
    assert_eq!(seen["health"], "UNHEALTHY");
    assert_eq!(seen["data"]["addresses"][0]["ip"], "127.0.0.1");
    assert_eq!(seen["data"]["addresses"][0]["health"], "UNHEALTHY");
    assert_eq!(health(&gateway, "127.0.0.1:1")["health"], "HEALTHCHECKS_OFF");
    assert_eq!(health(&gateway, "nowhere.invalid:8000")["health"], "DNS_ERROR");
    let whole =
        |name: &str| gateway.admin_get(&format!("/upstreams/{name}/health?balancer_health=1")).expect(200).json();
    assert_eq!(whole("checked")["data"]["health"], "HEALTHY");
    assert_eq!(whole("unchecked")["data"]["health"], "HEALTHCHECKS_OFF");

    put(&gateway, &format!("/upstreams/checked/targets/{bad}/healthy")).expect(204);
    assert_eq!(health(&gateway, &bad)["health"], "HEALTHY");
    let id = health(&gateway, &good)["id"].as_str().expect("an id").to_owned();
    put(&gateway, &format!("/upstreams/checked/targets/{id}/unhealthy")).expect(204);
    put(&gateway, &format!("/upstreams/checked/targets/{bad}/{bad}/unhealthy")).expect(204);
    put(&gateway, "/upstreams/checked/targets/nowhere.invalid/unhealthy").expect(204);
    assert_eq!(whole("checked")["data"]["health"], "UNHEALTHY");
    gateway.get("/").expect(503);
    put(&gateway, "/upstreams/checked/targets/127.0.0.1:9/healthy").expect(404);
    put(&gateway, "/upstreams/nobody/targets/127.0.0.1:1/healthy").expect(404);
    gateway.admin_get(&format!("/upstreams/checked/targets/{bad}/healthy")).expect(405);
}
