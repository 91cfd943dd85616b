//! The admin API as tools that know Kong's read it: entities, pages, schemas, health; a token where it is not on loopback.

use gateway_tests::gateway::command;
use gateway_tests::{Gateway, Request, Setup, Upstream, send};
use serde_json::{Value, json};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  tags: [blue, big]
  routes:
  - { name: r, paths: [/one], tags: [blue] }
  - { name: q, paths: ["~/two/\\d+$"], strip_path: false, plugins: [{ name: cors }] }
upstreams:
- { name: u.test, targets: [{ target: "127.0.0.1:1" }, { target: "127.0.0.1:2", weight: 0 }] }
plugins:
- { name: key-auth, route: r, config: { key_names: [k] } }
consumers:
- { username: ann, custom_id: "7", keyauth_credentials: [{ key: anns-key }], acls: [{ group: g }] }
"#;

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG));
    (upstream, gateway)
}

fn get(gateway: &Gateway, path: &str) -> Value {
    gateway.admin_get(path).expect(200).json()
}

#[test]
fn entities_have_kongs_shape_and_steady_ids() {
    let (upstream, gateway) = scene();
    let services = get(&gateway, "/services");
    assert_eq!(services["next"], Value::Null);
    let service = &services["data"][0];
    assert_eq!((&service["name"], &service["protocol"], &service["retries"]), (&json!("s"), &json!("http"), &json!(5)));
    assert_eq!(service["port"], upstream.port());
    let id = service["id"].as_str().unwrap();
    assert_eq!(get(&gateway, &format!("/services/{id}"))["name"], "s");
    assert_eq!(get(&gateway, "/services/s")["id"], *id);
    let routes = get(&gateway, "/services/s/routes");
    assert_eq!(routes["data"].as_array().unwrap().len(), 2);
    assert_eq!(routes["data"][0]["service"]["id"], *id);
    assert_eq!(get(&gateway, "/routes/r/service")["id"], *id);
    assert_eq!(get(&gateway, "/routes/q/plugins")["data"][0]["name"], "cors");
    assert_eq!(get(&gateway, "/routes/r/plugins")["data"][0]["config"]["key_names"], json!(["k"]));
    assert_eq!(get(&gateway, "/consumers/ann/key-auth")["data"][0]["key"], "anns-key");
    assert_eq!(get(&gateway, "/acls")["data"][0]["group"], "g");
    assert_eq!(get(&gateway, "/upstreams/u.test/targets")["data"].as_array().unwrap().len(), 2);
    let health = get(&gateway, "/upstreams/u.test/health");
    assert_eq!(health["data"][0]["health"], "HEALTHCHECKS_OFF");
    gateway.admin_get("/services/nobody").expect(404);
    gateway.admin_get("/services/nobody/routes").expect(404);
    // The same file, another process.
    let again = Gateway::start(&upstream.fill(CONFIG));
    for list in ["services", "routes", "plugins", "consumers", "key-auths", "acls", "upstreams", "targets"] {
        let ids = |gateway: &Gateway| -> Vec<Value> {
            get(gateway, &format!("/{list}"))["data"].as_array().unwrap().iter().map(|e| e["id"].clone()).collect()
        };
        assert_eq!(ids(&gateway), ids(&again), "{list}");
    }
}

#[test]
fn lists_come_in_pages_and_by_tags() {
    let (_upstream, gateway) = scene();
    let first = get(&gateway, "/routes?size=1");
    assert_eq!(first["data"].as_array().unwrap().len(), 1);
    let second = get(&gateway, first["next"].as_str().unwrap());
    assert_eq!(second["next"], Value::Null);
    assert_ne!(first["data"][0]["id"], second["data"][0]["id"]);
    assert_eq!(get(&gateway, "/routes?tags=blue")["data"].as_array().unwrap().len(), 1);
    assert_eq!(get(&gateway, "/services?tags=blue,small")["data"].as_array().unwrap().len(), 0);
    assert_eq!(get(&gateway, "/services?tags=blue/small")["data"].as_array().unwrap().len(), 1);
    assert_eq!(get(&gateway, "/tags/blue")["data"].as_array().unwrap().len(), 2);
    gateway.admin_get("/routes?size=0").expect(400);
    gateway.admin_get("/routes?offset=nonsense!").expect(400);
}

