//! mtls-auth: who is asked for a certificate, whose is believed, which consumer it is, and what ends with it.

use std::sync::Arc;
use std::time::Duration;

use gateway_tests::authority::{Authority, Identity, Leaf};
use gateway_tests::tls::{self, Pair};
use gateway_tests::{Client, Gateway, Reply, Request, Upstream, h2};
use rustls::ClientConfig;

const ROOT: &str = "11111111-0000-4000-8000-000000000001";
const OTHER: &str = "11111111-0000-4000-8000-000000000002";
const BELOW: &str = "11111111-0000-4000-8000-000000000003";

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: plain
    paths: [/plain]
    plugins: [{ name: mtls-auth, config: { ca_certificates: [@ROOT@], revocation_check_mode: SKIP } }]
  - name: both
    paths: [/both]
    plugins: [{ name: mtls-auth, config: { ca_certificates: [@ROOT@, @OTHER@], revocation_check_mode: SKIP } }]
  - name: between
    paths: [/between]
    plugins: [{ name: mtls-auth, config: { ca_certificates: [@BELOW@, @ROOT@], revocation_check_mode: SKIP } }]
  - name: partial
    paths: [/partial]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@BELOW@], allow_partial_chain: true, revocation_check_mode: SKIP }
  - name: custom
    paths: [/custom]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@ROOT@], consumer_by: [custom_id], revocation_check_mode: SKIP }
  - name: mapped
    paths: [/mapped]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@ROOT@, @OTHER@], consumer_by: [], revocation_check_mode: SKIP }
  - name: default
    paths: [/default]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@ROOT@], default_consumer: ben, revocation_check_mode: SKIP }
  - name: open
    paths: [/open]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@ROOT@], anonymous: nobody, revocation_check_mode: SKIP }
  - name: anybody
    paths: [/anybody]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@ROOT@], skip_consumer_lookup: true, revocation_check_mode: SKIP }
  - name: group
    paths: [/group]
    plugins:
    - name: mtls-auth
      config: { ca_certificates: [@ROOT@], skip_consumer_lookup: true, revocation_check_mode: SKIP }
    - { name: acl, config: { allow: [ann], always_use_authenticated_groups: true } }
  - name: subject
    paths: [/subject]
    plugins:
    - name: mtls-auth
      config:
        ca_certificates: [@ROOT@]
        skip_consumer_lookup: true
        authenticated_group_by: DN
        revocation_check_mode: SKIP
    - { name: acl, config: { allow: ["CN=ann,O=Acme\\, Ltd"] } }
  - { name: free, paths: [/free] }
consumers:
- { username: ann, custom_id: a-1 }
- username: ben
  mtls_auth_credentials:
  - { subject_name: mapped, ca_certificate: @ROOT@ }
  - { subject_name: anywhere }
- username: eve
  mtls_auth_credentials: [{ subject_name: mapped, ca_certificate: @OTHER@ }]
- username: nobody
certificates:
- @PAIR@
"#;

const MISSING: &str = "No required TLS certificate was sent";
const REFUSED: &str = "TLS certificate failed verification";

struct Scene {
    upstream: Upstream,
    pair: Pair,
    root: Authority,
    other: Authority,
    below: Authority,
}

impl Scene {
    fn new() -> Self {
        let root = Authority::new("root");
        let below = root.below("below");
        let pair = Pair::new(&["a.test"]);
        Scene { upstream: Upstream::echo(), pair, other: Authority::new("other"), below, root }
    }

    fn text(&self, config: &str) -> String {
        let text = config.replace("@ROOT@", ROOT).replace("@OTHER@", OTHER).replace("@BELOW@", BELOW);
        let text = text.replace("@PAIR@", &self.pair.entity(&["a.test"]));
        let authorities = [(&self.root, ROOT), (&self.other, OTHER), (&self.below, BELOW)];
        let authorities: String = authorities.iter().map(|(one, id)| format!("- {}\n", one.entity(id))).collect();
        self.upstream.fill(&format!("{text}ca_certificates:\n{authorities}"))
    }

    fn start(&self) -> Gateway {
        Gateway::start(&self.text(CONFIG))
    }
}

fn config(identity: &Identity) -> Arc<ClientConfig> {
    identity.config(&[b"http/1.1"], None)
}

fn connect(gateway: &Gateway, identity: &Identity) -> Client {
    Client::try_connect_tls(gateway.proxy_tls(), "a.test", config(identity)).expect("a handshake")
}

fn ask(gateway: &Gateway, identity: &Identity, path: &str) -> Reply {
    connect(gateway, identity).send(&Request::get(path).host("a.test"))
}

fn consumer(reply: Reply) -> Option<String> {
    reply.expect(200).echoed("x-consumer-username")
}

