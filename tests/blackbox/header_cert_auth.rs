//! header-cert-auth: a certificate that somebody in front has put into a header, believed from trusted peers alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::authority::{Authority, Identity, Leaf};
use gateway_tests::gateway::command;
use gateway_tests::{Gateway, Request, Upstream};

const ROOT: &str = "11111111-0000-4000-8000-000000000001";

const CONFIG: &str = r#"
_format_version: "3.0"
services:
- name: echo
  url: @UP@
  routes:
  - name: url
    paths: [/url]
    plugins:
    - name: header-cert-auth
      config:
        ca_certificates: [@ROOT@]
        certificate_header_name: X-Client-Cert
        certificate_header_format: url_encoded
        revocation_check_mode: SKIP
  - name: base64
    paths: [/base64]
    plugins:
    - name: header-cert-auth
      config:
        ca_certificates: [@ROOT@]
        certificate_header_name: Client-Cert
        certificate_header_format: base64_encoded
        revocation_check_mode: SKIP
  - name: open
    paths: [/open]
    plugins:
    - name: header-cert-auth
      config:
        ca_certificates: [@ROOT@]
        certificate_header_name: X-Client-Cert
        certificate_header_format: url_encoded
        anonymous: nobody
        revocation_check_mode: SKIP
  - name: naive
    paths: [/naive]
    plugins:
    - name: header-cert-auth
      config:
        ca_certificates: [@ROOT@]
        certificate_header_name: X-Client-Cert
        certificate_header_format: url_encoded
        secure_source: false
        revocation_check_mode: SKIP
consumers:
- username: ann
- username: ben
  header_cert_auth_credentials: [{ subject_name: mapped, ca_certificate: @ROOT@ }]
- username: eve
  mtls_auth_credentials: [{ subject_name: mapped }]
- username: nobody
gateway:
  trusted_ips: [127.0.0.1]
ca_certificates:
"#;

const MISSING: &str = "No required TLS certificate was sent";
const REFUSED: &str = "TLS certificate failed verification";
/// A peer whom nobody trusts.
const STRANGER: [u8; 4] = [127, 0, 0, 9];

fn scene() -> (Upstream, Authority, Gateway) {
    let (upstream, root) = (Upstream::echo(), Authority::new("root"));
    let text = format!("{}- {}\n", CONFIG.replace("@ROOT@", ROOT), root.entity(ROOT));
    let gateway = Gateway::start(&upstream.fill(&text));
    (upstream, root, gateway)
}

