//! API keys made through the admin API: made, used, listed, rotated, revoked under load, kept over a restart.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gateway_tests::deadline::{eventually, say};
use gateway_tests::{Client, Gateway, Reply, Request, Setup, Upstream, send};
use serde_json::{Value, json};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - { name: plain, paths: [/plain], plugins: [{ name: key-auth }] }
consumers:
- username: alice
  keyauth_credentials: [{ key: declared-key, id: 7c2a4a5e-3b0e-4d0c-9c8b-0a1b2c3d4e5f }]
- username: bob
gateway:
  workers: 2
  issued_keys: @LOG@
"#;

fn text(upstream: &Upstream, folder: &Path) -> String {
    upstream.fill(CONFIG).replace("@LOG@", &folder.join("keys").display().to_string())
}

fn order(gateway: &Gateway, method: &str, target: &str, body: &Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = Request::post(target, body).host(&gateway.admin().to_string());
    request.method = method.to_owned();
    send(gateway.admin(), &request.header("Content-Type", "application/json"))
}

fn make(gateway: &Gateway, body: &Value) -> (String, String) {
    let made = order(gateway, "POST", "/consumers/alice/key-auth", body).expect(201).json();
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

fn ask(gateway: &Gateway, key: &str) -> Reply {
    gateway.send(&Request::get("/plain").header("apikey", key))
}

#[test]
fn a_key_opens_until_it_is_revoked() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    let (id, key) = make(&gateway, &json!({ "tags": ["shop"], "tier": "gold" }));
    assert_eq!(key.len(), 32);
    let forged = Request::get("/plain").header("apikey", &key).header("X-Credential-Tier", "platinum");
    let reply = gateway.send(&forged).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("alice"));
    assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some(&*id));
    assert_eq!(reply.echoed("x-credential-tier").as_deref(), Some("gold"));
    assert_eq!(ask(&gateway, "declared-key").expect(200).echoed("x-credential-tier"), None);
    let listed = gateway.admin_get("/consumers/alice/key-auth").expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2, "{listed}");
    let own = gateway.admin_get(&format!("/consumers/alice/key-auth/{id}")).expect(200).json();
    assert_eq!((&own["tier"], &own["tags"], &own["key"]), (&json!("gold"), &json!(["shop"]), &Value::Null));
    gateway.admin_get(&format!("/consumers/bob/key-auth/{id}")).expect(404);
    assert_eq!(gateway.admin_get("/key-auths?tags=shop").json()["data"][0]["id"], json!(id));
    assert_eq!(gateway.admin_get(&format!("/key-auths/{id}/consumer")).json()["username"], "alice");
    order(&gateway, "DELETE", &format!("/consumers/bob/key-auth/{id}"), &Value::Null).expect(404);
    ask(&gateway, &key).expect(200);
    order(&gateway, "DELETE", &format!("/consumers/alice/key-auth/{id}"), &Value::Null).expect(204);
    ask(&gateway, &key).expect_templated(401, "Unauthorized");
    order(&gateway, "DELETE", &format!("/key-auths/{id}"), &Value::Null).expect(404);
    gateway.admin_get(&format!("/key-auths/{id}")).expect(404);
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    let make = |body: Value| order(&gateway, "POST", "/consumers/alice/key-auth", &body);
    for (body, field) in [
        (json!({ "keys": "x" }), "keys"),
        (json!({ "key": 7 }), "key"),
        (json!({ "key": "" }), "key"),
        (json!({ "key": "a\nb" }), "key"),
        (json!({ "key": "x".repeat(2000) }), "key"),
        (json!({ "ttl": -1 }), "ttl"),
        (json!({ "ttl": "60" }), "ttl"),
        (json!({ "tags": "a" }), "tags"),
        (json!({ "tags": [1] }), "tags"),
        (json!({ "tier": ["gold"] }), "tier"),
        (json!({ "overlap": 60 }), "overlap"),
    ] {
        let reply = make(body.clone()).expect(400).json();
        assert_eq!(reply["name"], "schema violation", "{body}");
        assert!(reply["fields"][field].is_string(), "{body}: {reply}");
    }
    make(json!(["x"])).expect(400);
    order(&gateway, "POST", "/consumers/nobody/key-auth", &Value::Null).expect(404);
    // A key of the file is the file's, and so is its text.
    let reply = make(json!({ "key": "declared-key" })).expect(409).json();
    assert_eq!(reply["fields"]["key"], "already exists");
    make(json!({ "key": "chosen-key" })).expect(201);
    make(json!({ "key": "chosen-key" })).expect(409);
    ask(&gateway, "chosen-key").expect(200);
    let declared = "/consumers/alice/key-auth/7c2a4a5e-3b0e-4d0c-9c8b-0a1b2c3d4e5f";
    order(&gateway, "DELETE", declared, &Value::Null).expect(405);
    ask(&gateway, "declared-key").expect(200);
    // What an order does not use is not passed over.
    let (id, _) = self::make(&gateway, &json!({ "tier": "gold" }));
    for (method, body, field) in [
        ("PATCH", json!({ "key": "other-key", "tier": "lead" }), "key"),
        ("PATCH", json!({ "key": null }), "key"),
        ("PATCH", json!({ "overlap": 60 }), "overlap"),
        ("DELETE", json!({ "overlap": 60 }), "overlap"),
    ] {
        let reply = order(&gateway, method, &format!("/key-auths/{id}"), &body).expect(400).json();
        assert!(reply["fields"][field].is_string(), "{method} {body}: {reply}");
    }
    assert_eq!(gateway.admin_get(&format!("/key-auths/{id}")).expect(200).json()["tier"], "gold");
    // A web page cannot make keys.
    let page = Request::post("/consumers/alice/key-auth", "").host(&gateway.admin().to_string());
    send(gateway.admin(), &page.header("Origin", "http://evil.test")).expect(403);
}

