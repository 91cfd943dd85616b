//! ldap-auth: whose password a directory knows, what it is asked and how often, what becomes of each answer.

use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::directory::{BASE, Directory, PEOPLE};
use gateway_tests::tls::Pair;
use gateway_tests::{Gateway, Reply, Request, Setup, Upstream, eventually};

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins: [{ name: ldap-auth, config: { @AT@, base_dn: "@PEOPLE@", attribute: uid } }]
  - name: top
    paths: [/top]
    plugins: [{ name: ldap-auth, config: { @AT@, base_dn: "@BASE@", attribute: uid } }]
  - name: hidden
    paths: [/hidden]
    plugins:
    - name: ldap-auth
      config: { @AT@, base_dn: "@PEOPLE@", attribute: uid, header_type: basic, hide_credentials: true, realm: r }
  - name: open
    paths: [/open]
    plugins:
    - name: ldap-auth
      config: { @AT@, base_dn: "@PEOPLE@", attribute: uid, anonymous: nobody, timeout: 500, cache_ttl: 0 }
  - name: hasty
    paths: [/hasty]
    plugins: [{ name: ldap-auth, config: { @AT@, base_dn: "@PEOPLE@", attribute: uid, timeout: 500, cache_ttl: 0 } }]
  - name: start-tls
    paths: [/start-tls]
    plugins: [{ name: ldap-auth, config: { @AT@, base_dn: "@PEOPLE@", attribute: uid, start_tls: true } }]
  - name: start-tls-verified
    paths: [/start-tls-verified]
    plugins:
    - name: ldap-auth
      config: { @AT@, base_dn: "@PEOPLE@", attribute: uid, start_tls: true, verify_ldap_host: true }
  - name: tls
    paths: [/tls]
    plugins: [{ name: ldap-auth, config: { @TLS@, base_dn: "@PEOPLE@", attribute: uid, ldaps: true } }]
  - name: tls-verified
    paths: [/tls-verified]
    plugins:
    - name: ldap-auth
      config: { @TLS@, base_dn: "@PEOPLE@", attribute: uid, ldaps: true, verify_ldap_host: true }
consumers:
- username: nobody
"#;

struct Scene {
    upstream: Upstream,
    directory: Directory,
}

impl Scene {
    fn new() -> Self {
        Scene { upstream: Upstream::echo(), directory: Directory::start(&Pair::new(&["localhost"])) }
    }

    fn text(&self) -> String {
        let at = |port: u16| format!("ldap_host: localhost, ldap_port: {port}");
        let text = CONFIG.replace("@AT@", &at(self.directory.port())).replace("@TLS@", &at(self.directory.tls_port()));
        self.upstream.fill(&text.replace("@PEOPLE@", PEOPLE).replace("@BASE@", BASE))
    }

    fn start(&self) -> Gateway {
        Gateway::start(&self.text())
    }
}

fn credentials(scheme: &str, user: &str, password: &str) -> String {
    format!("{scheme} {}", STANDARD.encode(format!("{user}:{password}")))
}

fn ask(gateway: &Gateway, path: &str, user: &str, password: &str) -> Reply {
    let scheme = if path == "/hidden" { "Basic" } else { "ldap" };
    gateway.send(&Request::get(path).header("Authorization", &credentials(scheme, user, password)))
}

const UNKNOWN: &str = r#"{"message":"The directory cannot be asked now"}"#;