fn named(gateway: &Gateway, identity: &Identity, path: &str) -> Option<String> {
    consumer(ask(gateway, identity, path))
}

#[test]
fn a_certificate_names_its_consumer_in_every_version() {
    let scene = Scene::new();
    let gateway = scene.start();
    let ann = scene.root.issue(&Leaf::of("ann"));
    for version in [12, 13] {
        let config = ann.config(&[b"http/1.1"], Some(version));
        // The second connection resumes the session of the first.
        for _ in 0..2 {
            let client = Client::try_connect_tls(gateway.proxy_tls(), "a.test", Arc::clone(&config));
            let mut client = client.expect("a handshake");
            for _ in 0..2 {
                let reply = client.send(&Request::get("/plain").header("X-Consumer-Username", "forged")).expect(200);
                assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"), "TLS 1.{}", version - 10);
                assert_eq!(reply.echoed("x-consumer-custom-id").as_deref(), Some("a-1"));
                assert_eq!(reply.echoed("x-credential-identifier").as_deref(), Some("ann"));
                assert_eq!(reply.echoed("x-client-cert-dn"), None);
            }
        }
        let config = ann.config(&[b"h2"], Some(version));
        let requests = [Request::get("/plain").host("a.test"), Request::get("/free").host("a.test")];
        let replies = h2::send_tls_with(gateway.proxy_tls(), "a.test", config, &requests);
        assert_eq!(consumer(replies[0].clone()).as_deref(), Some("ann"), "HTTP/2");
        assert_eq!(consumer(replies[1].clone()), None);
    }
}

#[test]
fn without_a_certificate_the_rest_is_served() {
    let scene = Scene::new();
    let gateway = scene.start();
    let mut client = Client::connect_tls(gateway.proxy_tls(), "a.test");
    client.get("/plain").expect_templated(401, MISSING);
    client.get("/free").expect(200);
    gateway.get("/plain").expect_templated(401, MISSING);
    let replies = h2::send_tls(gateway.proxy_tls(), "a.test", &[Request::get("/plain").host("a.test")]);
    replies[0].clone().expect_templated(401, MISSING);
    let open = gateway.get("/open").expect(200);
    assert_eq!(open.echoed("x-anonymous-consumer").as_deref(), Some("true"));
}

#[test]
fn what_nobody_vouches_for_is_refused() {
    let scene = Scene::new();
    let gateway = scene.start();
    let (past, future) = (Some((2001, 2002)), Some((2090, 2091)));
    let stranger = Authority::new("root");
    for (what, identity) in [
        ("another authority", scene.other.issue(&Leaf::of("ann"))),
        ("an authority that only has the name", stranger.issue_with_chain(&Leaf::of("ann"))),
        ("itself", Identity::self_signed(&Leaf::of("ann"))),
        ("expired", scene.root.issue(&Leaf { years: past, ..Leaf::of("ann") })),
        ("not yet", scene.root.issue(&Leaf { years: future, ..Leaf::of("ann") })),
        ("for servers", scene.root.issue(&Leaf { for_servers: true, ..Leaf::of("ann") })),
        ("nothing leads to the root", scene.below.issue(&Leaf::of("ann"))),
        ("no consumer's", scene.root.issue(&Leaf::of("stranger"))),
        ("no name", scene.root.issue(&Leaf::default())),
    ] {
        let reply = ask(&gateway, &identity, "/plain");
        assert_eq!((reply.status, reply.error_message().as_str()), (401, REFUSED), "{what}");
        ask(&gateway, &identity, "/free").expect(200);
        let open = ask(&gateway, &identity, "/open").expect(200);
        assert_eq!(open.echoed("x-consumer-username").as_deref(), Some("nobody"), "{what}");
    }
}

/// A certificate is public: without its key the handshake fails.
#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    let scene = Scene::new();
    let gateway = scene.start();
    let ann = scene.root.issue(&Leaf::of("ann"));
    assert_eq!(named(&gateway, &ann, "/plain").as_deref(), Some("ann"));
    for version in [12, 13] {
        let config = ann.stolen().config(&[b"http/1.1"], Some(version));
        // With TLS 1.3 the client learns of the refusal at its first read.
        let client = Client::try_connect_tls(gateway.proxy_tls(), "a.test", config);
        let answer = client.and_then(|mut client| client.try_send(&Request::get("/plain")));
        assert!(answer.is_err(), "{answer:?}");
    }
}

