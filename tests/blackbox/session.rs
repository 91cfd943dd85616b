//! session: whoever was recognised once is recognised by a cookie, which nobody can make, change, move or keep too long.

use std::thread;
use std::time::Duration;

use gateway_tests::gateway::command;
use gateway_tests::{Client, Gateway, Reply, Request, Setup, Upstream, eventually, send};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins:
    - { name: session, config: { secret: @SECRET@, cookie_secure: false } }
    - { name: key-auth, config: { anonymous: nobody } }
    - { name: basic-auth, config: { anonymous: nobody } }
    - { name: acl, config: { allow: [staff] } }
  - name: open
    paths: [/open]
    plugins:
    - { name: session, config: { secret: @SECRET@, cookie_secure: false } }
    - { name: key-auth, config: { anonymous: nobody } }
  - name: strict
    paths: [/strict]
    plugins:
    - { name: session, config: { secret: @SECRET@, cookie_secure: false } }
    - { name: key-auth }
  - name: other
    paths: [/other]
    plugins:
    - { name: session, config: { secret: @SECRET@, cookie_name: other, audience: other } }
    - { name: key-auth, config: { anonymous: nobody } }
  - name: same
    paths: [/same]
    plugins:
    - { name: session, config: { secret: @SECRET@, audience: other } }
    - { name: key-auth, config: { anonymous: nobody } }
  - name: shaped
    paths: [/shaped]
    plugins:
    - name: session
      config:
        secret: @SECRET@
        cookie_name: shaped
        cookie_path: /shaped
        cookie_domain: a.test
        cookie_same_site: Lax
        cookie_http_only: false
    - { name: key-auth, config: { anonymous: nobody } }
  - name: end
    paths: [/end]
    plugins:
    - name: session
      config: { secret: @SECRET@, logout_methods: [GET, POST], logout_query_arg: bye, logout_post_arg: out, read_body_for_logout: true }
    - { name: key-auth, config: { anonymous: nobody } }
  - name: short
    paths: [/short]
    plugins:
    - { name: session, config: { secret: @SECRET@, cookie_name: short, absolute_timeout: 8, rolling_timeout: 6, idling_timeout: 0 } }
    - { name: key-auth, config: { anonymous: nobody } }
  - name: kept
    paths: [/kept]
    plugins:
    - name: session
      config: { secret: @SECRET@, cookie_name: kept, remember: true, remember_cookie_name: stay, idling_timeout: 1 }
    - { name: key-auth, config: { anonymous: nobody } }
consumers:
- username: ann
  custom_id: a-1
  keyauth_credentials: [{ key: ann-key }]
  basicauth_credentials: [{ username: ann, password: ann-word }]
  acls: [{ group: staff }]
- username: ben
  keyauth_credentials: [{ key: ben-key }]
- username: nobody
"#;

const SECRET: &str = "a-secret-of-thirty-two-characters";

fn text(upstream: &Upstream) -> String {
    upstream.fill(&CONFIG.replace("@SECRET@", SECRET))
}

fn scene() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&text(&upstream));
    (upstream, gateway)
}

fn with_key(path: &str, key: &str) -> Request {
    Request::get(path).header("apikey", key)
}

fn with_cookie(path: &str, cookie: &str) -> Request {
    Request::get(path).header("Cookie", cookie)
}

/// `name=value` of the cookie that an answer sets.
fn cookie(reply: &Reply, name: &str) -> String {
    let all = reply.all("set-cookie");
    let found = all.iter().find(|line| line.starts_with(&format!("{name}=")));
    found.unwrap_or_else(|| panic!("no cookie {name} in {all:?}")).split(';').next().unwrap().to_owned()
}

fn consumer(reply: Reply) -> Option<String> {
    reply.expect(200).echoed("x-consumer-username")
}

