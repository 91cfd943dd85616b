//! The entities of Kong's format with their fields and defaults (Kong's entity schemas, 3.9). Data only.

use super::{Entity, Field, Kind};
use Kind::{Boolean, Integer, List, Map, OneOf, OneOfNumbers, Text, Texts, To, Words};

const fn field(name: &'static str, kind: Kind, default: &'static str) -> Field {
    Field { name, kind, default, required: false, about: "" }
}

const fn about(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Field {
    Field { name, kind, default, required: false, about }
}

const fn needed(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, default: "", required: true, about }
}

const PROTOCOLS: &[&str] = &["http", "https", "tcp", "tls", "tls_passthrough", "udp", "grpc", "grpcs"];
/// The last two count only beside a `url`, which replaces them.
const SERVICE_PROTOCOLS: &[&str] =
    &["http", "https", "tcp", "tls", "tls_passthrough", "udp", "grpc", "grpcs", "ws", "wss"];
const HASHES: &[&str] = &["none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"];
const MILLISECONDS: Kind = Integer(1, 2_147_483_646);
const ALGORITHMS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA",
];
const HEALTHCHECKS: &str = r#"{"threshold":0,
"active":{"type":"http","timeout":1,"concurrency":10,"http_path":"/","https_sni":null,"https_verify_certificate":true,
"headers":null,"healthy":{"interval":0,"http_statuses":[200,302],"successes":0},
"unhealthy":{"interval":0,"http_statuses":[429,404,500,501,502,503,504,505],"tcp_failures":0,"timeouts":0,"http_failures":0}},
"passive":{"type":"http",
"healthy":{"http_statuses":[200,201,202,203,204,205,206,207,208,226,300,301,302,303,304,305,306,307,308],"successes":0},
"unhealthy":{"http_statuses":[429,500,503],"tcp_failures":0,"timeouts":0,"http_failures":0}}}"#;

const BY_CERTIFICATE: &[Field] = &[
    field("consumer", To("consumers"), ""),
    needed("subject_name", Text, "An alternative name or the common name of the certificate"),
    about("ca_certificate", To("ca_certificates"), "", "Who must vouch for the certificate"),
];

