//! What the authentication plugins have in common: who is let through and under which headers, the anonymous consumer, and
//! what is said to the others. How a credential is found and checked is each plugin's own file.

pub mod acl;
mod arguments;
pub mod basic_auth;
pub mod bot_detection;
mod certificate;
pub mod header_cert_auth;
pub mod hmac_auth;
pub mod ip_restriction;
mod issued;
pub mod jwt;
pub mod jwt_token;
pub mod key_auth;
pub mod ldap_auth;
pub mod mtls_auth;
pub mod oauth2_introspection;
pub mod openid_connect;
pub mod session;

use std::sync::Arc;

use http::header::{Entry, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use super::{Flow, Setup};
use crate::document::{Fields, Place};
use crate::identity::{Consumer, ConsumerIndex, Identities};
use crate::proxy::exchange::{Authenticated, Exchange};
use crate::proxy::reply::Reply;

const CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const CONSUMER_CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");
const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const CONSUMER_GROUPS: HeaderName = HeaderName::from_static("x-consumer-groups");
const AUTHENTICATED_GROUPS: HeaderName = HeaderName::from_static("x-authenticated-groups");
const CREDENTIAL_IDENTIFIER: HeaderName = HeaderName::from_static("x-credential-identifier");
const CREDENTIAL_TIER: HeaderName = HeaderName::from_static("x-credential-tier");
const ANONYMOUS_CONSUMER: HeaderName = HeaderName::from_static("x-anonymous-consumer");

/// Headers by which the upstream knows the caller; a client's own copies never reach it.
const IDENTITY: [HeaderName; 8] = [
    CONSUMER_ID,
    CONSUMER_CUSTOM_ID,
    CONSUMER_USERNAME,
    CONSUMER_GROUPS,
    AUTHENTICATED_GROUPS,
    CREDENTIAL_IDENTIFIER,
    CREDENTIAL_TIER,
    ANONYMOUS_CONSUMER,
];

/// A credential that was found good.
struct Proven {
    /// Whose it is; somebody whom the file does not know may hold what another server vouches for.
    consumer: Option<ConsumerIndex>,
    /// The credential's id.
    credential: Arc<str>,
    /// `X-Credential-Identifier`; absent when the name cannot stand in a header.
    identifier: Option<HeaderValue>,
}

/// The fields that every authentication plugin has: `anonymous` and `run_on_preflight`.
struct Gate {
    plugin: &'static str,
    identities: Arc<Identities>,
    anonymous: Option<Anonymous>,
    run_on_preflight: bool,
}

struct Anonymous {
    name: String,
    /// Absent when the file has no such consumer, which Kong finds out only when it needs it.
    consumer: Option<ConsumerIndex>,
}

impl Gate {
    fn read(plugin: &'static str, fields: &Fields<'_>, setup: &Setup<'_>) -> Self {
        let run_on_preflight = fields.boolean("run_on_preflight").unwrap_or(true);
        Gate { run_on_preflight, ..Gate::read_anonymous(plugin, fields, setup) }
    }

    /// For a plugin without `run_on_preflight`.
    fn read_anonymous(plugin: &'static str, fields: &Fields<'_>, setup: &Setup<'_>) -> Self {
        let name = fields.string("anonymous").filter(|name| !name.is_empty());
        let anonymous = name.map(|name| {
            let consumer = setup.identities.consumer_named(&name);
            if consumer.is_none() {
                let words = format!("anonymous consumer `{name}` does not exist: a failed authentication answers 500");
                setup.report.warn(fields.place_of("anonymous"), words);
            }
            Anonymous { name, consumer }
        });
        Gate { plugin, identities: Arc::clone(setup.identities), anonymous, run_on_preflight: true }
    }

    /// Whether the plugin has nothing to do: a preflight that is let through, or somebody known already where `anonymous`
    /// makes several plugins alternatives of each other.
    fn open(&self, exchange: &Exchange) -> bool {
        (!self.run_on_preflight && exchange.request.method == Method::OPTIONS)
            || (self.anonymous.is_some() && exchange.credential().is_some())
    }

    /// Lets the caller through whom `authenticate` recognises, or the anonymous consumer; answers the others.
    fn pass(
        &self,
        exchange: &mut Exchange,
        authenticate: impl FnOnce(&mut Exchange) -> Result<Proven, Box<Reply>>,
    ) -> Flow {
        match self.skip(exchange) {
            Some(flow) => flow,
            None => {
                let outcome = authenticate(exchange);
                self.settle(exchange, outcome)
            }
        }
    }

    /// Lets through whoever is not asked.
    fn skip(&self, exchange: &mut Exchange) -> Option<Flow> {
        if !self.open(exchange) {
            return None;
        }
        if exchange.authenticated.is_none() {
            clear(&mut exchange.request.headers);
        }
        Some(Flow::Continue)
    }

    /// What becomes of the request when it is known whose it is, or that it is nobody's.
    fn settle(&self, exchange: &mut Exchange, outcome: Result<Proven, Box<Reply>>) -> Flow {
        match (outcome, &self.anonymous) {
            (Ok(proven), _) => self.admit(exchange, proven),
            (Err(reply), None) => Flow::Reply(reply),
            (Err(_), Some(anonymous)) => self.admit_anonymous(exchange, anonymous),
        }
    }

    fn admit(&self, exchange: &mut Exchange, proven: Proven) -> Flow {
        let headers = &mut exchange.request.headers;
        clear(headers);
        if let Some(index) = proven.consumer {
            let Some(consumer) = self.identities.consumer(index) else {
                return self.internal("An unexpected error occurred".into());
            };
            name_consumer(headers, consumer);
        }
        if let Some(identifier) = proven.identifier {
            headers.insert(CREDENTIAL_IDENTIFIER, identifier);
        }
        let credential = Some(proven.credential);
        exchange.authenticated = Some(Authenticated { consumer: proven.consumer, credential, groups: None });
        Flow::Continue
    }

    fn admit_anonymous(&self, exchange: &mut Exchange, anonymous: &Anonymous) -> Flow {
        let found = anonymous.consumer.and_then(|index| Some((index, self.identities.consumer(index)?)));
        let Some((index, consumer)) = found else {
            return self.internal(format!("anonymous consumer {} is configured but doesn't exist", anonymous.name));
        };
        let headers = &mut exchange.request.headers;
        name_consumer(headers, consumer);
        headers.insert(ANONYMOUS_CONSUMER, HeaderValue::from_static("true"));
        exchange.authenticated = Some(Authenticated { consumer: Some(index), credential: None, groups: None });
        Flow::Continue
    }

    fn internal(&self, message: String) -> Flow {
        Reply::templated(self.plugin, StatusCode::INTERNAL_SERVER_ERROR, message).into()
    }
}

/// Marks the values of a header as secrets, which logs leave out.
fn conceal(headers: &mut HeaderMap, name: &HeaderName) {
    // `entry` makes room for a name that is not there.
    if headers.contains_key(name)
        && let Entry::Occupied(mut values) = headers.entry(name)
    {
        values.iter_mut().for_each(|value| value.set_sensitive(true));
    }
}

fn clear(headers: &mut HeaderMap) {
    for name in &IDENTITY {
        headers.remove(name);
    }
}

fn name_consumer(headers: &mut HeaderMap, consumer: &Consumer) {
    clear(headers);
    headers.insert(CONSUMER_ID, consumer.id_header.clone());
    for (name, value) in [
        (CONSUMER_CUSTOM_ID, &consumer.custom_id_header),
        (CONSUMER_USERNAME, &consumer.username_header),
        (CONSUMER_GROUPS, &consumer.member_of_header),
    ] {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
}

/// `scheme realm="…", rest` with what is there of it, for `WWW-Authenticate` (RFC 9110 §11.6.1).
fn challenge(scheme: &str, realm: Option<&str>, rest: Option<&str>) -> Option<HeaderValue> {
    let realm = realm.map(|r| format!("realm=\"{}\"", r.replace('\\', "\\\\").replace('"', "\\\"")));
    let parameters: Vec<&str> = realm.as_deref().into_iter().chain(rest).collect();
    let text = if parameters.is_empty() { scheme.to_owned() } else { format!("{scheme} {}", parameters.join(", ")) };
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

/// Reads `realm` and makes the challenge of it; reports one that cannot stand in a header.
fn realm(fields: &Fields<'_>) -> Option<String> {
    let realm = fields.string("realm")?;
    if HeaderValue::from_bytes(realm.as_bytes()).is_err() {
        fields.report.mismatch(
            fields.place_of("realm"),
            "`realm` has control characters",
            "text that fits into a header",
        );
        return None;
    }
    Some(realm)
}

/// Reports a name that cannot be a header's.
fn header_name(fields: &Fields<'_>, place: Place, name: &str) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        fields.report.mismatch(place, format!("`{name}` is not a header name"), "letters, digits and !#$%&'*+-.^_`|~");
    }
    parsed
}

/// Reads a list of names, with `default` when it is absent; empty names are reported.
fn names<'a>(fields: &Fields<'a>, field: &'a str, default: &[&str]) -> Vec<(Place, String)> {
    let place = fields.place_of(field);
    let Some(names) = fields.strings(field) else {
        return default.iter().map(|name| (place, (*name).to_owned())).collect();
    };
    for (place, _) in names.iter().filter(|(_, name)| name.is_empty()) {
        fields.report.mismatch(*place, format!("`{field}` has an empty name"), "a name");
    }
    names
}

#[cfg(test)]
pub(crate) mod bench {
    //! A configuration and an exchange for the tests of the plugins in this room and beside it.

    use super::*;
    use crate::document::Report;
    use crate::document::tree::parse;
    use crate::identity::{ApiKey, BasicCredential, HmacCredential, JwtSecret};
    use crate::plugins::{Plugin, Shared, kind};
    use crate::telemetry::writer::LogWriter;

    /// Consumers `alice` (groups admin, pro), `bob` (none) and `nobody`; keys `alice-key` and `bob-key`.
    pub fn identities(secrets: Vec<JwtSecret>) -> Arc<Identities> {
        let mut identities = Identities::default();
        for (name, groups) in [("alice", &["admin", "pro"][..]), ("bob", &[]), ("nobody", &[])] {
            let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
            let header = |text: &str| HeaderValue::from_str(text).expect("header");
            identities.add_consumer(Consumer {
                id: format!("id-of-{name}"),
                username: Some(name.to_owned()),
                custom_id: (name == "alice").then(|| "a-1".to_owned()),
                id_header: header(&format!("id-of-{name}")),
                username_header: Some(header(name)),
                custom_id_header: (name == "alice").then(|| header("a-1")),
                member_of: Vec::new(),
                member_of_header: None,
                groups_header: (!groups.is_empty()).then(|| header(&groups.join(", "))),
                groups,
            });
        }
        for (consumer, key) in [(0, "alice-key"), (1, "bob-key")] {
            identities.add_key(key, ApiKey { id: format!("credential-{key}"), consumer });
        }
        let password = crate::identity::password_digest("bob:secret", "id-of-bob");
        identities.add_basic("bob", BasicCredential { id: "credential-bob".to_owned(), consumer: 1, password });
        let secret = b"bob's hmac".as_slice().into();
        identities.add_hmac("bob", HmacCredential { id: "hmac-of-bob".to_owned(), consumer: 1, secret });
        for secret in secrets {
            assert!(identities.add_jwt(secret), "one key, one credential");
        }
        Arc::new(identities)
    }

    /// Compiles the plugin `name` with the YAML `config`; the report is empty when nothing is wrong.
    pub fn compile(name: &str, config: &str, identities: &Arc<Identities>) -> (Option<Arc<dyn Plugin>>, String) {
        let report = Report::new("k.yml", false);
        let tree = parse(config).expect("parses");
        let shared = Arc::new(Shared::new(LogWriter::start().expect("starts").0));
        let setup = Setup {
            identities,
            shared: &shared,
            report: &report,
            place: tree.place,
            id: "p",
            route: "",
            service: "",
            group: "",
        };
        let kind = kind(name).expect("registered");
        let plugin = Fields::of(&tree, "config", &report).and_then(|fields| (kind.compile)(&fields, &setup));
        (plugin, report.to_string())
    }

    /// The plugin of a configuration that is right.
    pub fn plugin(name: &str, config: &str, identities: &Arc<Identities>) -> Arc<dyn Plugin> {
        let (plugin, report) = compile(name, config, identities);
        assert_eq!(report, "");
        plugin.expect("compiles")
    }

    /// The problems of a configuration that is wrong.
    pub fn problems(name: &str, config: &str) -> String {
        let (_, report) = compile(name, config, &identities(Vec::new()));
        assert_ne!(report, "", "{config} passes");
        report
    }

    /// The answer that a plugin gives, as `status body header…`, or `continue`.
    pub fn answer(plugin: &Arc<dyn Plugin>, exchange: &mut Exchange) -> String {
        plugin.conceal(exchange);
        let reply = match plugin.on_request(exchange) {
            Flow::Continue => return "continue".to_owned(),
            Flow::Wait(_) => return "wait".to_owned(),
            Flow::Reply(reply) => reply,
        };
        let (headers, body) = crate::proxy::reply::render(&reply, &HeaderMap::new(), "id", &Default::default());
        let body = String::from_utf8(body.to_vec()).expect("text");
        let message = serde_json::from_str::<serde_json::Value>(&body)
            .ok()
            .and_then(|json| json["message"].as_str().map(str::to_owned))
            .unwrap_or(body);
        let mut shown = format!("{} {message}", reply.status.as_u16());
        if let Some(challenge) = headers.get("www-authenticate") {
            shown += &format!(" [{}]", challenge.to_str().expect("text"));
        }
        shown
    }

    /// A header of the request as the upstream gets it.
    pub fn upstream<'a>(exchange: &'a Exchange, name: &str) -> Option<&'a str> {
        exchange.request.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

#[cfg(test)]
mod tests {
    use super::bench::*;
    use super::*;

    const FORGED: &[(&str, &str)] = &[
        ("X-Consumer-ID", "forged"),
        ("X-Consumer-Custom-ID", "forged"),
        ("X-Consumer-Username", "forged"),
        ("X-Consumer-Groups", "admin"),
        ("X-Authenticated-Groups", "admin"),
        ("X-Credential-Identifier", "forged"),
        ("X-Anonymous-Consumer", "true"),
    ];

    fn forged(extra: (&'static str, &'static str)) -> Exchange {
        let mut headers = FORGED.to_vec();
        headers.push(extra);
        Exchange::for_test("GET", "/", &headers)
    }

    #[test]
    fn the_upstream_sees_only_our_identity_headers() {
        let people = identities(Vec::new());
        let plugin = plugin("key-auth", "{}", &people);
        let mut exchange = forged(("apikey", "bob-key"));
        assert_eq!(answer(&plugin, &mut exchange), "continue");
        assert_eq!(upstream(&exchange, "x-consumer-id"), Some("id-of-bob"));
        assert_eq!(upstream(&exchange, "x-consumer-username"), Some("bob"));
        assert_eq!(upstream(&exchange, "x-credential-identifier"), Some("credential-bob-key"));
        for gone in ["x-consumer-custom-id", "x-consumer-groups", "x-authenticated-groups", "x-anonymous-consumer"] {
            assert_eq!(upstream(&exchange, gone), None, "{gone}");
        }
        assert_eq!(exchange.consumer(), Some(1));
        assert_eq!(exchange.credential().map(|c| &**c), Some("credential-bob-key"));
        let mut exchange = forged(("apikey", "alice-key"));
        assert_eq!(answer(&plugin, &mut exchange), "continue");
        assert_eq!(upstream(&exchange, "x-consumer-custom-id"), Some("a-1"));
    }

    #[test]
    fn anonymous_is_found_by_id_and_by_name() {
        let people = identities(Vec::new());
        for name in ["id-of-nobody", "nobody"] {
            let plugin = plugin("key-auth", &format!("anonymous: {name}"), &people);
            let mut exchange = forged(("apikey", "wrong"));
            assert_eq!(answer(&plugin, &mut exchange), "continue");
            assert_eq!(upstream(&exchange, "x-anonymous-consumer"), Some("true"));
            assert_eq!(upstream(&exchange, "x-consumer-username"), Some("nobody"));
            assert_eq!(upstream(&exchange, "x-credential-identifier"), None);
            assert_eq!(exchange.consumer(), Some(2));
            assert!(exchange.credential().is_none());
        }
    }

    #[test]
    fn a_missing_anonymous_consumer_is_a_warning_and_a_500() {
        let people = identities(Vec::new());
        let (plugin, report) = compile("key-auth", "anonymous: ghost", &people);
        assert!(report.contains("k.yml:1:1: warning: anonymous consumer `ghost` does not exist"), "{report}");
        let mut exchange = Exchange::for_test("GET", "/", &[]);
        let answer = answer(&plugin.expect("compiles"), &mut exchange);
        assert_eq!(answer, "500 anonymous consumer ghost is configured but doesn't exist");
    }

    #[test]
    fn anonymous_makes_alternatives_and_its_absence_demands_both() {
        let people = identities(Vec::new());
        let either = [plugin("jwt", "anonymous: nobody", &people), plugin("key-auth", "anonymous: nobody", &people)];
        let mut exchange = Exchange::for_test("GET", "/", &[("apikey", "bob-key")]);
        assert!(either.iter().all(|p| answer(p, &mut exchange) == "continue"));
        assert_eq!(upstream(&exchange, "x-consumer-username"), Some("bob"));
        assert_eq!(upstream(&exchange, "x-anonymous-consumer"), None);
        // Whoever is known already is not asked again.
        assert_eq!(answer(&either[0], &mut exchange), "continue");
        assert_eq!(upstream(&exchange, "x-consumer-username"), Some("bob"));
        let both = plugin("jwt", "{}", &people);
        assert_eq!(answer(&both, &mut exchange), "401 Unauthorized [Bearer]");
    }

    #[test]
    fn preflights_pass_without_an_identity_when_told_so() {
        let people = identities(Vec::new());
        for (kind, refusal) in
            [("key-auth", "401 No API key found in request [Key]"), ("jwt", "401 Unauthorized [Bearer]")]
        {
            let strict = plugin(kind, "{}", &people);
            assert_eq!(answer(&strict, &mut Exchange::for_test("OPTIONS", "/", &[])), refusal);
            let lenient = plugin(kind, "run_on_preflight: false", &people);
            let mut exchange = Exchange::for_test("OPTIONS", "/", FORGED);
            assert_eq!(answer(&lenient, &mut exchange), "continue");
            assert!(IDENTITY.iter().all(|name| !exchange.request.headers.contains_key(name)));
            assert_eq!(answer(&lenient, &mut Exchange::for_test("GET", "/", &[])), refusal);
        }
    }

    #[test]
    fn a_realm_is_quoted() {
        let people = identities(Vec::new());
        let plugin = plugin("key-auth", r#"realm: 'a "b" \c'"#, &people);
        let answer = answer(&plugin, &mut Exchange::for_test("GET", "/", &[]));
        assert_eq!(answer, r#"401 No API key found in request [Key realm="a \"b\" \\c"]"#);
        assert!(problems("jwt", r#"realm: "a\nb""#).contains("k.yml:1:1: error: `realm` has control characters"));
    }
}
