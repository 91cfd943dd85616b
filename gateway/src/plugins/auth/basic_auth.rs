//! Kong's `basic-auth` (RFC 7617): user name and password in `Proxy-Authorization` or `Authorization`. Passwords are compared
//! as digests, in constant time, and never logged.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};

use super::{Gate, Proven, challenge, realm};
use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `basic-auth`.
pub const KIND: Kind = Kind { name: "basic-auth", priority: 1100, consumer_scope: false, compile };

/// The longest credentials that are decoded, bytes of base64.
const ENCODED_BYTES_MAX: usize = 8 << 10;

/// Padded or not, as clients send it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

struct BasicAuth {
    gate: Gate,
    hide_credentials: bool,
    challenge: Option<HeaderValue>,
}

/// What a client gave.
struct Given {
    username: String,
    password: Vec<u8>,
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read_anonymous(KIND.name, fields, setup);
    let realm = realm(fields);
    Some(Arc::new(BasicAuth {
        gate,
        hide_credentials: fields.boolean("hide_credentials").unwrap_or(false),
        challenge: challenge("Basic", Some(realm.as_deref().unwrap_or("service")), None),
    }))
}

impl Plugin for BasicAuth {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        self.gate.pass(exchange, |exchange| self.authenticate(exchange))
    }
}

impl BasicAuth {
    /// Kong's order: what `Proxy-Authorization` holds counts when its user exists, else what `Authorization` holds.
    fn authenticate(&self, exchange: &mut Exchange) -> Result<Proven, Box<Reply>> {
        let headers = &mut exchange.request.headers;
        let identities = &self.gate.identities;
        for header in [PROXY_AUTHORIZATION, AUTHORIZATION] {
            let Some(given) = self.take(headers, &header) else { continue };
            if header == PROXY_AUTHORIZATION && !identities.has_basic(&given.username) {
                continue;
            }
            let proven = identities.basic(&given.username, &given.password).map(|credential| Proven {
                consumer: Some(credential.consumer),
                credential: Arc::from(credential.id.as_str()),
                identifier: HeaderValue::from_bytes(given.username.as_bytes()).ok(),
            });
            return proven.ok_or_else(|| self.refuse());
        }
        Err(self.refuse())
    }

    fn take(&self, headers: &mut HeaderMap, name: &HeaderName) -> Option<Given> {
        let given = headers.get(name).and_then(parse);
        if self.hide_credentials {
            headers.remove(name);
        }
        given
    }

    fn refuse(&self) -> Box<Reply> {
        let reply = Reply::templated(KIND.name, StatusCode::UNAUTHORIZED, "Unauthorized");
        Box::new(match &self.challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        })
    }
}

/// `Basic` and base64 of `user:password`; the password may hold colons (RFC 7617 §2).
fn parse(value: &HeaderValue) -> Option<Given> {
    let text = value.to_str().ok()?.trim();
    let (scheme, encoded) = text.split_at_checked(5)?;
    let encoded = encoded.trim_start();
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > ENCODED_BYTES_MAX {
        return None;
    }
    let decoded = BASE64.decode(encoded).ok()?;
    let colon = decoded.iter().position(|b| *b == b':').filter(|at| *at > 0)?;
    let username = str::from_utf8(&decoded[..colon]).ok()?.to_owned();
    Some(Given { username, password: decoded[colon + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    fn basic(text: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    }

    fn run(config: &str, headers: &[(&str, &str)]) -> (String, Exchange) {
        let plugin = plugin("basic-auth", config, &identities(Vec::new()));
        let mut exchange = Exchange::for_test("GET", "/", headers);
        (answer(&plugin, &mut exchange), exchange)
    }

    const REFUSED: &str = "401 Unauthorized [Basic realm=\"service\"]";

    #[test]
    fn credentials_are_exact() {
        for good in [basic("bob:bob:secret"), basic("bob:bob:secret").replacen("Basic ", "bAsIc   ", 1)] {
            let (verdict, exchange) = run("{}", &[("authorization", &good)]);
            assert_eq!(verdict, "continue");
            assert_eq!(upstream(&exchange, "x-consumer-username"), Some("bob"));
            assert_eq!(upstream(&exchange, "x-credential-identifier"), Some("bob"));
        }
        for bad in ["bob:", "bob:bob:secreT", "bob", ":bob:secret", "Bob:bob:secret", "alice:bob:secret", ""] {
            assert_eq!(run("{}", &[("authorization", &basic(bad))]).0, REFUSED, "{bad}");
        }
        for bad in ["Basic", "Basic ?", "Bearer Ym9i", "é", ""] {
            assert_eq!(run("{}", &[("authorization", bad)]).0, REFUSED, "{bad}");
        }
        assert_eq!(run("{}", &[]).0, REFUSED);
    }

    #[test]
    fn the_proxy_header_counts_when_its_user_exists() {
        let (bob, nobody, wrong) = (basic("bob:bob:secret"), basic("x:y"), basic("bob:wrong"));
        let ask = |proxy: &str, own: &str| run("{}", &[("proxy-authorization", proxy), ("authorization", own)]).0;
        assert_eq!(ask(&bob, &wrong), "continue");
        assert_eq!(ask(&nobody, &bob), "continue");
        assert_eq!(ask("garbage", &bob), "continue");
        assert_eq!(ask(&wrong, &bob), REFUSED);
    }

    #[test]
    fn a_password_is_hidden_when_told_so() {
        let bob = basic("bob:bob:secret");
        let (_, exchange) = run("{}", &[("authorization", &bob)]);
        assert_eq!(upstream(&exchange, "authorization"), Some(&*bob));
        let (_, exchange) = run("hide_credentials: true", &[("authorization", &bob)]);
        assert_eq!(upstream(&exchange, "authorization"), None);
    }

    #[test]
    fn fields_are_kongs() {
        assert_eq!(run("realm: vault", &[]).0, "401 Unauthorized [Basic realm=\"vault\"]");
        assert_eq!(run("anonymous: nobody", &[]).0, "continue");
        assert!(problems("basic-auth", "run_on_preflight: true").contains("unknown field `run_on_preflight`"));
    }
}
