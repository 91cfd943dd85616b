//! Kong's `ldap-auth`: asks a directory whether a name and a password belong together, by a simple bind, and remembers the
//! answer. The worker asks, once for a pair, bounded in time and number. Passwords are kept by nobody: answers are found by a
//! keyed hash.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, HeaderValue, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Gate, Proven, challenge, conceal, realm};
use crate::calls::Calls;
use crate::clock;
use crate::document::Fields;
use crate::identity::dn;
use crate::identity::remote::answers::{Answers, Dated};
use crate::identity::remote::ldap::{Directory, Secrecy, Verdict};
use crate::plugins::{Flow, Kind, Plugin, Resume, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `ldap-auth`.
pub const KIND: Kind = Kind { name: "ldap-auth", priority: 1200, consumer_scope: false, compile };

/// The longest credentials that are decoded, bytes of base64.
const ENCODED_BYTES_MAX: usize = 8 << 10;
/// Questions of one plugin at the same time.
const QUESTIONS_MAX: usize = 128;
/// How long a failure to ask is remembered, so that a dead directory is not asked by every request.
const FAILURE_NS: u64 = 1_000_000_000;
/// What an answer takes of the memory, about.
const SLOT_BYTES: usize = 128;

/// Padded or not, as clients send it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

struct LdapAuth(Arc<Inner>);

struct Inner {
    gate: Gate,
    calls: Arc<Calls>,
    directory: Directory,
    /// `attribute` and `base_dn`, between which the name of a user stands.
    attribute: String,
    base_dn: String,
    answers: Answers<Worth>,
    /// Of this plugin alone, made when it is: whoever reads the memory has no hash to guess passwords with.
    key: hmac::Key,
    permits: Semaphore,
    ttl_ns: u64,
    timeout: Duration,
    header_type: String,
    hide_credentials: bool,
    challenge: Option<HeaderValue>,
}

/// What the directory says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    Known(Verdict),
    Unknown,
}

/// What a client gave.
struct Given {
    username: String,
    password: Vec<u8>,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read_anonymous(KIND.name, fields, setup);
    let host = fields.required_string("ldap_host");
    let port = fields.integer("ldap_port", 0..=65_535).unwrap_or(389);
    let (ldaps, start_tls) = (fields.boolean("ldaps").unwrap_or(false), fields.boolean("start_tls").unwrap_or(false));
    let verify = fields.boolean("verify_ldap_host").unwrap_or(false);
    let base_dn = fields.required_string("base_dn");
    let attribute = fields.required_string("attribute");
    let ttl_s = fields.number("cache_ttl", 0.0..=86_400.0).unwrap_or(60.0);
    let timeout_ms = fields.integer("timeout", 1..=600_000).unwrap_or(10_000);
    // Connections are not kept.
    fields.number("keepalive", 0.0..=f64::from(i32::MAX));
    let header_type = fields.string("header_type").unwrap_or_else(|| "ldap".to_owned());
    let realm = realm(fields);
    let hide_credentials = fields.boolean("hide_credentials").unwrap_or(false);
    let secrecy = match (ldaps, start_tls) {
        (true, true) => {
            let words = "both `ldaps` and `start_tls` are true";
            fields.report.mismatch(fields.place_of("start_tls"), words, "one of them");
            return None;
        }
        (true, false) => Secrecy::Tls,
        (false, true) => Secrecy::StartTls,
        (false, false) => Secrecy::Plain,
    };
    let attribute = attribute.filter(|name| is_attribute(fields, name));
    let header_type = Some(header_type).filter(|word| is_scheme(fields, word));
    let (base_dn, host) = (base_dn.filter(|dn| is_given(fields, "base_dn", dn)), host);
    let host = host.filter(|host| is_given(fields, "ldap_host", host))?;
    let header_type = header_type?;
    // Kong writes its own scheme in upper case.
    let scheme = if header_type == "ldap" { "LDAP" } else { header_type.as_str() };
    Some(Arc::new(LdapAuth(Arc::new(Inner {
        gate,
        calls: Arc::clone(&setup.shared.remote.calls),
        directory: Directory { host, port: u16::try_from(port).unwrap_or_default(), secrecy, verify },
        attribute: attribute?,
        base_dn: base_dn?,
        answers: Answers::default(),
        key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
        permits: Semaphore::new(QUESTIONS_MAX),
        ttl_ns: (ttl_s * 1e9) as u64,
        timeout: Duration::from_millis(timeout_ms.unsigned_abs()),
        hide_credentials,
        challenge: challenge(scheme, realm.as_deref(), None),
        header_type,
    }))))
}