#[test]
fn a_key_ends_by_itself_and_can_be_changed() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    let (_, short) = make(&gateway, &json!({ "ttl": 1 }));
    let (id, long) = make(&gateway, &json!({ "ttl": 600 }));
    eventually("the short one ends", || ask(&gateway, &short).status == 401);
    ask(&gateway, &long).expect(200);
    let changed = order(&gateway, "PATCH", &format!("/key-auths/{id}"), &json!({ "ttl": null, "tier": "gold" }));
    let changed = changed.expect(200).json();
    assert_eq!((&changed["ttl"], &changed["tier"]), (&Value::Null, &json!("gold")));
    order(&gateway, "PATCH", &format!("/key-auths/{id}"), &json!({ "ttl": 1 })).expect(200);
    eventually("the long one ends", || ask(&gateway, &long).status == 401);
}

#[test]
fn a_rotated_key_overlaps_as_long_as_it_is_told_to() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    let (id, old) = make(&gateway, &json!({ "tier": "gold", "tags": ["shop"] }));
    let rotate = |id: &str, body: Value| {
        let made = order(&gateway, "POST", &format!("/consumers/alice/key-auth/{id}/rotate"), &body).expect(201).json();
        assert_eq!(made["replaces"], id);
        assert_eq!((&made["tier"], &made["tags"]), (&json!("gold"), &json!(["shop"])));
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    };
    let (second, new) = rotate(&id, json!({ "overlap": 600 }));
    ask(&gateway, &old).expect(200);
    ask(&gateway, &new).expect(200);
    let ends = gateway.admin_get(&format!("/key-auths/{id}")).json()["ttl"].as_u64().unwrap();
    assert!((500..=600).contains(&ends), "{ends}");
    let (third, newest) = rotate(&second, Value::Null);
    ask(&gateway, &new).expect(401);
    ask(&gateway, &newest).expect(200);
    let (_, last) = rotate(&third, json!({ "overlap": 1 }));
    eventually("the overlap ends", || ask(&gateway, &newest).status == 401);
    ask(&gateway, &last).expect(200);
}

#[test]
fn a_rotated_key_ends_when_the_old_one_would_have() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    let (id, _) = make(&gateway, &json!({ "ttl": 600 }));
    let rotate =
        |id: &str, body: Value| order(&gateway, "POST", &format!("/key-auths/{id}/rotate"), &body).expect(201).json();
    let second = rotate(&id, Value::Null);
    assert!((500..=600).contains(&second["ttl"].as_u64().unwrap()), "{second}");
    let third = rotate(second["id"].as_str().unwrap(), json!({ "ttl": 6000 }));
    assert!(third["ttl"].as_u64().unwrap() > 5000, "{third}");
    assert_eq!(rotate(third["id"].as_str().unwrap(), json!({ "ttl": null }))["ttl"], Value::Null);
}

