//! Broken files: every fault is reported in one run, at its line and column, with the word that helps.
//!
//! In the texts `§` stands where a fault begins; it is taken out before the file is written, and the
//! words below are expected at those places in that order.

use std::fs;

use gateway_tests::gateway::command;

struct Case {
    what: &'static str,
    text: &'static str,
    words: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        what: "unknown fields",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  §retrys: 3
  routes:
  - §pahts: [/a]
    hosts: [a.test]
"#,
        words: &["did you mean `retries`?", "did you mean `paths`?"],
    },
    Case { what: "no version", text: "§services: []\nupstreams: []\n", words: &["_format_version"] },
    Case {
        what: "an unknown version and an unknown list",
        text: "_format_version: §\"9.9\"\n§servces: []\n",
        words: &["9.9", "did you mean `services`?"],
    },
    Case {
        what: "numbers that are text, or too large",
        text: r#"_format_version: "3.0"
services:
- name: s
  host: a.test
  port: §"80"
  retries: §99999
  connect_timeout: §0
  enabled: §"yes"
"#,
        words: &["a string", "99999", "0", "true or false"],
    },
    Case {
        what: "required fields",
        text: r#"_format_version: "3.0"
services:
- §name: s
upstreams:
- §slots: 100
consumers:
- §tags: [a]
"#,
        words: &["host", "name", "username"],
    },
    Case {
        what: "a url that is none",
        text: r#"_format_version: "3.0"
services:
- name: a
  §url: ftp://a.test
- name: b
  §url: "not a url"
"#,
        words: &["scheme", "scheme"],
    },
    Case {
        what: "a route that matches nothing, and one that matches wrongly",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - §name: nothing
  - paths: [§a]
  - paths: [§"~/(?<=x)y"]
  - paths: [§"~/(unclosed"]
"#,
        words: &["must set one of", "/", "look-around", "unclosed"],
    },
    Case {
        what: "methods, protocols and codes outside their lists",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - paths: [/a]
    methods: [§get]
  - paths: [/b]
    protocols: [§htpp]
  - paths: [/c]
    https_redirect_status_code: §200
  - paths: [/d]
    path_handling: §v2
"#,
        words: &["get", "http", "200", "v0"],
    },
    Case {
        what: "hosts and headers of routes",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - hosts: [§"a.*.b"]
  - hosts: [§"*.x.*"]
  - headers: { §Host: [a] }
"#,
        words: &["a.*.b", "*", "host"],
    },
    Case {
        what: "references into nothing",
        text: r#"_format_version: "3.0"
services:
- { name: s, url: "http://127.0.0.1:1" }
routes:
- { name: r, paths: [/a], service: §nobody }
plugins:
- { name: key-auth, route: §missing }
- { name: key-auth, consumer: §stranger }
acls:
- { §consumer: ghost, group: g }
"#,
        words: &["nobody", "missing", "stranger", "ghost"],
    },
    Case {
        what: "names that stand twice",
        text: r#"_format_version: "3.0"
services:
- { name: s, url: "http://127.0.0.1:1" }
- §{ name: s, url: "http://127.0.0.1:2" }
consumers:
- { username: ann, keyauth_credentials: [{ key: k }] }
- §{ username: ann }
- { username: bob, keyauth_credentials: [{ §key: k }] }
"#,
        words: &["already", "already", "already"],
    },
    Case {
        what: "plugins that are not",
        text: r#"_format_version: "3.0"
plugins:
- { §name: rate-limitting, config: { minute: 1 } }
- { §name: openid-connect }
- { §name: pre-function, config: { access: ["return"] } }
- { §name: zzz }
"#,
        words: &["did you mean `rate-limiting`?", "openid-connect", "pre-function", "zzz"],
    },
    Case {
        what: "rate limits",
        text: r#"_format_version: "3.0"
plugins:
- name: rate-limiting
  config: { minute: §0 }
- name: rate-limiting
  config: { minute: 5, policy: §memory }
  route: r
- name: rate-limiting
  config: { minute: 5, limit_by: §name }
  service: s
services:
- { name: s, url: "http://127.0.0.1:1", routes: [{ name: r, paths: [/] }] }
"#,
        words: &["minute", "local", "consumer"],
    },
    Case {
        what: "jwt settings and credentials",
        text: r#"_format_version: "3.0"
plugins:
- name: jwt
  config:
    claims_to_verify: [§iat]
    maximum_expiration: §-1
    §key_claims_name: iss
consumers:
- username: ann
  jwt_secrets:
  - { key: a, secret: s, algorithm: §HS257 }
  - §{ key: b, algorithm: RS256, rsa_public_key: "not a key" }
"#,
        words: &["exp", "maximum_expiration", "did you mean `key_claim_name`?", "HS256", "key"],
    },
    Case {
        what: "a list where lists are needed",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - paths: §/a
  - hosts: §{ a: b }
  - paths: [§1]
"#,
        words: &["a list", "a list", "string"],
    },
    Case {
        what: "addresses",
        text: r#"_format_version: "3.0"
plugins:
- name: ip-restriction
  config: { allow: [§300.1.1.1, 10.0.0.0/8, §10.0.0.0/40] }
gateway:
  trusted_ips: [§nowhere]
  edge:
    never_drop: [§also-nowhere]
"#,
        words: &["address", "address", "address", "address"],
    },
    Case {
        what: "acl with both lists, cors and size with odd values",
        text: r#"_format_version: "3.0"
services:
- { name: s, url: "http://127.0.0.1:1" }
plugins:
- name: acl
  config: { allow: [a], §deny: [b] }
- name: cors
  config: { methods: [§FETCH], max_age: §long }
- name: request-size-limiting
  config: { allowed_payload_size: §-1, size_unit: §gigabytes }
"#,
        words: &["deny", "FETCH", "max_age", "allowed_payload_size", "megabytes"],
    },
    Case {
        what: "targets and upstreams",
        text: r#"_format_version: "3.0"
upstreams:
- name: u
  algorithm: §fastest
  targets:
  - { §target: "127.0.0.1:99999" }
  - { target: "127.0.0.1:1", weight: §-1 }
"#,
        words: &["round-robin", "target", "weight"],
    },
    Case {
        what: "a certificate that is none",
        text: r#"_format_version: "3.0"
certificates:
- §cert: nonsense
  key: nonsense
  snis: [a.test]
"#,
        words: &["certificate"],
    },
    Case {
        what: "the gateway's own block",
        text: r#"_format_version: "3.0"
gateway:
  listen: [§"127.0.0.1"]
  workers: §-1
  §acces_log: off
  timeouts: { idle: §forever }
  edge:
    mode: §on
    v6_prefix: §200
    ceilings:
      packets: §{ §per_minute: 1, burst: 1 }
"#,
        words: &[
            "PORT",
            "workers",
            "did you mean `access_log`?",
            "10s",
            "enforce",
            "v6_prefix",
            "required field `per_second`",
            "per_second",
        ],
    },
    Case {
        what: "the edge's lists against each other",
        text: r#"_format_version: "3.0"
gateway:
  trusted_ips: [192.0.2.0/24]
  edge:
    never_drop: [198.51.100.7]
    deny:
    - §192.0.2.66
    - §198.51.100.0/24
    - 203.0.113.0/24
    - §0.0.0.0/0
    - §203.0.113.0/33
"#,
        words: &["trusted proxy", "never dropped", "denies everybody", "CIDR"],
    },
    Case {
        what: "a folder for pins that is none",
        text: r#"_format_version: "3.0"
gateway:
  edge:
    §pin: ../pins
    fallback: §xdp
"#,
        words: &["absolute path", "`fallback`"],
    },
    Case {
        what: "a nested child that names another parent",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - { name: r, paths: [/a], service: §s }
  plugins:
  - { name: key-auth, service: §s }
"#,
        words: &["service", "service"],
    },
    Case {
        what: "circuit-breaker",
        text: r#"_format_version: "3.0"
plugins:
- name: circuit-breaker
  config: { failure_ratio: §2, open_for: §-1, §half_open_prob: 3 }
"#,
        words: &["failure_ratio", "open_for", "did you mean `half_open_probes`?"],
    },
    Case {
        what: "vaults",
        text: r#"_format_version: "3.0"
vaults:
- { §name: hcv, prefix: a }
- { §name: evn, prefix: b }
- { name: env, §prefix: B }
- { name: env, prefix: c }
- §{ name: env, prefix: c }
"#,
        words: &["enterprise", "did you mean `env`?", "lower-case", "already declared (first at"],
    },
    Case {
        what: "keys and their sets",
        text: r#"_format_version: "3.0"
key_sets: [{ name: s }]
keys:
- { kid: a, set: §t, jwk: '{"kty": "RSA"}' }
- { kid: b, §jwk: '{}' }
- §{ kid: c }
"#,
        words: &["key_sets", "JSON Web Key", "either `jwk` or `pem`"],
    },
    Case {
        what: "an authority that is none",
        text: "_format_version: \"3.0\"\nca_certificates:\n- §cert: nonsense\n- §tags: [a]\n",
        words: &["exactly one PEM certificate", "`cert`"],
    },
    Case {
        what: "references to secrets",
        text: r#"_format_version: "3.0"
consumers:
- username: a
  keyauth_credentials: [{ key: §"{vault://aws/key}" }]
- username: b
  keyauth_credentials: [{ key: §"{vault://env/}" }]
"#,
        words: &["no vault `aws`", "names no variable"],
    },
    Case {
        what: "expressions in another flavour",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - §expression: 'http.path == "/"'
    §priority: 1
"#,
        words: &["router_flavor: expressions", "router_flavor: expressions"],
    },
    Case {
        what: "expressions with mistakes",
        text: r#"_format_version: "3.0"
gateway: { router_flavor: expressions }
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - expression: §'http.path = "/"'
  - expression: §'http.pth == "/"'
  - expression: §'net.src.port == "x"'
  - expression: §'http.path ~ "("'
  - { expression: 'http.path == "/"', §paths: [/] }
"#,
        words: &["no operator", "unknown field `http.pth`", "a number", "invalid regex", "one or the other"],
    },
    Case {
        what: "an admin API that is open to everyone",
        text: "_format_version: \"3.0\"\ngateway:\n  §admin: \"0.0.0.0:8001\"\n",
        words: &["GATEWAY_ADMIN_TOKEN"],
    },
    Case {
        what: "a weak token and an unknown flavour",
        text: "_format_version: \"3.0\"\ngateway:\n  §admin_token: hunter2\n  router_flavor: §expression\n",
        words: &["16 printable", "did you mean `expressions`?"],
    },
    Case {
        what: "decK's keys that mean something else",
        text: r#"_format_version: "3.0"
_workspace: §team
_info: { select_tags: [a], §default_lookup_tags: { consumers: [x] }, §defalts: {} }
§_konnect: { control_plane_name: x }
§consumer_groups: []
plugins: [{ name: cors, _config: §shared }]
_plugin_configs: { shaerd: { max_age: 1 } }
"#,
        words: &[
            "`default`",
            "outside of the file",
            "did you mean `defaults`?",
            "_konnect",
            "consumer_groups",
            "did you mean `shaerd`?",
        ],
    },
    Case {
        what: "templates of decK",
        text: "_format_version: \"3.0\"\nservices:\n- { name: s, host: §${{ env \"HOME\" }} }\n- { name: t, host: §${{ printf \"x\" }} }\n",
        words: &["DECK_", "only `env"],
    },
    Case {
        what: "old and new names that contradict each other",
        text: r#"_format_version: "3.0"
plugins:
- name: ip-restriction
  config: { §blacklist: [10.0.0.0/8], deny: [10.1.0.0/16] }
"#,
        words: &["differ"],
    },
    Case {
        what: "fields of plugins that belong to the enterprise edition",
        text: r#"_format_version: "3.0"
plugins:
- { name: cors, §ordering: { before: { access: [key-auth] } } }
- { name: key-auth, consumer_group: §gold }
"#,
        words: &["enterprise", "enterprise"],
    },
    Case {
        what: "instance names and ids that stand twice",
        text: r#"_format_version: "3.0"
services:
- { id: 3b0a7c9e-0000-4000-8000-000000000001, name: a, url: "http://127.0.0.1:1" }
- §{ id: 3b0a7c9e-0000-4000-8000-000000000001, name: b, url: "http://127.0.0.1:1" }
- { §id: no-uuid, name: c, url: "http://127.0.0.1:1" }
plugins:
- { name: cors, instance_name: one, service: a }
- §{ name: cors, instance_name: one, service: c }
"#,
        words: &["already declared (first at", "UUID", "instance_name"],
    },
    Case {
        what: "routes for gRPC",
        text: r#"_format_version: "3.0"
services:
- name: s
  url: http://127.0.0.1:1
  routes: [{ paths: [/a], protocols: [grpc], §strip_path: true }]
"#,
        words: &["false"],
    },
    Case {
        what: "tags, times and comments of the wrong kind",
        text: r#"_format_version: "3.0"
_transform: §"yes"
services:
- { name: s, url: "http://127.0.0.1:1", tags: §blue, created_at: §yesterday }
"#,
        words: &["true or false", "a list", "an integer"],
    },
    Case {
        what: "a file that is a list, and one that is a text",
        text: "§- _format_version: \"3.0\"\n",
        words: &["a map"],
    },
    Case {
        what: "the gateway's block as a list",
        text: "_format_version: \"3.0\"\ngateway: §[listen]\n",
        words: &["a map"],
    },
    Case { what: "YAML that does not parse", text: "_format_version: \"3.0\"\nservices:\n- name: [§\n", words: &[""] },
];