#[test]
fn a_password_that_the_directory_knows_opens() {
    let scene = Scene::new();
    let gateway = scene.start();
    for (user, password) in [("ann", "ann-word"), ("ben", "ben:word"), ("smith, john+1", "smith-word")] {
        let header = credentials("LDAP", user, password);
        let request = Request::get("/plain").header("Authorization", &header).header("X-Consumer-Username", "forged");
        let reply = gateway.send(&request).expect(200);
        assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some(user));
        assert_eq!(reply.echoed("x-consumer-username"), None);
        assert_eq!(reply.echoed("authorization"), Some(header));
    }
    ask(&gateway, "/plain", "jürgen", "jürgen-word").expect(200);
    let reply = ask(&gateway, "/hidden", "ann", "ann-word").expect(200);
    assert_eq!(reply.echoed("authorization"), None);
    for (user, password) in [("ann", "ben:word"), ("ann", "ann-word "), ("ann", "ANN-WORD"), ("eve", "ann-word")] {
        let reply = ask(&gateway, "/plain", user, password);
        assert_eq!(reply.header("www-authenticate"), Some("LDAP"));
        reply.expect_templated(401, "Unauthorized");
    }
    let reply = gateway.get("/hidden");
    assert_eq!(reply.header("www-authenticate"), Some("basic realm=\"r\""));
    reply.expect_templated(401, "Unauthorized");
    ask(&gateway, "/open", "ann", "ann-word").expect(200);
    let open = ask(&gateway, "/open", "ann", "wrong").expect(200);
    assert_eq!(open.echoed("x-anonymous-consumer").as_deref(), Some("true"));
}

#[test]
fn the_other_header_counts_when_the_first_opens_nothing() {
    let scene = Scene::new();
    let gateway = scene.start();
    let (good, bad) = (credentials("ldap", "ann", "ann-word"), credentials("ldap", "ann", "wrong"));
    let ask = |proxy: &str, own: &str| {
        gateway.send(&Request::get("/plain").header("Proxy-Authorization", proxy).header("Authorization", own)).status
    };
    assert_eq!([ask(&good, &bad), ask(&bad, &good), ask("x", &good), ask(&bad, &bad)], [200, 200, 200, 401]);
    let twice = Request::get("/plain").header("Authorization", &good).header("Authorization", &bad);
    gateway.send(&twice).expect(401);
}

/// The directory of these tests grants a bind without a password, as RFC 4513 has it: nobody may get in by one.
#[test]
fn nothing_is_asked_without_a_password() {
    let scene = Scene::new();
    let gateway = scene.start();
    for (user, password) in [("ann", ""), ("", ""), ("", "x")] {
        ask(&gateway, "/plain", user, password).expect(401);
    }
    gateway.send(&Request::get("/plain").header("Authorization", "ldap !")).expect(401);
    gateway.get("/plain").expect(401);
    assert_eq!(scene.directory.binds(), Vec::<String>::new());
}

/// A name stays one value of one part of the name that binds.
#[test]
fn names_are_no_way_out_of_their_place() {
    let scene = Scene::new();
    let gateway = scene.start();
    // Without escapes the first would bind as uid=ann,ou=people below the top.
    for user in [
        "ann,ou=people",
        "x+uid=ann,ou=people",
        "ann,ou=people,dc=a,dc=test#",
        "ann,ou=people\0",
        "ann\\,ou=people",
        "ann;ou=people",
        "*",
        "ann)(uid=*",
        " ann",
        "#616e6e",
        "ann\n",
    ] {
        ask(&gateway, "/top", user, "ann-word").expect(401);
    }
    for user in ["ann+cn=ann", "\"ann\"", "\\61nn", "#04036e6e6e", "ann,"] {
        ask(&gateway, "/plain", user, "ann-word").expect(401);
    }
    for dn in scene.directory.binds() {
        let commas = dn.replace("\\,", "").replace("\\2C", "").matches(',').count();
        assert!(commas <= 3, "{dn}");
    }
    ask(&gateway, "/plain", "ann", "ann-word").expect(200);
}

#[test]
fn the_same_pair_is_asked_about_once() {
    let mut scene = Scene::new();
    let gateway = scene.start();
    for _ in 0..5 {
        ask(&gateway, "/plain", "ann", "ann-word").expect(200);
        ask(&gateway, "/plain", "ann", "wrong").expect(401);
    }
    let expected = format!("uid=ann,{PEOPLE}");
    assert_eq!(scene.directory.binds(), [expected.clone(), expected]);
    // What belongs together does not move from the name to the password.
    ask(&gateway, "/plain", "an", "nann-word").expect(401);
    thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&gateway, "/plain", "ben", "ben:word").status)).collect();
        assert!(asked.into_iter().all(|asked| asked.join().is_ok_and(|status| status == 200)));
    });
    assert_eq!(scene.directory.binds().iter().filter(|dn| dn.starts_with("uid=ben")).count(), 1);
    // With a time of 0 nothing is remembered.
    for _ in 0..2 {
        ask(&gateway, "/hasty", "ann", "ann-word").expect(200);
    }
    assert_eq!(scene.directory.binds().len(), 6);
    scene.directory.kill();
    ask(&gateway, "/plain", "ann", "ann-word").expect(200);
    ask(&gateway, "/hasty", "ann", "ann-word").expect_compact(503, UNKNOWN);
}