#[test]
fn whoever_was_recognised_once_is_by_the_cookie() {
    let (_upstream, gateway) = scene();
    let first = gateway.send(&with_key("/plain", "ann-key")).expect(200);
    let attributes = first.header("set-cookie").unwrap().split_once("; ").unwrap().1.to_owned();
    assert_eq!(attributes, "Path=/; SameSite=Strict; HttpOnly");
    let session = cookie(&first, "session");
    for _ in 0..2 {
        let request = with_cookie("/plain", &format!("a=1; {session}; b=2"));
        let reply = gateway.send(&request.header("X-Credential-Identifier", "forged")).expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"));
        assert_eq!(reply.echoed("x-consumer-custom-id").as_deref(), Some("a-1"));
        assert_eq!(reply.echoed("x-consumer-groups").as_deref(), Some("staff"), "acl knows who it is");
        assert_eq!(reply.echoed("x-anonymous-consumer"), None);
        assert_eq!(reply.echoed("x-credential-identifier"), None);
        assert_eq!(reply.echoed("cookie").as_deref(), Some("a=1; b=2"), "nobody behind the gateway needs it");
        assert_eq!(reply.header("set-cookie"), None, "there is nothing new to keep");
    }
    // By another way to log in; the same cookie counts on all routes that know the secret.
    let basic = Request::get("/plain").header("Authorization", "Basic YW5uOmFubi13b3Jk");
    let session = cookie(&gateway.send(&basic).expect(200), "session");
    assert_eq!(consumer(gateway.send(&with_cookie("/open", &session))).as_deref(), Some("ann"));
    // Without `anonymous` a credential is asked for all the same.
    gateway.send(&with_cookie("/strict", &session)).expect(401);
    gateway.send(&with_key("/strict", "ann-key").header("Cookie", &session)).expect(200);
}

#[test]
fn nobody_else_gets_one() {
    let (_upstream, gateway) = scene();
    gateway.get("/plain").expect(401);
    for request in [Request::get("/open"), with_key("/open", "wrong"), with_key("/strict", "wrong")] {
        assert_eq!(gateway.send(&request).header("set-cookie"), None);
    }
    assert_eq!(consumer(gateway.get("/open")).as_deref(), Some("nobody"));
}

#[test]
fn what_was_not_sealed_here_is_no_session() {
    let (_upstream, gateway) = scene();
    let session = cookie(&gateway.send(&with_key("/open", "ann-key")), "session");
    let value = session.strip_prefix("session=").unwrap();
    let mut changed = value.to_owned().into_bytes();
    let at = changed.len() / 2;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let other = cookie(&gateway.send(&with_key("/other", "ann-key")), "other");
    let moved = format!("session={}", other.strip_prefix("other=").unwrap());
    for bad in [
        format!("session={changed}"),
        format!("session={}", &value[..value.len() - 4]),
        format!("session={value}AAAA"),
        format!("session={}", "A".repeat(5000)),
        "session=".to_owned(),
        "session=x".to_owned(),
        format!("session2={value}"),
        moved.clone(),
    ] {
        let reply = gateway.send(&with_cookie("/open", &bad)).expect(200);
        assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("nobody"), "{bad}");
    }
    // Another audience, also under the same name.
    assert_eq!(consumer(gateway.send(&with_cookie("/same", &session))).as_deref(), Some("nobody"));
    assert_eq!(consumer(gateway.send(&with_cookie("/same", &moved))).as_deref(), Some("nobody"), "under another name");
    // A good one beside bad ones counts.
    let both = format!("session=x; {session}");
    assert_eq!(consumer(gateway.send(&with_cookie("/open", &both))).as_deref(), Some("ann"));
    // Who shows a credential of somebody else gets that one's session.
    let reply = gateway.send(&with_key("/strict", "ben-key").header("Cookie", &session)).expect(200);
    let session = cookie(&reply, "session");
    assert_eq!(consumer(gateway.send(&with_cookie("/open", &session))).as_deref(), Some("ben"));
}

#[test]
fn attributes_and_logout_are_as_they_are_told() {
    let (_upstream, gateway) = scene();
    let reply = gateway.send(&with_key("/shaped", "ann-key")).expect(200);
    let attributes = reply.header("set-cookie").unwrap().split_once("; ").unwrap().1;
    assert_eq!(attributes, "Path=/shaped; Domain=a.test; SameSite=Lax; Secure");

    let session = cookie(&gateway.send(&with_key("/end", "ann-key")), "session");
    let form = Request::post("/end", "out=1").header("Content-Type", "application/x-www-form-urlencoded");
    let json = Request::post("/end", "{\"out\":true}").header("Content-Type", "application/json");
    for request in [Request::get("/end?bye=1"), Request::get("/end?a=1&bye"), form, json] {
        let reply = gateway.send(&request.header("Cookie", &session)).expect(200);
        assert!(reply.body.is_empty(), "nobody behind the gateway is asked");
        let forgotten = reply.header("set-cookie").unwrap();
        assert!(forgotten.starts_with("session=; Path=/; SameSite=Strict; Max-Age=0"), "{forgotten}");
    }
    // Not without a session, with another method, argument or kind of body.
    for request in [
        Request::get("/end?session_logout=1").header("Cookie", &session),
        Request::new("DELETE", "/end?bye=1").header("Cookie", &session),
        Request::post("/end", "out=1").header("Content-Type", "text/plain").header("Cookie", &session),
        Request::post("/plain", "session_logout=1").header("Cookie", &session).header("apikey", "ann-key"),
        Request::get("/end?bye=1"),
    ] {
        let reply = gateway.send(&request).expect(200);
        assert!(reply.echoed("x-consumer-username").is_some(), "{} {}", request.method, request.target);
    }
    gateway.send(&Request::post("/plain?session_logout=1", "").header("Cookie", &session)).expect(200);
}