/// The text without marks, and where they stood.
fn places(text: &str) -> (String, Vec<(usize, usize)>) {
    let mut places = Vec::new();
    let mut out = String::new();
    for (line, content) in text.split_inclusive('\n').enumerate() {
        for piece in content.split_inclusive('§') {
            let plain = piece.trim_end_matches('§');
            out.push_str(plain);
            if piece.ends_with('§') {
                let start = out.rfind('\n').map_or(0, |at| at + 1);
                places.push((line + 1, out[start..].chars().count() + 1));
            }
        }
    }
    (out, places)
}

/// The reports of one place: everything from its line to the next report.
fn report_at(stderr: &str, file: &str, place: (usize, usize)) -> Option<String> {
    let prefix = format!("{file}:{}:{}: ", place.0, place.1);
    let mut out = String::new();
    let mut inside = false;
    for line in stderr.lines() {
        if line.starts_with(&format!("{file}:")) {
            inside = line.starts_with(&prefix);
        }
        if inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    (!out.is_empty()).then_some(out)
}

#[test]
fn every_fault_is_told_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let name = file.to_str().unwrap();
    let mut wrong = Vec::new();
    for case in CASES {
        let (text, places) = places(case.text);
        assert_eq!(places.len(), case.words.len(), "the marks of {:?}", case.what);
        fs::write(&file, text).unwrap();
        let exit = command(&["check", name]);
        if exit.code != Some(2) {
            wrong.push(format!("{}: exit {:?}\n{}", case.what, exit.code, exit.stderr));
            continue;
        }
        let told = exit.stderr.lines().filter(|line| line.contains(": error: ")).count();
        if told != places.len() {
            wrong.push(format!("{}: {told} errors told for {} faults:\n{}", case.what, places.len(), exit.stderr));
        }
        for (place, word) in places.iter().zip(case.words) {
            // What does not parse has one place, which readers of YAML choose differently.
            let told = if case.words == [""] {
                exit.stderr.contains(&format!("{name}:")).then(|| exit.stderr.clone())
            } else {
                report_at(&exit.stderr, name, *place)
            };
            match told {
                Some(report) if report.contains(word) => {}
                other => wrong.push(format!(
                    "{}: {}:{} should say {word:?}, says {other:?} in\n{}",
                    case.what, place.0, place.1, exit.stderr
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the places:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_error_has_its_form_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let text = r#"_format_version: "3.0"
consumers:
- username: ann
  keyauth_credentials: [{ key: very-secret-key }]
  jwt_secrets: [{ key: k, secret: { very-secret: very-secret } }]
- username: bob
  keyauth_credentials: [{ key: very-secret-key }]
"#;
    fs::write(&file, text).unwrap();
    let exit = command(&["check", file.to_str().unwrap()]);
    assert_eq!(exit.code, Some(2));
    let form = regex::Regex::new(r"(?m)^.*kong\.yml:5:35: error: .+$").unwrap();
    assert!(form.is_match(&exit.stderr), "{}", exit.stderr);
    assert!(!exit.stderr.contains("very-secret-key"), "{}", exit.stderr);
}

#[test]
fn bombs_are_refused_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kong.yml");
    let mut laughs = String::from("_format_version: \"3.0\"\n_comment:\n- &a0 [x, x, x, x, x, x, x, x, x]\n");
    for at in 1..12 {
        let of = format!("*a{}", at - 1);
        laughs.push_str(&format!("- &a{at} [{}]\n", [of.as_str(); 9].join(", ")));
    }
    let deep = format!("_format_version: \"3.0\"\n_comment: {}\n", "[".repeat(100_000));
    for (what, text) in [("aliases", laughs), ("depth", deep)] {
        fs::write(&file, text).unwrap();
        let exit = command(&["check", file.to_str().unwrap()]);
        assert_eq!(exit.code, Some(2), "{what}: {}", exit.stderr);
    }
}
