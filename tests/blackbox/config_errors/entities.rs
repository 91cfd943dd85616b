//! Broken entities, plugins and settings of the gateway's own block.

use super::Case;

pub const CASES: &[Case] = &[
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
- { §name: saml }
- { §name: pre-function, config: { access: ["return"] } }
- { §name: zzz }
"#,
        words: &["did you mean `rate-limiting`?", "saml", "pre-function", "zzz"],
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
        what: "ceilings of consumers",
        text: r#"_format_version: "3.0"
consumer_groups:
- { name: gold }
- { name: silver }
consumers:
- { username: ann, groups: [gold] }
gateway:
  edge:
    egress:
      consumer_bytes: §{ burst: 1 }
      consumers_max: §5
      groups:
        gold: { per_second: §0 }
        §sliver: { per_second: 1000, §bytes: 1 }
        silver: §1000
"#,
        words: &["`per_second`", "consumers_max", "per_second", "did you mean `silver`?", "`bytes`", "a map"],
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
        what: "networks and interfaces that are none",
        text: r#"_format_version: "3.0"
gateway:
  trusted_ips: ["2001:db8::/32"]
  edge:
    §interfaces: ["eth0/1"]
    never_drop: [§"10.0.0.0/8/8", §"fe80::/129"]
    deny:
    - §2001:db8:7::/48
    - §10.0.0.256
    - §"10.0.0.0/-1"
    - §""
    - §eth0
    - §"::/0"
"#,
        words: &[
            "no interface name",
            "CIDR",
            "CIDR",
            "trusted proxy",
            "CIDR",
            "CIDR",
            "CIDR",
            "CIDR",
            "denies everybody",
        ],
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
];