/// Every kind, parents before children.
pub const ENTITIES: &[Entity] = &[
    Entity {
        name: "services",
        endpoint: "name",
        fields: &[
            about("name", Text, "", "Unique name"),
            about("url", Text, "", "Shorthand for protocol, host, port and path, which it replaces"),
            field("protocol", OneOf(SERVICE_PROTOCOLS), "\"http\""),
            about("host", Text, "", "Host name, address, or the name of an upstream"),
            field("port", Integer(0, 65_535), "80"),
            about("path", Text, "", "Prefix of the path that the upstream gets"),
            about("retries", Integer(0, 32_767), "5", "Further attempts after the first"),
            about("connect_timeout", MILLISECONDS, "60000", "Milliseconds"),
            about("write_timeout", MILLISECONDS, "60000", "Milliseconds between two writes"),
            about("read_timeout", MILLISECONDS, "60000", "Milliseconds between two reads"),
            field("client_certificate", To("certificates"), ""),
            field("tls_verify", Boolean, ""),
            field("tls_verify_depth", Integer(0, 64), ""),
            field("ca_certificates", Texts, ""),
            field("enabled", Boolean, "true"),
        ],
        children: &["routes", "plugins"],
    },
    Entity {
        name: "routes",
        endpoint: "name",
        fields: &[
            about("name", Text, "", "Unique name"),
            field("service", To("services"), ""),
            field("protocols", Words(PROTOCOLS), "[\"http\",\"https\"]"),
            about("methods", Texts, "", "In upper case"),
            about("hosts", Texts, "", "Names; *.suffix or prefix.*; perhaps with a port"),
            about("paths", Texts, "", "String prefixes, or regular expressions that begin with ~"),
            about("headers", Map, "", "Name → list of accepted values; ~*pattern is a regular expression"),
            field("snis", Texts, ""),
            field("sources", List, ""),
            field("destinations", List, ""),
            field("https_redirect_status_code", OneOfNumbers(&[426, 301, 302, 307, 308]), "426"),
            about("strip_path", Boolean, "true", "Take the matched prefix off before the upstream is asked"),
            about("preserve_host", Boolean, "false", "Send the client's Host"),
            field("request_buffering", Boolean, "true"),
            field("response_buffering", Boolean, "true"),
            field("regex_priority", Integer(0, 2_147_483_647), "0"),
            field("path_handling", OneOf(&["v0", "v1"]), "\"v0\""),
            about("expression", Text, "", "In place of the fields that match; needs the expressions flavour"),
            about("priority", Integer(0, (1 << 46) - 1), "", "Of an expression"),
        ],
        children: &["plugins", "filter_chains"],
    },
    Entity {
        name: "upstreams",
        endpoint: "name",
        fields: &[
            needed("name", Text, "A host name; services use it as their host"),
            field(
                "algorithm",
                OneOf(&["round-robin", "least-connections", "consistent-hashing", "latency"]),
                "\"round-robin\"",
            ),
            field("hash_on", OneOf(HASHES), "\"none\""),
            field("hash_fallback", OneOf(HASHES), "\"none\""),
            field("hash_on_header", Text, ""),
            field("hash_fallback_header", Text, ""),
            field("hash_on_cookie", Text, ""),
            field("hash_on_cookie_path", Text, "\"/\""),
            field("hash_on_query_arg", Text, ""),
            field("hash_fallback_query_arg", Text, ""),
            field("hash_on_uri_capture", Text, ""),
            field("hash_fallback_uri_capture", Text, ""),
            field("slots", Integer(10, 65_536), "10000"),
            field("healthchecks", Map, HEALTHCHECKS),
            about("host_header", Text, "", "Host that the targets get"),
            field("client_certificate", To("certificates"), ""),
            field("use_srv_name", Boolean, "false"),
        ],
        children: &["targets"],
    },
    Entity {
        name: "targets",
        endpoint: "target",
        fields: &[
            needed("target", Text, "HOST, HOST:PORT or [ADDRESS]:PORT; the port is 8000 by default"),
            field("upstream", To("upstreams"), ""),
            about("weight", Integer(0, 65_535), "100", "0 takes it out"),
        ],
        children: &[],
    },
    Entity {
        name: "consumers",
        endpoint: "username",
        fields: &[
            about("username", Text, "", "Unique name"),
            about("custom_id", Text, "", "Its name elsewhere"),
            about("groups", List, "", "Consumer groups that it is in, by name"),
        ],
        children: &[
            "keyauth_credentials",
            "jwt_secrets",
            "basicauth_credentials",
            "hmacauth_credentials",
            "mtls_auth_credentials",
            "header_cert_auth_credentials",
            "oauth2_credentials",
            "acls",
            "plugins",
        ],
    },
    Entity {
        name: "consumer_groups",
        endpoint: "name",
        fields: &[
            needed("name", Text, "Unique name"),
            about("consumers", List, "", "Consumers that are in it, by name"),
        ],
        children: &["plugins"],
    },
    Entity {
        name: "consumer_group_consumers",
        endpoint: "id",
        fields: &[field("consumer", To("consumers"), ""), field("consumer_group", To("consumer_groups"), "")],
        children: &[],
    },
    Entity {
        name: "plugins",
        endpoint: "instance_name",
        fields: &[
            needed("name", Text, "Which plugin"),
            field("instance_name", Text, ""),
            field("route", To("routes"), ""),
            field("service", To("services"), ""),
            field("consumer", To("consumers"), ""),
            field("consumer_group", To("consumer_groups"), ""),
            field("config", Map, ""),
            field("protocols", Words(PROTOCOLS), "[\"grpc\",\"grpcs\",\"http\",\"https\"]"),
            field("enabled", Boolean, "true"),
        ],
        children: &[],
    },
    Entity {
        name: "certificates",
        endpoint: "id",
        fields: &[
            needed("cert", Text, "PEM chain"),
            needed("key", Text, "PEM private key"),
            field("cert_alt", Text, ""),
            field("key_alt", Text, ""),
        ],
        children: &["snis"],
    },
    Entity {
        name: "snis",
        endpoint: "name",
        fields: &[
            needed("name", Text, "Host name, *.suffix or prefix.*"),
            field("certificate", To("certificates"), ""),
        ],
        children: &[],
    },
    Entity {
        name: "ca_certificates",
        endpoint: "id",
        fields: &[needed("cert", Text, "One PEM certificate"), field("cert_digest", Text, "")],
        children: &[],
    },
    Entity {
        name: "vaults",
        endpoint: "prefix",
        fields: &[
            needed("name", OneOf(&["env"]), "The backend"),
            needed("prefix", Text, "What stands in {vault://prefix/…}"),
            field("description", Text, ""),
            field("config", Map, ""),
        ],
        children: &[],
    },
    Entity { name: "key_sets", endpoint: "name", fields: &[field("name", Text, "")], children: &[] },
    Entity {
        name: "keys",
        endpoint: "name",
        fields: &[
            needed("kid", Text, "Names the key in tokens"),
            field("name", Text, ""),
            field("set", To("key_sets"), ""),
            about("jwk", Text, "", "A JSON Web Key, as a string"),
            field("pem", Map, ""),
        ],
        children: &[],
    },
    Entity {
        name: "keyauth_credentials",
        endpoint: "key",
        fields: &[
            field("consumer", To("consumers"), ""),
            field("key", Text, ""),
            field("ttl", Integer(0, 100_000_000), ""),
        ],
        children: &[],
    },
    Entity {
        name: "jwt_secrets",
        endpoint: "key",
        fields: &[
            field("consumer", To("consumers"), ""),
            field("key", Text, ""),
            field("secret", Text, ""),
            field("algorithm", OneOf(ALGORITHMS), "\"HS256\""),
            field("rsa_public_key", Text, ""),
        ],
        children: &[],
    },
    Entity {
        name: "acls",
        endpoint: "id",
        fields: &[field("consumer", To("consumers"), ""), needed("group", Text, "")],
        children: &[],
    },
    Entity {
        name: "basicauth_credentials",
        endpoint: "username",
        fields: &[field("consumer", To("consumers"), ""), needed("username", Text, ""), needed("password", Text, "")],
        children: &[],
    },
    Entity {
        name: "hmacauth_credentials",
        endpoint: "username",
        fields: &[field("consumer", To("consumers"), ""), needed("username", Text, ""), field("secret", Text, "")],
        children: &[],
    },
    Entity { name: "mtls_auth_credentials", endpoint: "id", fields: BY_CERTIFICATE, children: &[] },
    Entity { name: "header_cert_auth_credentials", endpoint: "id", fields: BY_CERTIFICATE, children: &[] },
    Entity {
        name: "oauth2_credentials",
        endpoint: "client_id",
        fields: &[
            field("consumer", To("consumers"), ""),
            needed("name", Text, ""),
            field("client_id", Text, ""),
            field("client_secret", Text, ""),
            field("hash_secret", Boolean, "false"),
            field("redirect_uris", Texts, ""),
            field("client_type", OneOf(&["confidential", "public"]), "\"confidential\""),
        ],
        children: &[],
    },
];