#[test]
fn the_rest_of_the_read_api() {
    let (_upstream, gateway) = scene();
    let root = get(&gateway, "/");
    assert_eq!(root["configuration"]["database"], "off");
    assert!(root["plugins"]["available_on_server"]["key-auth"].is_object(), "{root}");
    assert!(root["version"].as_str().unwrap().starts_with("3."), "{root}");
    assert!(get(&gateway, "/plugins/enabled")["enabled_plugins"].as_array().unwrap().contains(&json!("cors")));
    assert!(get(&gateway, "/schemas/routes")["fields"].as_array().unwrap().len() > 10);
    assert!(get(&gateway, "/schemas/plugins/rate-limiting").to_string().contains("limit_by"));
    gateway.admin_get("/schemas/nothing").expect(404);
    assert!(get(&gateway, "/status")["memory"]["rss_kib"].as_u64().unwrap() > 1000);
    let write = Request::new("PUT", "/services/s").host(&gateway.admin().to_string());
    let refused = send(gateway.admin(), &write).expect(405);
    assert_eq!(refused.json()["code"], 12);
}

#[test]
fn a_configuration_comes_in_kongs_ways_too() {
    let (upstream, gateway) = scene();
    let text = upstream.fill(CONFIG).replace("/one", "/changed");
    let wrapped = json!({ "config": text }).to_string();
    gateway.admin_post("/config", "application/json", &wrapped).expect(201);
    gateway.get("/changed").expect(401);
    gateway.admin_post("/config?check_hash=1", "application/yaml", &text).expect(304);
    let shown = Request::get("/config").host(&gateway.admin().to_string()).header("Accept", "application/json");
    assert_eq!(send(gateway.admin(), &shown).expect(200).json()["config"], text);

    let broken = text.replace("strip_path: false", "strip_path: 7").replace("tags: [blue, big]", "retries: -1");
    let reply = gateway.admin_post("/config?flatten_errors=1", "application/yaml", &broken).expect(400).json();
    let flat = reply["flattened_errors"].as_array().unwrap();
    let of = |kind: &str| flat.iter().find(|e| e["entity_type"] == kind).unwrap_or_else(|| panic!("{kind}: {reply}"));
    assert_eq!(of("service")["entity_name"], "s");
    assert_eq!(of("service")["errors"][0]["field"], "retries");
    assert_eq!(of("route")["entity_name"], "q");
    assert_eq!(of("route")["errors"][0]["field"], "strip_path");
    gateway.get("/changed").expect(401);
}

#[test]
fn beyond_loopback_it_wants_a_token() {
    let upstream = Upstream::echo();
    let open = format!("{}gateway:\n  admin: \"0.0.0.0:0\"\n", upstream.fill(CONFIG));
    let exit = Setup::new(&open).refuse();
    assert!(exit.stderr.contains("admin_token"), "{}", exit.stderr);
    let weak = format!("{open}  admin_token: short\n");
    assert!(Setup::new(&weak).refuse().stderr.contains("16"));
    let token = "0123456789abcdef-token";
    let text = format!("{open}  admin_token: {token}\n");
    let gateway = Setup::new(&text).start();
    let ask = |header: Option<(&str, &str)>| {
        let request = Request::get("/status").host("gateway.example");
        let request = header.map_or(request.clone(), |(name, value)| request.header(name, value));
        let to = ([127, 0, 0, 1], gateway.admin().port()).into();
        send(to, &request).status
    };
    assert_eq!(ask(None), 401);
    assert_eq!(ask(Some(("Authorization", "Bearer 0123456789abcdef-tokeN"))), 401);
    assert_eq!(ask(Some(("Authorization", &format!("Bearer {token}")))), 200);
    assert_eq!(ask(Some(("Kong-Admin-Token", token))), 200);
    assert!(!gateway.stderr().contains(token) && !gateway.stdout().contains(token));
    let admin = format!("127.0.0.1:{}", gateway.admin().port());
    let why = command(&["why", "192.0.2.1", "--admin", &admin, "--token", token]);
    assert!(why.stderr.contains("gateway.edge"), "{why:?}");
    let by_environment = Setup::new(&open).env("GATEWAY_ADMIN_TOKEN", token).start();
    assert!(by_environment.has_admin());
}