/// As nginx writes `$ssl_client_escaped_cert`.
fn escaped(pem: &str) -> String {
    pem.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn by_url(path: &str, identity: &Identity) -> Request {
    Request::get(path).header("X-Client-Cert", &escaped(&identity.pem()))
}

#[test]
fn both_formats_name_the_consumer() {
    let (_upstream, root, gateway) = scene();
    let ann = root.issue(&Leaf::of("ann"));
    let der = STANDARD.encode(ann.der());
    let requests = [
        by_url("/url", &ann),
        by_url("/url", &root.below("below").issue_with_chain(&Leaf::of("ann"))),
        Request::get("/base64").header("Client-Cert", &der),
        Request::get("/base64").header("Client-Cert", &format!(":{der}:")),
        Request::get("/base64").header("Client-Cert", &STANDARD.encode(ann.pem())),
    ];
    for request in requests {
        for _ in 0..2 {
            let reply = gateway.send(&request.clone().header("X-Consumer-Username", "forged")).expect(200);
            assert_eq!(reply.echoed("x-consumer-username").as_deref(), Some("ann"), "{}", request.target);
        }
    }
    let mapped = gateway.send(&by_url("/url", &root.issue(&Leaf::of("mapped")))).expect(200);
    assert_eq!(mapped.echoed("x-consumer-username").as_deref(), Some("ben"), "a credential of this plugin's");
}

#[test]
fn what_is_no_good_certificate_is_refused() {
    let (_upstream, root, gateway) = scene();
    gateway.get("/url").expect_templated(401, MISSING);
    gateway.send(&Request::get("/url").header("X-Client-Cert", "")).expect_templated(401, MISSING);
    for value in ["x", "%", "-----BEGIN CERTIFICATE-----", "(null)", &"A".repeat(60_000), "%00", "MIIB"] {
        gateway.send(&Request::get("/url").header("X-Client-Cert", value)).expect_templated(401, REFUSED);
        gateway.send(&Request::get("/base64").header("Client-Cert", value)).expect_templated(401, REFUSED);
    }
    for identity in [
        Authority::new("root").issue(&Leaf::of("ann")),
        Identity::self_signed(&Leaf::of("ann")),
        root.issue(&Leaf { years: Some((2001, 2002)), ..Leaf::of("ann") }),
        root.issue(&Leaf { for_servers: true, ..Leaf::of("ann") }),
        root.issue(&Leaf::of("stranger")),
    ] {
        gateway.send(&by_url("/url", &identity)).expect_templated(401, REFUSED);
    }
    let ann = root.issue(&Leaf::of("ann"));
    let twice = by_url("/url", &ann).header("X-Client-Cert", &escaped(&root.issue(&Leaf::of("ben")).pem()));
    gateway.send(&twice).expect_templated(401, REFUSED);
    let whole = escaped(&ann.pem());
    gateway
        .send(&Request::get("/url").header("X-Client-Cert", &whole[..whole.len() / 2]))
        .expect_templated(401, REFUSED);
}

/// Whoever has seen a certificate has a copy of it: the header of a stranger says nothing.
#[test]
fn only_a_trusted_peer_is_believed() {
    let (_upstream, root, gateway) = scene();
    let ann = root.issue(&Leaf::of("ann"));
    gateway.connect_from(STRANGER).send(&by_url("/url", &ann)).expect_templated(401, MISSING);
    let open = gateway.connect_from(STRANGER).send(&by_url("/open", &ann)).expect(200);
    assert_eq!(open.echoed("x-consumer-username").as_deref(), Some("nobody"));
    assert_eq!(open.echoed("x-client-cert"), None, "the upstream does not get it either");
    let naive = gateway.connect_from(STRANGER).send(&by_url("/naive", &ann)).expect(200);
    assert_eq!(naive.echoed("x-consumer-username").as_deref(), Some("ann"), "as it was told to");
    assert!(gateway.status()["config"]["warnings"].to_string().contains("secure_source: false"));
}

/// Faults of both plugins' configurations, each at its place.
#[test]
fn faults_are_told_at_their_places() {
    let root = Authority::new("root");
    let below = root.below("below");
    let other = "11111111-0000-4000-8000-000000000009";
    let text = format!(
        r#"_format_version: "3.0"
plugins:
- name: mtls-auth
  config:
    ca_certificates: [{other}, x]
    consumer_by: [username, email]
    authenticated_group_by: OU
    revocation_check_mode: STRICT
- name: header-cert-auth
  config:
    ca_certificates: [{ROOT}]
    certificate_header_name: "a b"
    certificate_header_format: pem
    certificate_header: x
ca_certificates:
- {}
- cert: |
{}consumers:
- username: ann
  mtls_auth_credentials: [{{ subject_name: a, ca_certificate: {other} }}, {{}}, {{ subject_name: b }}, {{ subject_name: b }}]
"#,
        below.entity(ROOT),
        Identity::self_signed(&Leaf::of("x")).pem().lines().map(|line| format!("    {line}\n")).collect::<String>(),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    std::fs::write(&file, &text).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2));
    for words in [
        "kong.yml:5:23: error: invalid reference 'ca_certificates: 11111111-0000-4000-8000-000000000009'",
        "kong.yml:5:61: error: invalid reference 'ca_certificates: x'",
        "kong.yml:6:29: error: `consumer_by` has `email`",
        "kong.yml:7:29: error: `authenticated_group_by` is `OU`",
        "`revocation_check_mode` other than `SKIP`",
        "kong.yml:11:5: error: none of `ca_certificates` vouches for itself",
        "kong.yml:12:5: error: `a b` is not a header name",
        "kong.yml:13:32: error: `certificate_header_format` is `pem`",
        "kong.yml:14:5: error: unknown field `certificate_header`",
        "kong.yml:17:3: error: `cert` of a ca_certificate: it is not an authority's",
        "error: invalid reference 'ca_certificate: 11111111-0000-4000-8000-000000000009'",
        "error: mtls_auth_credentials lacks the required field `subject_name`",
        "'mtls_auth_credentials' entity with subject_name set to 'b' already declared",
    ] {
        assert!(exit.stderr.contains(words), "{words}:\n{}", exit.stderr);
    }
}