/// An attribute's name or OID (RFC 4512 §1.4); nothing else stands before the `=`.
fn is_attribute(fields: &Fields<'_>, name: &str) -> bool {
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    if !fits {
        let words = format!("`attribute` `{name}` is no attribute's name");
        fields.report.mismatch(fields.place_of("attribute"), words, "letters, digits and `-`, such as `uid`");
    }
    fits
}

fn is_scheme(fields: &Fields<'_>, word: &str) -> bool {
    let fits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && !b"\",()/:;<=>?@[\\]{}".contains(&b));
    if !fits {
        let words = format!("`header_type` `{word}` is no scheme");
        fields.report.mismatch(fields.place_of("header_type"), words, "one word, such as `ldap` or `basic`");
    }
    fits
}

fn is_given(fields: &Fields<'_>, name: &str, text: &str) -> bool {
    if text.is_empty() {
        fields.report.mismatch(fields.place_of(name), format!("`{name}` is empty"), "a value");
    }
    !text.is_empty()
}

impl Plugin for LdapAuth {
    fn conceal(&self, exchange: &mut Exchange) {
        for name in [PROXY_AUTHORIZATION, AUTHORIZATION] {
            conceal(&mut exchange.request.headers, &name);
        }
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        if let Some(flow) = self.0.gate.skip(exchange) {
            return flow;
        }
        let headers = &exchange.request.headers;
        // Kong's order: the second counts when the first opens nothing.
        let given =
            [AUTHORIZATION, PROXY_AUTHORIZATION].iter().filter_map(|name| self.0.parse(headers, name)).collect();
        self.0.attempt(exchange, given)
    }
}

impl Inner {
    /// Tries what is given, the last first.
    fn attempt(self: &Arc<Self>, exchange: &mut Exchange, mut given: Vec<Given>) -> Flow {
        let Some(next) = given.pop() else { return self.refuse(exchange) };
        let slot = self.answers.slot(&self.hash(&next), exchange.started_ns);
        match slot.get(exchange.started_ns) {
            Some(worth) => self.conclude(exchange, *worth, &next.username, given),
            None => {
                let own = Arc::clone(self);
                let end = Instant::now() + self.timeout;
                Flow::Wait(Box::pin(async move {
                    // Whoever waits for another's answer may have to ask himself at last; his time is what it was.
                    let _ = tokio::time::timeout_at(end, slot.ask(own.ask(&next, end))).await;
                    let worth = slot.latest().copied().unwrap_or(Worth::Unknown);
                    let resume = move |exchange: &mut Exchange| own.conclude(exchange, worth, &next.username, given);
                    Box::new(resume) as Resume
                }))
            }
        }
    }