#[test]
fn a_directory_that_is_away_is_an_answer() {
    let mut scene = Scene::new();
    let gateway = scene.start();
    ask(&gateway, "/hasty", "ann", "ann-word").expect(200);
    scene.directory.pause();
    let reply = ask(&gateway, "/hasty", "ben", "ben:word");
    assert_eq!(reply.header("retry-after"), Some("1"));
    reply.expect_compact(503, UNKNOWN);
    let open = ask(&gateway, "/open", "ben", "ben:word").expect(200);
    assert_eq!(open.echoed("x-anonymous-consumer").as_deref(), Some("true"));
    gateway.get("/hasty").expect(401);
    scene.directory.resume();
    eventually("it goes on", || ask(&gateway, "/hasty", "ben", "ben:word").status == 200);
    scene.directory.kill();
    eventually("it is gone", || ask(&gateway, "/hasty", "ben", "ben:word").status == 503);
    scene.directory.restart();
    eventually("it is back", || ask(&gateway, "/hasty", "ben", "ben:word").status == 200);
    ask(&gateway, "/hasty", "ben", "wrong").expect(401);
}

#[test]
fn tls_from_the_first_byte_and_when_asked_for() {
    let scene = Scene::new();
    let certificate = scene.directory.certificate();
    let trusting = Setup::new(&scene.text()).env("SSL_CERT_FILE", certificate.to_str().unwrap()).start();
    let gateway = scene.start();
    for path in ["/start-tls", "/tls"] {
        ask(&gateway, path, "ann", "ann-word").expect(200);
        ask(&gateway, path, "ann", "wrong").expect(401);
    }
    for path in ["/start-tls-verified", "/tls-verified"] {
        ask(&gateway, path, "ann", "ann-word").expect_compact(503, UNKNOWN);
        ask(&trusting, path, "ann", "ann-word").expect(200);
    }
}

#[test]
fn servers_that_speak_something_else_are_no_answer() {
    let scene = Scene::new();
    for said in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x30\x80\x02\x01\x02",
        b"\x30\x84\xff\xff\xff\xff",
        // A good answer to another question, and one behind which more stands.
        b"\x30\x0c\x02\x01\x07\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
        b"\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00\x30",
        b"\x30\x0c\x02\x01\x02\x78\x07\x0a\x01\x00\x04\x00\x04\x00",
        b"",
    ] {
        let liar = liar(said);
        let port = format!("ldap_port: {}", scene.directory.port());
        let gateway = Gateway::start(&scene.text().replace(&port, &format!("ldap_port: {liar}")));
        ask(&gateway, "/plain", "ann", "ann-word").expect_compact(503, UNKNOWN);
    }
}

/// A server that says this to whoever has spoken.
fn liar(said: &'static [u8]) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whoever hangs up before is gone.
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(said);
        }
    });
    port
}

#[test]
fn no_password_is_told_to_a_log() {
    let scene = Scene::new();
    let gateway = Setup::new(&scene.text()).env("RUST_LOG", "debug").start();
    for (path, user, password) in [("/plain", "ann", "ann-word"), ("/tls-verified", "ann", "ann-word")] {
        ask(&gateway, path, user, password);
    }
    let header = credentials("ldap", "ann", "ann-word");
    eventually("both are logged", || gateway.access_log().len() == 2);
    let said = format!("{}{}", gateway.stdout(), gateway.stderr());
    assert!(said.contains("cannot be asked"), "{said}");
    for secret in ["ann-word", &header] {
        assert!(!said.contains(secret), "{said}");
    }
}
