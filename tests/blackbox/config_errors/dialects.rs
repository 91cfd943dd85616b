//! Broken references to secrets, expressions, other dialects of the format, and files that are none.

use super::Case;

pub const CASES: &[Case] = &[
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
§rbac_roles: []
plugins: [{ name: cors, _config: §shared }]
_plugin_configs: { shaerd: { max_age: 1 } }
"#,
        words: &[
            "`default`",
            "outside of the file",
            "did you mean `defaults`?",
            "_konnect",
            "rbac_roles",
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
- { name: rate-limiting, config: { minute: 1 }, consumer_group: §gold }
"#,
        words: &["enterprise", "consumer_group: gold"],
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