    /// What an answer is remembered by.
    fn hash(&self, given: &Given) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(given.username.len() as u64).to_be_bytes());
        context.update(given.username.as_bytes());
        context.update(&given.password);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }

    async fn ask(&self, given: &Given, end: Instant) -> Dated<Worth> {
        let name = format!("{}={},{}", self.attribute, dn::escaped(&given.username), self.base_dn);
        let asked = async {
            let _permit = self.permits.acquire().await.map_err(|_| "closed".to_owned())?;
            self.directory.bind(&self.calls, &name, &given.password, end).await
        };
        let verdict = match tokio::time::timeout_at(end, asked).await {
            Ok(verdict) => verdict,
            Err(_) => Err(format!("{}: no answer in time", self.directory.host)),
        };
        let now_ns = clock::monotonic_ns();
        match verdict {
            Ok(verdict) => {
                let until_ns = now_ns.saturating_add(self.ttl_ns);
                Dated { answer: Worth::Known(verdict), until_ns, bytes: SLOT_BYTES }
            }
            Err(error) => {
                tracing::warn!(error, "a directory cannot be asked");
                Dated { answer: Worth::Unknown, until_ns: now_ns + FAILURE_NS, bytes: SLOT_BYTES }
            }
        }
    }

    fn conclude(self: &Arc<Self>, exchange: &mut Exchange, worth: Worth, username: &str, rest: Vec<Given>) -> Flow {
        match worth {
            Worth::Known(Verdict::Good) => {
                if self.hide_credentials {
                    exchange.request.headers.remove(AUTHORIZATION);
                    exchange.request.headers.remove(PROXY_AUTHORIZATION);
                }
                let proven = Proven {
                    consumer: None,
                    credential: Arc::from(format!("ldap {} {username}", self.directory.host)),
                    identifier: HeaderValue::from_bytes(username.as_bytes()).ok(),
                };
                self.gate.settle(exchange, Ok(proven))
            }
            Worth::Known(Verdict::Bad) => self.attempt(exchange, rest),
            Worth::Unknown => {
                let body = json!({ "message": "The directory cannot be asked now" });
                let reply = Reply::json(KIND.name, StatusCode::SERVICE_UNAVAILABLE, body).retry_after(1);
                self.gate.settle(exchange, Err(Box::new(reply)))
            }
        }
    }

    fn refuse(&self, exchange: &mut Exchange) -> Flow {
        let reply = Reply::templated(KIND.name, StatusCode::UNAUTHORIZED, "Unauthorized");
        let reply = match &self.challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        };
        self.gate.settle(exchange, Err(Box::new(reply)))
    }

    /// The scheme, and base64 of `user:password`; the password may hold colons. A field that stands twice holds nothing,
    /// since the upstream may believe the other one.
    fn parse(&self, headers: &HeaderMap, name: &http::HeaderName) -> Option<Given> {
        let mut values = headers.get_all(name).iter();
        let text = values.next()?.to_str().ok().filter(|_| values.next().is_none())?.trim();
        let (scheme, encoded) = text.split_once([' ', '\t'])?;
        let encoded = encoded.trim_start();
        if !scheme.eq_ignore_ascii_case(&self.header_type) || encoded.len() > ENCODED_BYTES_MAX {
            return None;
        }
        let decoded = BASE64.decode(encoded).ok()?;
        let colon = decoded.iter().position(|b| *b == b':').filter(|at| *at > 0)?;
        let username = str::from_utf8(&decoded[..colon]).ok()?.to_owned();
        let password = decoded[colon + 1..].to_vec();
        // An empty one would ask for nothing and be granted (RFC 4513 §5.1.2).
        (!password.is_empty()).then_some(Given { username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    const CONFIG: &str = "ldap_host: ldap.test, base_dn: 'dc=a,dc=test', attribute: uid";

    fn ask(config: &str, header: &str) -> String {
        let plugin = plugin("ldap-auth", &format!("{{{CONFIG}{config}}}"), &identities(Vec::new()));
        answer(&plugin, &mut Exchange::for_test("GET", "/", &[("authorization", header)]))
    }

    fn encoded(scheme: &str, pair: &str) -> String {
        format!("{scheme} {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    #[test]
    fn what_is_no_pair_is_asked_of_nobody() {
        for pair in ["ann", "ann:", ":x", "", "\u{0}"] {
            assert_eq!(ask("", &encoded("LDAP", pair)), "401 Unauthorized [LDAP]", "{pair}");
        }
        for header in ["ldap", "ldap ?", "Basic YTpi", "é", "ldapYTpi", &"x".repeat(9000)] {
            assert_eq!(ask("", header), "401 Unauthorized [LDAP]", "{header}");
        }
        assert_eq!(ask("", &encoded("ldap", "ann:x")), "wait");
        assert_eq!(ask(", header_type: Basic, realm: r", &encoded("basic", "ann:x:y")), "wait");
        assert_eq!(
            ask(", header_type: Basic, realm: r", &encoded("ldap", "a:x")),
            "401 Unauthorized [Basic realm=\"r\"]"
        );
        assert_eq!(ask(", anonymous: nobody", ""), "continue");
    }

    #[test]
    fn faults_are_told() {
        let problem = |config: &str| problems("ldap-auth", &format!("{{{config}}}"));
        assert!(problem("ldap_host: a").contains("lacks the required field `base_dn`"));
        for (more, words) in [
            (", ldaps: true, start_tls: true", "both `ldaps` and `start_tls`"),
            (", header_type: 'a b'", "`header_type` `a b` is no scheme"),
            (", timeout: 0", "`timeout` is 0"),
            (", ldap_port: 70000", "`ldap_port` is 70000"),
            (", run_on_preflight: true", "unknown field `run_on_preflight`"),
        ] {
            assert!(problem(&format!("{CONFIG}{more}")).contains(words), "{more}");
        }
        assert!(problem("ldap_host: a, base_dn: b, attribute: 'uid=x,cn'").contains("is no attribute's name"));
        assert!(problem("ldap_host: '', base_dn: b, attribute: uid").contains("`ldap_host` is empty"));
    }
}