#[test]
fn times_end_it_whoever_keeps_it() {
    let (_upstream, gateway) = scene();
    let first = cookie(&gateway.send(&with_key("/short", "ann-key")), "short");
    let mut current = first.clone();
    let mut renewals = 0;
    // In use all the time it is renewed, and ends all the same.
    eventually("it ends", || {
        let reply = gateway.send(&with_cookie("/short", &current)).expect(200);
        if reply.header("set-cookie").is_some() {
            current = cookie(&reply, "short");
            renewals += 1;
        }
        reply.echoed("x-consumer-username").as_deref() == Some("nobody")
    });
    assert!(renewals > 0, "it was renewed");
    for old in [&first, &current] {
        assert_eq!(consumer(gateway.send(&with_cookie("/short", old))).as_deref(), Some("nobody"));
    }
}

#[test]
fn a_browser_that_was_closed_is_remembered() {
    let (_upstream, gateway) = scene();
    let reply = gateway.send(&with_key("/kept", "ann-key")).expect(200);
    let (session, remember) = (cookie(&reply, "kept"), cookie(&reply, "stay"));
    let lines = reply.all("set-cookie");
    assert!(!lines[0].contains("Max-Age"), "{lines:?}");
    assert!(lines[1].contains("; Max-Age=604800;"), "{lines:?}");
    eventually("it is idle for too long", || {
        thread::sleep(Duration::from_secs(2));
        consumer(gateway.send(&with_cookie("/kept", &session))).as_deref() == Some("nobody")
    });
    let reply = gateway.send(&with_cookie("/kept", &format!("{session}; {remember}"))).expect(200);
    assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"));
    assert_eq!(reply.echoed("cookie"), None);
    let again = cookie(&reply, "kept");
    assert_eq!(consumer(gateway.send(&with_cookie("/kept", &again))).as_deref(), Some("ann"));
    // One is not the other.
    let swapped = format!("kept={}", remember.strip_prefix("stay=").unwrap());
    assert_eq!(consumer(gateway.send(&with_cookie("/kept", &swapped))).as_deref(), Some("nobody"));
}

/// Far longer than it takes; far shorter than a connection may be idle.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn it_ends_with_the_credential() {
    let (upstream, gateway) = scene();
    let text = text(&upstream);
    let by_key = cookie(&gateway.send(&with_key("/open", "ann-key")), "session");
    let basic = Request::get("/plain").header("Authorization", "Basic YW5uOmFubi13b3Jk");
    let by_word = cookie(&gateway.send(&basic), "session");
    let ben = cookie(&gateway.send(&with_key("/open", "ben-key")), "session");
    let who = |cookie: &str| consumer(gateway.send(&with_cookie("/open", cookie))).unwrap();
    let mut live = Client::connect(gateway.proxy());
    live.send(&with_cookie("/open", &by_key)).expect(200);
    // The password has the same id as before: what it is made of counts.
    let changed = text.replace("ann-key", "new-key").replace("ann-word", "new-word");
    gateway.replace_file(&changed);
    assert!(live.is_reset_within(AT_ONCE), "a connection that lives by it too");
    eventually("the key has gone", || who(&by_key) == "nobody");
    assert_eq!(who(&by_word), "nobody", "another password");
    assert_eq!(who(&ben), "ben", "the others go on");
    gateway.reload(&text.replace("- username: ben\n  keyauth_credentials: [{ key: ben-key }]\n", ""), || {
        gateway.status()["config"]["consumers"] == 2
    });
    assert_eq!(who(&ben), "nobody");
}