/// Whoever loses the race is told so, and leaves no key behind that nobody knows.
#[test]
fn of_two_rotations_at_once_one_is_carried_out() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    for _ in 0..10 {
        let (id, _) = make(&gateway, &Value::Null);
        let rotate = || order(&gateway, "POST", &format!("/key-auths/{id}/rotate"), &Value::Null).status;
        let mut statuses = thread::scope(|scope| {
            let racing = [(); 6].map(|()| scope.spawn(rotate));
            racing.map(|one| one.join().unwrap())
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 404, 404, 404, 404, 404]);
    }
    let listed = gateway.admin_get("/key-auths?size=1000").expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1 + 10, "{listed}");
}

/// An order that was begun is carried out whole, whether or not somebody waits for its answer.
#[test]
fn a_revocation_takes_the_connections_when_nobody_waits_for_it() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    for _ in 0..20 {
        let (id, key) = make(&gateway, &Value::Null);
        let mut client = gateway.connect();
        client.send(&Request::get("/plain").header("apikey", &key)).expect(200);
        let mut admin = Client::connect(gateway.admin());
        let head = format!("DELETE /key-auths/{id} HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.admin());
        admin.write(head.as_bytes()).unwrap();
        // It opens nothing from before it is on disk.
        let (mut other, probe) = (gateway.connect(), Request::get("/plain").header("apikey", &key));
        while other.try_send(&probe).is_ok_and(|reply| reply.status == 200) {}
        drop(admin);
        assert!(client.is_reset_within(Duration::from_secs(5)));
    }
}

/// Whether the key opens nothing; a request that is under way while it is taken away is cut.
fn is_refused(gateway: &Gateway, key: &str) -> bool {
    let probe = Request::get("/plain").header("apikey", key);
    gateway.connect().try_send(&probe).is_ok_and(|reply| reply.status == 401)
}

/// An open WebSocket that lives by the key.
fn tunnel(gateway: &Gateway, key: &str) -> Client {
    let mut client = gateway.connect();
    let request = Request::get("/plain")
        .header("apikey", key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    client.send(&request).expect(101);
    says(&mut client);
    client
}

#[track_caller]
fn says(client: &mut Client) {
    client.write(b"ping").unwrap();
    assert_eq!(client.read_exact(4).unwrap(), b"ping");
}

#[test]
fn open_websockets_end_with_their_key_however_it_ends() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let config = text(&upstream, folder.path());
    let gateway = Gateway::start(&config);
    let (_, other) = make(&gateway, &Value::Null);
    let (mut others, mut declared) = (tunnel(&gateway, &other), tunnel(&gateway, "declared-key"));
    let ended = |client: &mut Client| client.is_reset_within(Duration::from_secs(10));

    let (id, key) = make(&gateway, &Value::Null);
    let mut revoked = [tunnel(&gateway, &key), tunnel(&gateway, &key), tunnel(&gateway, &key)];
    order(&gateway, "DELETE", &format!("/consumers/alice/key-auth/{id}"), &Value::Null).expect(204);
    assert!(revoked.iter_mut().all(ended), "revoked, on every worker");

    let (id, key) = make(&gateway, &Value::Null);
    let mut rotated = tunnel(&gateway, &key);
    let new = order(&gateway, "POST", &format!("/key-auths/{id}/rotate"), &Value::Null).expect(201).json();
    assert!(ended(&mut rotated), "rotated");
    let (id, key) = (new["id"].as_str().unwrap(), new["key"].as_str().unwrap());
    let mut overlapping = tunnel(&gateway, key);
    order(&gateway, "POST", &format!("/key-auths/{id}/rotate"), &json!({ "overlap": 2 })).expect(201);
    says(&mut overlapping);
    assert!(ended(&mut overlapping), "the overlap is over");

    let (_, key) = make(&gateway, &json!({ "ttl": 2 }));
    assert!(ended(&mut tunnel(&gateway, &key)), "its time is over");
    // An end that was put off is none.
    let (id, key) = make(&gateway, &json!({ "ttl": 2 }));
    let mut put_off = tunnel(&gateway, &key);
    order(&gateway, "PATCH", &format!("/key-auths/{id}"), &json!({ "ttl": null })).expect(200);
    let (_, key) = make(&gateway, &json!({ "ttl": 2 }));
    assert!(ended(&mut tunnel(&gateway, &key)), "a later one's time is over");
    says(&mut put_off);

    says(&mut others);
    says(&mut declared);
    let carols = config.replace("username: alice", "username: carol");
    gateway.reload(&carols, || is_refused(&gateway, &other));
    assert!(ended(&mut others) && ended(&mut put_off) && ended(&mut declared), "the consumer is gone");
}