/// What a client shows stays with its connection.
#[test]
fn a_chain_has_an_end() {
    let scene = Scene::new();
    let gateway = scene.start();
    for (count, fits) in [(15, true), (16, false)] {
        let mut long = scene.root.issue(&Leaf::of("ann"));
        long.lengthen(&scene.other, count);
        let client = Client::try_connect_tls(gateway.proxy_tls(), "a.test", config(&long));
        let answer = client.and_then(|mut client| client.try_send(&Request::get("/plain")));
        assert_eq!(answer.is_ok_and(|reply| reply.status == 200), fits, "{count} more");
    }
    let names: Vec<String> = (0..3000).map(|at| format!("name-{at}.a.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = scene.root.issue(&Leaf { dns: &names, ..Leaf::of("ann") });
    let client = Client::try_connect_tls(gateway.proxy_tls(), "a.test", config(&large));
    assert!(client.and_then(|mut client| client.try_send(&Request::get("/plain"))).is_err());
}

#[test]
fn authorities_between_are_shown_or_known() {
    let scene = Scene::new();
    let gateway = scene.start();
    let (bare, whole) = (scene.below.issue(&Leaf::of("ann")), scene.below.issue_with_chain(&Leaf::of("ann")));
    assert_eq!(named(&gateway, &whole, "/plain").as_deref(), Some("ann"));
    assert_eq!(named(&gateway, &bare, "/between").as_deref(), Some("ann"));
    for identity in [&bare, &whole] {
        assert_eq!(named(&gateway, identity, "/partial").as_deref(), Some("ann"));
    }
    ask(&gateway, &scene.root.issue(&Leaf::of("ann")), "/partial").expect_templated(401, REFUSED);
}

#[test]
fn names_are_looked_up_in_their_order() {
    let scene = Scene::new();
    let gateway = scene.start();
    let issue = |leaf: &Leaf<'_>| scene.root.issue(leaf);
    let alternative = Leaf { dns: &["x.test", "ann"], ..Leaf::of("eve") };
    assert_eq!(named(&gateway, &issue(&alternative), "/plain").as_deref(), Some("ann"), "alternatives first");
    let mail = Leaf { mail: &["a-1"], ..Leaf::of("stranger") };
    assert_eq!(named(&gateway, &issue(&mail), "/plain").as_deref(), Some("ann"), "by custom id");
    let uri = Leaf { uri: &["spiffe://a.test/x"], ..Leaf::of("ann") };
    assert_eq!(named(&gateway, &issue(&uri), "/plain").as_deref(), Some("ann"), "the common name last");
    assert_eq!(named(&gateway, &issue(&Leaf::of("a-1")), "/custom").as_deref(), Some("ann"));
    ask(&gateway, &issue(&Leaf::of("ann")), "/custom").expect_templated(401, REFUSED);
    assert_eq!(named(&gateway, &issue(&Leaf::of("stranger")), "/default").as_deref(), Some("ben"));
}

#[test]
fn credentials_map_names_of_an_authority() {
    let scene = Scene::new();
    let gateway = scene.start();
    let mapped = Leaf::of("mapped");
    assert_eq!(named(&gateway, &scene.root.issue(&mapped), "/mapped").as_deref(), Some("ben"));
    assert_eq!(named(&gateway, &scene.other.issue(&mapped), "/mapped").as_deref(), Some("eve"));
    for authority in [&scene.root, &scene.other] {
        assert_eq!(named(&gateway, &authority.issue(&Leaf::of("anywhere")), "/mapped").as_deref(), Some("ben"));
        ask(&gateway, &authority.issue(&Leaf::of("ann")), "/mapped").expect_templated(401, REFUSED);
    }
    // Before the name itself counts.
    let both = Leaf { dns: &["ann"], ..Leaf::of("anywhere") };
    assert_eq!(named(&gateway, &scene.root.issue(&both), "/both").as_deref(), Some("ben"));
}

#[test]
fn without_a_consumer_the_certificate_itself_is_told() {
    let scene = Scene::new();
    let gateway = scene.start();
    let leaf = Leaf { organization: "Acme, Ltd", dns: &["x.test"], mail: &["ann@x.test"], ..Leaf::of("ann") };
    let ann = scene.root.issue(&leaf);
    let request =
        Request::get("/anybody").header("X-Client-Cert-Dn", "CN=forged").header("X-Client-Cert-San", "forged");
    let reply = connect(&gateway, &ann).send(&request).expect(200);
    assert_eq!(reply.echoed("x-client-cert-dn").as_deref(), Some("CN=ann,O=Acme\\, Ltd"));
    assert_eq!(reply.echoed("x-client-cert-san").as_deref(), Some("x.test, ann@x.test"));
    assert_eq!(reply.echoed("x-consumer-username"), None);
    let reply = ask(&gateway, &ann, "/group").expect(200);
    assert_eq!(reply.echoed("x-authenticated-groups").as_deref(), Some("ann"));
    ask(&gateway, &ann, "/subject").expect(200);
    let ben = scene.root.issue(&Leaf::of("ben"));
    ask(&gateway, &ben, "/anybody").expect(200);
    for path in ["/group", "/subject"] {
        ask(&gateway, &ben, path).expect_templated(403, "You cannot consume this service");
    }
    // A client's own copies never pass, whoever it is.
    let reply = gateway.send(&Request::get("/open").header("X-Client-Cert-Dn", "CN=forged")).expect(200);
    assert_eq!(reply.echoed("x-client-cert-dn"), None);
}

const BY_NAME: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: asked
    snis: [asked.test, "*.asked.test"]
    plugins: [{ name: mtls-auth, config: { ca_certificates: [@ROOT@], send_ca_dn: @SEND@, revocation_check_mode: SKIP } }]
  - { name: free, paths: [/free] }
consumers: [{ username: ann }]
certificates:
- @PAIR@
"#;

/// Says whether a client was asked for a certificate, and of whom.
fn asked(gateway: &Gateway, sni: &str) -> Option<usize> {
    let (seen, config) = tls::asked_config();
    let client = Client::try_connect_tls(gateway.proxy_tls(), sni, config);
    client.expect("a handshake").get("/free").expect(200);
    seen.lock().unwrap().take()
}

#[test]
fn only_those_are_asked_whom_a_route_wants() {
    let scene = Scene::new();
    let (told, silent) = (BY_NAME.replace("@SEND@", "true"), BY_NAME.replace("@SEND@", "false"));
    let gateway = Gateway::start(&scene.text(&told));
    for (sni, expected) in [("asked.test", Some(1)), ("x.ASKED.test", Some(1)), ("free.test", None)] {
        assert_eq!(asked(&gateway, sni), expected, "{sni}");
    }
    let ann = scene.root.issue(&Leaf::of("ann"));
    let ask = |sni: &str| {
        let client = Client::try_connect_tls(gateway.proxy_tls(), sni, config(&ann));
        client.expect("a handshake").send(&Request::get("/").host("asked.test"))
    };
    assert_eq!(named_of(ask("asked.test")).as_deref(), Some("ann"));
    ask("free.test").expect(404);

    gateway.reload(&scene.text(&silent), || asked(&gateway, "asked.test") == Some(0));
    let nobody = silent.replace("mtls-auth, config", "mtls-auth, enabled: false, config");
    gateway.reload(&scene.text(&nobody), || asked(&gateway, "asked.test").is_none());
}

fn named_of(reply: Reply) -> Option<String> {
    consumer(reply)
}

/// Far longer than it takes; far shorter than a connection may be idle.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn what_a_certificate_opened_ends_with_it() {
    let scene = Scene::new();
    let text = scene.text(CONFIG);
    let (ann, mapped) = (scene.root.issue(&Leaf::of("ann")), scene.root.issue(&Leaf::of("mapped")));
    let eve = scene.other.issue(&Leaf::of("mapped"));
    let without_other = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with(&format!("- {{\"id\":\"{OTHER}\"")));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let text = text.replace(&format!(", {OTHER}]"), "]");
        text.replace(&format!("[{{ subject_name: mapped, ca_certificate: {OTHER} }}]"), "[]")
    };
    let cases: [(&str, &Identity, &str, String); 4] = [
        ("the consumer", &ann, "/plain", text.replace("- { username: ann, custom_id: a-1 }\n", "")),
        ("the consumer's name", &ann, "/plain", text.replace("custom_id: a-1", "custom_id: a-2")),
        ("the credential", &mapped, "/mapped", text.replace("subject_name: mapped, ca", "subject_name: gone, ca")),
        ("the authority", &eve, "/mapped", without_other(&text)),
    ];
    for (what, identity, path, later) in cases {
        assert_ne!(text, later, "{what}");
        let gateway = Gateway::start(&text);
        let mut gone = connect(&gateway, identity);
        gone.send(&Request::get(path)).expect(200);
        let mut idle = connect(&gateway, identity);
        idle.send(&Request::get("/free")).expect(200);
        let mut stays = connect(&gateway, &scene.root.issue(&Leaf::of("anywhere")));
        stays.send(&Request::get("/mapped")).expect(200);
        gateway.replace_file(&later);
        assert!(gone.is_reset_within(AT_ONCE), "{what}");
        stays.send(&Request::get("/mapped")).expect(200);
        // It was shown on this connection too, and opened nothing there.
        idle.send(&Request::get("/free")).expect(200);
    }
}

#[test]
fn an_authority_that_has_expired_vouches_for_nobody() {
    let mut scene = Scene::new();
    scene.root = Authority::expired("root");
    let gateway = scene.start();
    assert!(gateway.status()["config"]["warnings"].to_string().contains("has expired"));
    ask(&gateway, &scene.root.issue(&Leaf::of("ann")), "/plain").expect_templated(401, REFUSED);
}