/// Keys that are made and taken back while the gateway runs.
#[test]
fn it_ends_with_an_issued_key() {
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().unwrap());
    let keys = folder.path().join("keys");
    let text = format!("{}gateway:\n  issued_keys: {}\n", text(&upstream), keys.display());
    let gateway = Gateway::start(&text);
    let made = gateway.admin_post("/consumers/ben/key-auth", "application/json", "{}").expect(201).json();
    let session = cookie(&gateway.send(&with_key("/open", made["key"].as_str().unwrap())), "session");
    let who = || consumer(gateway.send(&with_cookie("/open", &session))).unwrap();
    assert_eq!(who(), "ben");
    let target = format!("/consumers/ben/key-auth/{}", made["id"].as_str().unwrap());
    let revoke = Request::new("DELETE", &target).host(&gateway.admin().to_string());
    send(gateway.admin(), &revoke).expect(204);
    assert_eq!(who(), "nobody");
}

#[test]
fn gateways_with_the_same_secret_know_each_others() {
    let (upstream, gateway) = scene();
    let other = Gateway::start(&text(&upstream));
    let session = cookie(&gateway.send(&with_key("/open", "ann-key")), "session");
    assert_eq!(consumer(other.send(&with_cookie("/open", &session))).as_deref(), Some("ann"));
    let alone = text(&upstream).replace(&format!("secret: {SECRET}, "), "");
    let alone = Setup::new(&alone).start();
    assert!(alone.status()["config"]["warnings"].to_string().contains("without `secret`"));
    assert_eq!(consumer(alone.send(&with_cookie("/open", &session))).as_deref(), Some("nobody"));
    let own = cookie(&alone.send(&with_key("/open", "ann-key")), "session");
    assert_eq!(consumer(alone.send(&with_cookie("/open", &own))).as_deref(), Some("ann"));
    // A reload is no new process.
    let more = format!(
        "{}- username: eve\n",
        std::fs::read_to_string(alone.config_file()).unwrap().split("\ngateway:").next().unwrap()
    );
    let block = std::fs::read_to_string(alone.config_file()).unwrap().split_once("\ngateway:").unwrap().1.to_owned();
    alone.reload(&format!("{more}\ngateway:{block}"), || alone.status()["config"]["consumers"] == 4);
    assert_eq!(consumer(alone.send(&with_cookie("/open", &own))).as_deref(), Some("ann"));
}

#[test]
fn no_log_holds_one() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let plugin = format!("- {{ name: file-log, config: {{ path: {} }} }}", log.display());
    let text = text(&upstream).replace("services:\n", &format!("plugins:\n{plugin}\nservices:\n"));
    let gateway = Gateway::start(&text);
    let session = cookie(&gateway.send(&with_key("/open", "ann-key")), "session");
    gateway.send(&with_cookie("/open", &session)).expect(200);
    gateway.send(&with_cookie("/open?session_logout=1", &session)).expect(200);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("all are logged", || said().lines().count() == 3);
    let value = session.strip_prefix("session=").unwrap();
    assert!(!said().contains(value) && !gateway.stdout().contains(value), "{}", said());
}

#[test]
fn faults_are_told_at_their_places() {
    let text = r#"_format_version: "3.0"
plugins:
- name: session
  config:
    storage: kong
    secret: ""
    cookie_name: "a b"
    cookie_path: x
    cookie_same_site: strict
    logout_methods: [PUT]
    response_headers: [id]
    absolute_timeout: -1
    cookie_lifetime: 60
    lifetime: 1
"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    std::fs::write(&file, text).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2));
    for words in [
        "kong.yml:5:5: error: not yet supported: `storage: kong` of sessions",
        "kong.yml:6:5: error: `secret` is empty",
        "kong.yml:7:5: error: `cookie_name` `a b` is no cookie's name",
        "kong.yml:8:5: error: `cookie_path` is no path",
        "kong.yml:9:23: error: `cookie_same_site` is `strict`",
        "kong.yml:10:22: error: `logout_methods` has `PUT`",
        "kong.yml:11:5: error: not yet supported: `response_headers` of sessions",
        "kong.yml:12:23: error: `absolute_timeout` is -1",
        "kong.yml:13:5: warning: `cookie_lifetime` is deprecated: it is `rolling_timeout` now",
        "kong.yml:14:5: error: unknown field `lifetime`",
    ] {
        assert!(exit.stderr.contains(words), "{words}:\n{}", exit.stderr);
    }
}