#[test]
fn keys_are_kept_and_their_text_is_not() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let config = text(&upstream, folder.path());
    let gateway = Gateway::start(&config);
    let (kept_id, kept) = make(&gateway, &json!({ "tier": "gold" }));
    let (gone_id, gone) = make(&gateway, &Value::Null);
    order(&gateway, "DELETE", &format!("/key-auths/{gone_id}"), &Value::Null).expect(204);
    // The file is the source of consumers: who is not in it opens nothing, and does again when he is back.
    let carols = config.replace("username: alice", "username: carol");
    gateway.reload(&carols, || is_refused(&gateway, &kept));
    gateway.reload(&config, || ask(&gateway, &kept).status == 200);
    gateway.access_record(|record| record["status"] == 200);
    let said = gateway.stdout() + &gateway.stderr();
    assert!(!said.contains(&kept) && !said.contains(&gone), "no key is logged");
    // It has no time to do anything more.
    drop(gateway);
    let log = std::fs::read_to_string(folder.path().join("keys")).unwrap();
    assert!(log.contains(&kept_id) && !log.contains(&kept) && !log.contains(&gone), "{log}");
    let gateway = Gateway::start(&config);
    let reply = ask(&gateway, &kept).expect(200);
    assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some(&*kept_id));
    assert_eq!(reply.echoed("x-credential-tier").as_deref(), Some("gold"));
    ask(&gateway, &gone).expect(401);
    let exit = Setup::new(&config).refuse();
    assert!(exit.stderr.contains("another process has this log of keys"), "{}", exit.stderr);
}

#[test]
fn without_a_log_nothing_can_be_written() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&upstream.fill(CONFIG).replace("  issued_keys: @LOG@\n", ""));
    order(&gateway, "POST", "/consumers/alice/key-auth", &Value::Null).expect(405);
    ask(&gateway, "declared-key").expect(200);
}

/// What counts is the admin's answer: a request that is sent after it is refused, on every worker.
#[test]
fn no_request_after_the_answer_is_let_through() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&text(&upstream, folder.path()));
    let (mut late, mut served) = (0, 0);
    for _ in 0..20 {
        let (id, key) = make(&gateway, &Value::Null);
        let (stop, revoked) = (AtomicBool::new(false), AtomicBool::new(false));
        let (good, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    let request = Request::get("/plain").header("apikey", &key);
                    while !stop.load(Ordering::SeqCst) {
                        let too_late = revoked.load(Ordering::SeqCst);
                        let Ok(reply) = client.try_send(&request) else {
                            client = gateway.connect();
                            continue;
                        };
                        if reply.status == 200 {
                            (if too_late { &after } else { &good }).fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            eventually("it is used", || good.load(Ordering::SeqCst) > 20);
            order(&gateway, "DELETE", &format!("/key-auths/{id}"), &Value::Null).expect(204);
            revoked.store(true, Ordering::SeqCst);
            for _ in 0..20 {
                ask(&gateway, &key).expect(401);
            }
            stop.store(true, Ordering::SeqCst);
        });
        late += after.load(Ordering::SeqCst);
        served += good.load(Ordering::SeqCst);
    }
    say(&format!("FIGURE requests accepted after a revocation's answer: {late} (before it: {served})"));
    assert_eq!(late, 0);
}
