//! The admin API: what runs, what is wrong, a new configuration by POST; and that it serves nobody
//! who has no business there.

use std::thread;
use std::time::Duration;

use gateway_tests::{Client, Gateway, Request, Upstream, eventually, send};

fn config(path: &str) -> String {
    format!(
        r#"
_format_version: "3.0"
services:
- name: s
  url: @UP@
  routes: [{{ name: r, paths: [{path}] }}]
consumers:
- {{ username: ann, keyauth_credentials: [{{ key: very-secret-key }}], jwt_secrets: [{{ key: k, secret: very-secret-secret }}] }}
"#
    )
}

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(&config("/one")));
    (upstream, gateway)
}

#[test]
fn status_says_what_runs() {
    let (_upstream, gateway) = scene();
    gateway.get("/one").expect(200);
    let status = gateway.status();
    assert!(status["config"].is_object(), "{status}");
    assert!(status["config"]["last_error"].is_null());
    let text = status.to_string();
    assert!(text.contains("0.1.0"), "the version: {text}");
    assert!(!text.contains("very-secret"));
}

#[test]
fn the_running_configuration_is_shown() {
    let (upstream, gateway) = scene();
    assert!(gateway.admin_get("/config").expect(200).text().contains("/one"));
    gateway.replace_file(&upstream.fill(&config("/two")).replace("paths:", "pahts:"));
    eventually("the bad file is noticed", || !gateway.status()["config"]["last_error"].is_null());
    assert!(gateway.admin_get("/config").expect(200).text().contains("/one"), "what runs, not what was refused");
}

#[test]
fn a_posted_configuration_is_taken_or_refused_as_a_whole() {
    let (upstream, gateway) = scene();
    let yaml = upstream.fill(&config("/two"));
    let reply = gateway.admin_post("/config", "application/yaml", &yaml);
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    gateway.get("/two").expect(200);
    gateway.get("/one").expect(404);

    let json = format!(
        r#"{{"_format_version":"3.0","services":[{{"name":"s","url":"http://{}","routes":[{{"name":"r","paths":["/three"]}}]}}]}}"#,
        upstream.address()
    );
    let reply = gateway.admin_post("/config", "application/json", &json);
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    gateway.get("/three").expect(200);

    let broken = yaml.replace("paths:", "pahts:");
    let reply = gateway.admin_post("/config", "application/yaml", &broken).expect(400);
    assert!(reply.text().contains("pahts"), "{}", reply.text());
    gateway.get("/three").expect(200);
    gateway.admin_post("/config", "application/json", "{").expect(400);
    gateway.get("/three").expect(200);
}

#[test]
fn metrics_are_there_without_the_plugin() {
    let (_upstream, gateway) = scene();
    gateway.get("/one").expect(200);
    let reply = gateway.admin_get("/metrics").expect(200);
    assert!(reply.text().contains("# TYPE "), "{}", reply.text());
}

#[test]
fn the_edge_answers_about_addresses() {
    let (upstream, plain) = scene();
    plain.admin_get("/edge").expect(404);
    let text = format!("{}gateway:\n  edge: {{ mode: shadow }}\n", upstream.fill(&config("/one")));
    let gateway = Gateway::start(&text);
    gateway.admin_get("/edge").expect(200).json();
    let why = gateway.admin_get("/edge/why?ip=192.0.2.7").expect(200).json();
    assert!(why.to_string().contains("192.0.2.7"), "{why}");
    gateway.admin_get("/edge/why?ip=nonsense").expect(400);
    gateway.admin_get("/edge/why").expect(400);
}

#[test]
fn nobody_else_has_business_there() {
    let (upstream, gateway) = scene();
    gateway.admin_get("/nowhere").expect(404);
    let wrong = send(gateway.admin(), &Request::new("DELETE", "/config").host(&gateway.admin().to_string()));
    assert!(matches!(wrong.status, 404 | 405), "{wrong:?}");
    // A page of a foreign site that resolves its own name to this address (rebinding).
    let rebound = Client::connect(gateway.admin()).send(&Request::get("/config").host("evil.test"));
    assert!(matches!(rebound.status, 400 | 401 | 403 | 421), "{rebound:?}");
    // A form of a foreign site.
    let body = upstream.fill(&config("/evil"));
    let forged = Request::post("/config", body)
        .host(&gateway.admin().to_string())
        .header("Origin", "http://evil.test")
        .header("Content-Type", "text/plain");
    let reply = send(gateway.admin(), &forged);
    assert!(matches!(reply.status, 400 | 401 | 403 | 415), "{reply:?}");
    gateway.get("/one").expect(200);
    // The proxy's port does not answer for the admin's.
    gateway.get("/status").expect(404);
    let absolute = format!("http://{}/config", gateway.admin());
    let through = gateway.send(&Request::get(&absolute).host(&gateway.admin().to_string()));
    assert!(matches!(through.status, 400 | 404), "{through:?}");
}

#[test]
fn it_can_be_switched_off() {
    let upstream = Upstream::echo();
    let text = format!("{}gateway:\n  admin: off\n", upstream.fill(&config("/one")));
    let gateway = Gateway::start(&text);
    gateway.get("/one").expect(200);
    assert!(!gateway.has_admin());
}

/// Whoever sends a configuration and leaves has sent it.
#[test]
fn a_client_that_leaves_does_not_leave_half_of_a_reload() {
    let upstream = Upstream::echo();
    let routes = |last: &str| {
        let many: String = (0..3_000).map(|at| format!("  - {{ name: r{at}, paths: [/many/{at}] }}\n")).collect();
        upstream.fill(&format!(
            "_format_version: \"3.0\"\nservices:\n- url: @UP@\n  routes:\n{many}  - {{ name: last, paths: [/{last}] }}\n"
        ))
    };
    let gateway = Gateway::start(&routes("old"));
    gateway.get("/old").expect(200);
    let mut client = Client::connect(gateway.admin());
    let request = Request::post("/config", routes("new")).host(&gateway.admin().to_string());
    let request = request.header("Content-Type", "text/yaml");
    client.write(&[request.head_bytes(), request.body_bytes()].concat()).unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(client);
    eventually("the workers serve it", || gateway.get("/new").status == 200);
}
