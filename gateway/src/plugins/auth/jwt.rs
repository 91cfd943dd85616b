//! Kong's `jwt`: a signed token names a credential, whose key and algorithm must have made the signature. Reading tokens
//! strictly is `jwt_token`'s, checking signatures `identity::verifier`'s; time is the request's.

use std::borrow::Cow;
use std::sync::Arc;

use http::StatusCode;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use super::issued::{Issued, Lack, resumed};
use super::jwt_token::{self, Token};
use super::{Gate, Proven, arguments, challenge, conceal, header_name, names, realm};
use crate::document::Fields;
pub use crate::identity::verifier::{Verifier, verifier};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::cookies;
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `jwt`.
pub const KIND: Kind = Kind { name: "jwt", priority: 1450, consumer_scope: false, compile };

struct Jwt(Arc<Inner>);

struct Inner {
    gate: Gate,
    /// Keys that an issuer publishes, beside the file's.
    issued: Option<Issued>,
    uri_param_names: Vec<String>,
    cookie_names: Vec<String>,
    header_names: Vec<HeaderName>,
    key_claim_name: String,
    secret_is_base64: bool,
    checks: Checks,
    /// `WWW-Authenticate` for a request without a token.
    missing: Option<HeaderValue>,
    /// `WWW-Authenticate` for a token that is not accepted (RFC 6750 §3.1).
    invalid: Option<HeaderValue>,
}

/// Claims that are looked at beside the signature.
struct Checks {
    exp: bool,
    nbf: bool,
    /// The longest time that a token may have left, seconds; 0 is no limit.
    expiration_s_max: i64,
}

/// Why a token is not accepted: the body of the answer.
enum Fault {
    Missing,
    Message(Cow<'static, str>),
    Claims(Map<String, Value>),
    /// The credential's consumer is gone; Kong sends no challenge with this.
    Orphan(String),
    /// A key that an issuer published should have signed it.
    Issued(Lack),
}

impl From<Lack> for Fault {
    fn from(lack: Lack) -> Self {
        Fault::Issued(lack)
    }
}

impl From<&'static str> for Fault {
    fn from(message: &'static str) -> Self {
        Fault::Message(message.into())
    }
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let gate = Gate::read(KIND.name, fields, setup);
    let texts = |field, default: &[&str]| names(fields, field, default).into_iter().map(|(_, name)| name).collect();
    let headers = names(fields, "header_names", &["authorization"]);
    let count = headers.len();
    let header_names: Vec<HeaderName> =
        headers.iter().filter_map(|(place, name)| header_name(fields, *place, name)).collect();
    let realm = realm(fields);
    let key_claim_name = fields.string("key_claim_name").unwrap_or_else(|| "iss".into());
    let plugin = Inner {
        gate,
        issued: Issued::of_jwt(fields, setup)?,
        uri_param_names: texts("uri_param_names", &["jwt"]),
        cookie_names: texts("cookie_names", &[]),
        header_names,
        key_claim_name,
        secret_is_base64: fields.boolean("secret_is_base64").unwrap_or(false),
        checks: Checks::read(fields)?,
        missing: challenge("Bearer", realm.as_deref(), None),
        invalid: challenge("Bearer", realm.as_deref(), Some("error=\"invalid_token\"")),
    };
    (plugin.header_names.len() == count).then(|| Arc::new(Jwt(Arc::new(plugin))) as Arc<dyn Plugin>)
}

impl Checks {
    fn read(fields: &Fields<'_>) -> Option<Self> {
        let expiration_s_max = fields.integer("maximum_expiration", 0..=31_536_000).unwrap_or(0);
        let mut checks = Checks { exp: false, nbf: false, expiration_s_max };
        for (place, claim) in fields.strings("claims_to_verify").unwrap_or_default() {
            match claim.as_str() {
                "exp" => checks.exp = true,
                "nbf" => checks.nbf = true,
                _ => {
                    let words = format!("`claims_to_verify` has `{claim}`");
                    fields.report.unknown(place, words, &claim, &["exp", "nbf"]);
                    return None;
                }
            }
        }
        if checks.expiration_s_max > 0 && !checks.exp {
            let place = fields.place_of("maximum_expiration");
            fields.report.mismatch(place, "`maximum_expiration` without `exp`", "`exp` in `claims_to_verify`");
            return None;
        }
        Some(checks)
    }

    /// What is wrong with the claims at `now_s` (seconds since 1970), by claim; empty when nothing is.
    fn faults(&self, claims: &Map<String, Value>, now_s: i64) -> Map<String, Value> {
        let mut faults = Map::new();
        // Comparisons of whole seconds with fractions: exact up to 2^53.
        let now = now_s as f64;
        let mut fault = |claim: &str, words: &str| faults.insert(claim.into(), words.into());
        let exp = claims.get("exp").map(number);
        match exp {
            Some(Some(exp)) if exp < 0.0 || (self.exp && exp <= now) => drop(fault("exp", "token expired")),
            Some(Some(exp)) if self.expiration_s_max > 0 && exp - now > self.expiration_s_max as f64 => {
                fault("exp", "exceeds maximum allowed expiration");
            }
            Some(Some(_)) => {}
            None if !self.exp => {}
            Some(None) | None => drop(fault("exp", "must be a number")),
        }
        match claims.get("nbf").map(number) {
            Some(Some(nbf)) if self.nbf && nbf > now => drop(fault("nbf", "token not valid yet")),
            Some(Some(_)) => {}
            None if !self.nbf => {}
            Some(None) | None => drop(fault("nbf", "must be a number")),
        }
        faults
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| n.is_finite())
}

impl Plugin for Jwt {
    fn conceal(&self, exchange: &mut Exchange) {
        if let Some(uri) = arguments::redacted(&exchange.raw_uri, &self.0.uri_param_names) {
            exchange.raw_uri = uri;
        }
        let headers = &mut exchange.request.headers;
        for name in &self.0.header_names {
            conceal(headers, name);
        }
        if !self.0.cookie_names.is_empty() {
            conceal(headers, &COOKIE);
        }
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        Inner::decide(&self.0, exchange, true)
    }
}

impl Inner {
    fn decide(self: &Arc<Self>, exchange: &mut Exchange, may_wait: bool) -> Flow {
        if let Some(flow) = self.gate.skip(exchange) {
            return flow;
        }
        match self.authenticate(exchange, may_wait) {
            Err(Fault::Issued(Lack::Wait(renewal))) => {
                let own = Arc::clone(self);
                resumed(renewal, move |exchange| own.decide(exchange, false))
            }
            outcome => self.gate.settle(exchange, outcome.map_err(|fault| self.refuse(fault))),
        }
    }

    fn authenticate(&self, exchange: &Exchange, may_wait: bool) -> Result<Proven, Fault> {
        let text = self.token_text(exchange)?;
        let token = jwt_token::parse(&text).map_err(|words| Fault::Message(format!("Bad token; {words}").into()))?;
        let key = self.key_of(&token);
        if let Some(issued) = &self.issued
            && !key.as_ref().is_ok_and(|key| self.gate.identities.jwt(key).is_some())
        {
            return Ok(issued.judge(&token, &self.gate.identities, exchange, may_wait)?);
        }
        let key = key?;
        let (secret, verifier) = self.gate.identities.jwt_with_verifier(key).ok_or_else(|| {
            Fault::Message(format!("No credentials found for given '{}'", self.key_claim_name).into())
        })?;
        if token.algorithm != secret.algorithm {
            return Err("Invalid algorithm".into());
        }
        let verifier = verifier.filter(|v| v.usable(self.secret_is_base64)).ok_or("Invalid key/secret")?;
        if !verifier.verify(token.signed, &token.signature, self.secret_is_base64) {
            return Err("Invalid signature".into());
        }
        let now_s = i64::try_from(exchange.started_unix_ns / 1_000_000_000).unwrap_or(i64::MAX);
        let faults = self.checks.faults(&token.claims, now_s);
        if !faults.is_empty() {
            return Err(Fault::Claims(faults));
        }
        if let Some(issued) = &self.issued {
            issued.rules.demands(&token.claims)?;
        }
        if self.gate.identities.consumer(secret.consumer).is_none() {
            return Err(Fault::Orphan(format!("Could not find consumer for '{}={key}'", self.key_claim_name)));
        }
        Ok(Proven {
            consumer: Some(secret.consumer),
            credential: Arc::from(secret.id.as_str()),
            identifier: HeaderValue::from_bytes(secret.key.as_bytes()).ok(),
        })
    }

    /// The one token of the request, from wherever it may stand; the same token in several places counts once.
    fn token_text<'a>(&self, exchange: &'a Exchange) -> Result<Cow<'a, [u8]>, Fault> {
        let mut tokens = Tokens::default();
        let headers = &exchange.request.headers;
        let query = exchange.query.as_deref().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if self.uri_param_names.iter().any(|n| *n == name) {
                tokens.add(match value {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                });
            }
        }
        if !self.cookie_names.is_empty() {
            for (name, value) in cookies::pairs(headers) {
                if self.cookie_names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(name)) {
                    tokens.add(Cow::Borrowed(value));
                }
            }
        }
        for name in &self.header_names {
            // Two credentials of which the upstream may believe the other one; Kong's server refuses them too.
            if *name == AUTHORIZATION && headers.get_all(name).iter().nth(1).is_some() {
                return Err("Multiple tokens provided".into());
            }
            if let Some(token) = headers.get(name).and_then(|value| bearer(value.as_bytes())) {
                tokens.add(Cow::Borrowed(token));
            }
        }
        tokens.only()
    }

    /// The value that selects the credential: a claim, or else a member of the JOSE header.
    fn key_of<'t>(&self, token: &'t Token<'_>) -> Result<&'t str, Fault> {
        let name = &self.key_claim_name;
        let value = token.claims.get(name).or_else(|| token.header.get(name));
        let value = value.ok_or_else(|| Fault::Message(format!("No mandatory '{name}' in claims").into()))?;
        let key = value.as_str().filter(|key| !key.is_empty());
        key.ok_or_else(|| Fault::Message(format!("Invalid '{name}' in claims").into()))
    }

    fn refuse(&self, fault: Fault) -> Box<Reply> {
        let (body, challenge) = match fault {
            Fault::Missing => (json!({ "message": "Unauthorized" }), &self.missing),
            Fault::Message(message) => (json!({ "message": message }), &self.invalid),
            Fault::Claims(faults) => (Value::Object(faults), &self.invalid),
            Fault::Orphan(message) => (json!({ "message": message }), &None),
            Fault::Issued(lack) => return lack.reply(KIND.name, &self.invalid),
        };
        let reply = Reply::json(KIND.name, StatusCode::UNAUTHORIZED, body);
        Box::new(match challenge {
            Some(challenge) => reply.with(WWW_AUTHENTICATE, challenge.clone()),
            None => reply,
        })
    }
}

/// The different tokens of a request; more than two are not worth keeping.
#[derive(Default)]
struct Tokens<'a>(SmallVec<[Cow<'a, [u8]>; 2]>);

impl<'a> Tokens<'a> {
    fn add(&mut self, token: Cow<'a, [u8]>) {
        if !token.is_empty() && self.0.len() < 2 && !self.0.contains(&token) {
            self.0.push(token);
        }
    }

    fn only(mut self) -> Result<Cow<'a, [u8]>, Fault> {
        match self.0.len() {
            0 | 1 => self.0.pop().ok_or(Fault::Missing),
            _ => Err("Multiple tokens provided".into()),
        }
    }
}

/// The token of `Bearer …` or `bearer …`, as Kong spells the scheme.
pub(super) fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii_start();
    let rest = value.strip_prefix(b"Bearer").or_else(|| value.strip_prefix(b"bearer"))?;
    let token = rest.trim_ascii();
    (rest.first().is_some_and(u8::is_ascii_whitespace) && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature as sig;
    use aws_lc_rs::{digest, hmac};
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use jsonwebtoken::{Algorithm, EncodingKey, Header};

    use super::super::bench::*;
    use super::*;
    use crate::identity::{Identities, JwtAlgorithm, JwtSecret};

    /// Seconds since 1970 at which the test exchange arrives.
    const NOW: i64 = 1_700_000_000;
    const SECRET: &str = "a secret of more than thirty-two bytes";

    /// A key pair in the forms in which files and signers hold it.
    struct Pair {
        private_pem: String,
        public_pem: String,
        public_der: Vec<u8>,
    }

    fn pem(label: &str, der: &[u8]) -> String {
        let body: Vec<String> =
            STANDARD.encode(der).as_bytes().chunks(64).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", body.join("\n"))
    }

    fn pair(private: &[u8], public: &PublicKeyX509Der<'_>) -> Pair {
        let public_der = public.as_ref().to_vec();
        Pair { private_pem: pem("PRIVATE KEY", private), public_pem: pem("PUBLIC KEY", &public_der), public_der }
    }

    fn ec(algorithm: &'static sig::EcdsaSigningAlgorithm) -> Pair {
        let key = sig::EcdsaKeyPair::generate(algorithm).expect("generates");
        pair(key.to_pkcs8v1().expect("encodes").as_ref(), &sig::KeyPair::public_key(&key).as_der().expect("encodes"))
    }

    fn rsa(size: KeySize) -> Pair {
        let key = sig::RsaKeyPair::generate(size).expect("generates");
        let private: Pkcs8V1Der<'_> = key.as_der().expect("encodes");
        pair(private.as_ref(), &sig::KeyPair::public_key(&key).as_der().expect("encodes"))
    }

    struct Keys {
        rsa: Pair,
        p256: Pair,
        p384: Pair,
        p521: Pair,
        ed: Pair,
    }

    static KEYS: LazyLock<Keys> = LazyLock::new(|| {
        let ed = sig::Ed25519KeyPair::generate().expect("generates");
        let ed_private = ed.to_pkcs8v1().expect("encodes");
        Keys {
            rsa: rsa(KeySize::Rsa2048),
            p256: ec(&sig::ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ec(&sig::ECDSA_P384_SHA384_FIXED_SIGNING),
            p521: ec(&sig::ECDSA_P521_SHA512_FIXED_SIGNING),
            ed: pair(ed_private.as_ref(), &sig::KeyPair::public_key(&ed).as_der().expect("encodes")),
        }
    });

    fn public_key(algorithm: JwtAlgorithm) -> Option<&'static Pair> {
        match algorithm {
            JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512 => None,
            JwtAlgorithm::ES256 => Some(&KEYS.p256),
            JwtAlgorithm::ES384 => Some(&KEYS.p384),
            JwtAlgorithm::ES512 => Some(&KEYS.p521),
            JwtAlgorithm::EdDSA => Some(&KEYS.ed),
            _ => Some(&KEYS.rsa),
        }
    }

    fn credential(key: &str, algorithm: JwtAlgorithm, secret: &str) -> JwtSecret {
        JwtSecret {
            id: format!("credential-{key}"),
            consumer: 0,
            key: key.to_owned(),
            algorithm,
            secret: Some(secret.to_owned()),
            public_key: public_key(algorithm).map(|pair| pair.public_pem.clone()),
        }
    }

    /// One credential of every algorithm, each with the algorithm's name as its key.
    fn everyone() -> Arc<Identities> {
        let mut all: Vec<JwtSecret> =
            JwtAlgorithm::NAMES.iter().map(|(name, algorithm)| credential(name, *algorithm, SECRET)).collect();
        all.push(JwtSecret { consumer: 99, ..credential("orphan", JwtAlgorithm::HS256, SECRET) });
        all.push(credential("broken", JwtAlgorithm::HS256, ""));
        identities(all)
    }

    fn b64(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Header and claims in their two parts, without a signature.
    fn unsigned(header: &str, claims: &str) -> String {
        format!("{}.{}", b64(header), b64(claims))
    }

    fn hs256(secret: &[u8], parts: &str) -> String {
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), parts.as_bytes());
        format!("{parts}.{}", b64(mac))
    }

    /// A token that is good but for what the caller puts into header or claims.
    fn hs(header: &str, claims: &str) -> String {
        hs256(SECRET.as_bytes(), &unsigned(header, claims))
    }

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn claims(key: &str) -> String {
        format!(r#"{{"iss":"{key}","nbf":{NOW},"exp":{}}}"#, NOW + 60)
    }

    /// A good token, signed by another implementation of JOSE; ES512, which that lacks, by hand.
    fn signed(algorithm: JwtAlgorithm) -> String {
        let name = algorithm.name();
        let claims = claims(name);
        let private = public_key(algorithm).map_or("", |pair| &pair.private_pem).as_bytes();
        if algorithm == JwtAlgorithm::ES512 {
            let parts = unsigned(r#"{"alg":"ES512"}"#, &claims);
            let der =
                STANDARD.decode(KEYS.p521.private_pem.lines().filter(|l| !l.starts_with('-')).collect::<String>());
            let key = sig::EcdsaKeyPair::from_pkcs8(&sig::ECDSA_P521_SHA512_FIXED_SIGNING, &der.expect("base64"));
            let signature = key.expect("parses").sign(&SystemRandom::new(), parts.as_bytes()).expect("signs");
            return format!("{parts}.{}", b64(signature));
        }
        let key = match name.get(..2) {
            Some("HS") => Ok(EncodingKey::from_secret(SECRET.as_bytes())),
            Some("ES") => EncodingKey::from_ec_pem(private),
            Some("Ed") => EncodingKey::from_ed_pem(private),
            _ => EncodingKey::from_rsa_pem(private),
        };
        let header = Header::new(name.parse::<Algorithm>().expect("known"));
        let claims: Value = serde_json::from_str(&claims).expect("JSON");
        jsonwebtoken::encode(&header, &claims, &key.expect("parses")).expect("signs")
    }

    fn with_token(token: &str) -> Exchange {
        Exchange::for_test("GET", "/", &[("authorization", &format!("Bearer {token}"))])
    }

    #[test]
    fn every_algorithm_verifies_and_only_for_its_own_credential() {
        let plugin = plugin("jwt", "claims_to_verify: [exp, nbf]", &everyone());
        for (name, algorithm) in JwtAlgorithm::NAMES {
            let token = signed(*algorithm);
            let mut exchange = with_token(&token);
            assert_eq!(answer(&plugin, &mut exchange), "continue", "{name}");
            assert_eq!(upstream(&exchange, "x-consumer-username"), Some("alice"));
            assert_eq!(upstream(&exchange, "x-credential-identifier"), Some(*name));
            assert_eq!(exchange.credential().map(|c| c.to_string()), Some(format!("credential-{name}")));
            let parts: Vec<&str> = token.split('.').collect();
            for (other, _) in JwtAlgorithm::NAMES.iter().filter(|(other, _)| other != name) {
                let stolen = format!("{}.{}.{}", parts[0], b64(claims(other)), parts[2]);
                assert_eq!(verdict(&plugin, &stolen), invalid("Invalid algorithm"), "{name} as {other}");
            }
            let mut signature = URL_SAFE_NO_PAD.decode(parts[2]).expect("base64url");
            for change in [0, signature.len() / 2, signature.len() - 1] {
                signature[change] ^= 1;
                let changed = format!("{}.{}.{}", parts[0], parts[1], b64(&signature));
                assert_eq!(verdict(&plugin, &changed), invalid("Invalid signature"), "{name} {change}");
                signature[change] ^= 1;
            }
            for length in [1, signature.len() - 1, signature.len() + 1] {
                signature.resize(length, 0);
                let changed = format!("{}.{}.{}", parts[0], parts[1], b64(&signature));
                assert_eq!(verdict(&plugin, &changed), invalid("Invalid signature"), "{name} {length}");
            }
            let changed = format!("{}.{}.{}", parts[0], b64(format!(r#"{{"iss":"{name}","exp":9e9}}"#)), parts[2]);
            assert_eq!(verdict(&plugin, &changed), invalid("Invalid signature"), "{name} claims");
        }
    }

    fn verdict(plugin: &Arc<dyn Plugin>, token: &str) -> String {
        answer(plugin, &mut with_token(token))
    }

    fn invalid(message: &str) -> String {
        format!(r#"401 {message} [Bearer error="invalid_token"]"#)
    }

    fn bad(words: &str) -> String {
        invalid(&format!("Bad token; {words}"))
    }

    #[track_caller]
    fn refused(vectors: &[(&str, String, String)]) {
        let plugin = plugin("jwt", "{claims_to_verify: [exp, nbf], maximum_expiration: 3600}", &everyone());
        for (name, token, expected) in vectors {
            assert_eq!(verdict(&plugin, token), *expected, "{name}");
        }
    }

    #[test]
    fn tokens_of_the_wrong_form_are_refused() {
        let good = hs(HEADER, &claims("HS256"));
        let parts: Vec<&str> = good.split('.').collect();
        let [header, body, signature] = parts[..] else { panic!("three parts") };
        let json = || bad("invalid JSON");
        // Claims whose length leaves bits over in their last base64 digit.
        let loose = claims("HS256") + " ";
        let loose = if loose.len().is_multiple_of(3) { loose + " " } else { loose };
        let tail = |part: &str| {
            let last = part.as_bytes()[part.len() - 1];
            let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let at = digits.iter().position(|d| *d == last).expect("digit");
            format!("{}{}", &part[..part.len() - 1], char::from(digits[at + 1]))
        };
        let deep = |n: usize| format!(r#"{{"iss":"HS256","a":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        refused(&[
            ("a word", "token".into(), json()),
            ("two parts", format!("{header}.{body}"), json()),
            ("four parts", format!("{good}.{signature}"), json()),
            ("five parts", "a.b.c.d.e".into(), json()),
            ("dots", "..".into(), json()),
            ("leading dot", format!(".{good}"), json()),
            ("trailing dot", format!("{good}."), json()),
            ("no header", format!(".{body}.{signature}"), json()),
            ("no claims", format!("{header}..{signature}"), json()),
            ("no signature", format!("{header}.{body}."), bad("invalid signature")),
            ("padded header", format!("{header}=.{body}.{signature}"), json()),
            ("padded signature", format!("{good}="), bad("invalid signature")),
            ("tail bits of the claims", hs256(SECRET.as_bytes(), &format!("{header}.{}", tail(&b64(&loose)))), json()),
            ("tail bits of the signature", format!("{header}.{body}.{}", tail(signature)), bad("invalid signature")),
            ("plus and slash", format!("{header}.{body}.+/{}", &signature[2..]), bad("invalid signature")),
            ("space within", format!("{header}.{body}. {signature}"), bad("invalid signature")),
            ("tab within", format!("{header}\t.{body}.{signature}"), json()),
            ("comma list", format!("{good}, Bearer {good}"), json()),
            ("not a digit", format!("{header}.{body}.{}!", &signature[1..]), bad("invalid signature")),
            ("byte order mark", hs(&format!("\u{feff}{HEADER}"), &claims("HS256")), json()),
            ("text after the header", hs(&format!("{HEADER}x"), &claims("HS256")), json()),
            ("two objects", hs(HEADER, &format!("{0}{0}", claims("HS256"))), json()),
            ("cut JSON", hs(HEADER, r#"{"iss":"HS256""#), json()),
            ("single quotes", hs(HEADER, "{'iss':'HS256'}"), json()),
            ("comment", hs(HEADER, r#"{"iss":"HS256"/**/}"#), json()),
            ("trailing comma", hs(HEADER, r#"{"iss":"HS256",}"#), json()),
            ("lone surrogate", hs(HEADER, r#"{"iss":"\ud800"}"#), json()),
            ("raw control character", hs(HEADER, "{\"iss\":\"a\nb\"}"), json()),
            ("not UTF-8", hs256(SECRET.as_bytes(), &format!("{header}.{}", b64(b"{\"iss\":\"\xff\"}"))), json()),
            ("header list", hs("[]", &claims("HS256")), bad("invalid header")),
            ("header text", hs("\"HS256\"", &claims("HS256")), bad("invalid header")),
            ("claims list", hs(HEADER, "[]"), bad("invalid claims")),
            ("claims text", hs(HEADER, "\"HS256\""), bad("invalid claims")),
            ("claims null", hs(HEADER, "null"), bad("invalid claims")),
            ("claims number", hs(HEADER, "7"), bad("invalid claims")),
            ("deep claims", hs(HEADER, &deep(17)), json()),
            ("very deep claims", hs(HEADER, &deep(2900)), json()),
            ("long", hs(HEADER, &format!(r#"{{"iss":"HS256","a":"{}"}}"#, "x".repeat(8000))), bad("too long")),
            ("alg twice", hs(r#"{"alg":"none","alg":"HS256"}"#, &claims("HS256")), json()),
            ("alg twice, escaped", hs(r#"{"alg":"none","\u0061lg":"HS256"}"#, &claims("HS256")), json()),
            ("iss twice", hs(HEADER, r#"{"iss":"bob","iss":"HS256"}"#), json()),
            ("exp twice", hs(HEADER, r#"{"iss":"HS256","exp":1,"exp":9999999999}"#), json()),
            ("nested twice", hs(HEADER, r#"{"iss":"HS256","a":[{"b":1,"b":2}]}"#), json()),
        ]);
    }

    #[test]
    fn headers_that_change_the_rules_are_refused() {
        let header = |alg: &str| hs(&format!(r#"{{"alg":{alg}}}"#), &claims("HS256"));
        let extended = |member: &str| hs(&format!(r#"{{"alg":"HS256",{member}}}"#), &claims("HS256"));
        let mut vectors = Vec::new();
        for alg in [
            "\"none\"",
            "\"None\"",
            "\"NONE\"",
            "\"nOnE\"",
            "\"\"",
            "null",
            "256",
            "[\"HS256\"]",
            "{}",
            "true",
            "\"hs256\"",
            "\"HS256 \"",
            "\"HS257\"",
            "\"HS256\\u0000\"",
            "\"RSA-OAEP\"",
            "\"dir\"",
            "\"ES256K\"",
            "\"Ed25519\"",
        ] {
            vectors.push((alg, header(alg), bad("invalid alg")));
        }
        let none = unsigned(r#"{"alg":"none"}"#, &claims("HS256"));
        vectors.push(("none, unsigned", format!("{none}."), bad("invalid alg")));
        vectors.push(("no alg", hs(r#"{"typ":"JWT"}"#, &claims("HS256")), bad("invalid alg")));
        for (member, words) in [
            (r#""crit":["http://example.test/ext"],"http://example.test/ext":true"#, "unsupported crit"),
            (r#""crit":["b64"],"b64":false"#, "unsupported crit"),
            (r#""b64":false"#, "unsupported b64"),
            (r#""jwk":{"kty":"oct","k":"AA"}"#, "unsupported jwk"),
            (r#""jku":"http://127.0.0.1/jwks""#, "unsupported jku"),
            (r#""x5u":"http://127.0.0.1/cert""#, "unsupported x5u"),
            (r#""x5c":["MIIB"]"#, "unsupported x5c"),
            (r#""zip":"DEF""#, "unsupported zip"),
            (r#""kid":{"$ne":1}"#, "invalid header"),
        ] {
            vectors.push((member, extended(member), bad(words)));
        }
        refused(&vectors);
    }

    #[test]
    fn keys_and_signatures_of_others_are_refused() {
        let rs = unsigned(r#"{"alg":"HS256"}"#, &claims("RS256"));
        let es = unsigned(r#"{"alg":"ES256"}"#, &claims("ES256"));
        let hs_parts = unsigned(HEADER, &claims("HS256"));
        let other = unsigned(r#"{"alg":"HS512"}"#, &claims("HS256"));
        let public_der = &KEYS.rsa.public_der;
        let named = |key: &str| hs(HEADER, &format!(r#"{{"iss":{key}}}"#));
        let unknown = || invalid("No credentials found for given 'iss'");
        refused(&[
            ("HS256 with the PEM", hs256(KEYS.rsa.public_pem.as_bytes(), &rs), invalid("Invalid algorithm")),
            (
                "HS256 with the trimmed PEM",
                hs256(KEYS.rsa.public_pem.trim().as_bytes(), &rs),
                invalid("Invalid algorithm"),
            ),
            ("HS256 with the DER", hs256(public_der, &rs), invalid("Invalid algorithm")),
            ("HS256 with the modulus", hs256(&public_der[33..289], &rs), invalid("Invalid algorithm")),
            ("HS256 signature named HS512", hs256(SECRET.as_bytes(), &other), invalid("Invalid algorithm")),
            ("another secret", hs256(b"another secret", &hs_parts), invalid("Invalid signature")),
            ("an empty secret", hs256(b"", &hs_parts), invalid("Invalid signature")),
            ("the secret cut", hs256(&SECRET.as_bytes()[1..], &hs_parts), invalid("Invalid signature")),
            ("a zero secret", hs256(&[0; 32], &hs_parts), invalid("Invalid signature")),
            (
                "a plain hash",
                format!("{hs_parts}.{}", b64(digest::digest(&digest::SHA256, hs_parts.as_bytes()))),
                invalid("Invalid signature"),
            ),
            ("zero ECDSA", format!("{es}.{}", b64([0; 64])), invalid("Invalid signature")),
            ("DER zero ECDSA", format!("{es}.{}", b64([48, 6, 2, 1, 0, 2, 1, 0])), invalid("Invalid signature")),
            ("ECDSA of ones", format!("{es}.{}", b64([255; 64])), invalid("Invalid signature")),
            (
                "zero EdDSA",
                format!("{}.{}", unsigned(r#"{"alg":"EdDSA"}"#, &claims("EdDSA")), b64([0; 64])),
                invalid("Invalid signature"),
            ),
            (
                "zero RSA",
                format!("{}.{}", unsigned(r#"{"alg":"RS256"}"#, &claims("RS256")), b64([0; 256])),
                invalid("Invalid signature"),
            ),
            ("no issuer", hs(HEADER, r#"{"sub":"HS256"}"#), invalid("No mandatory 'iss' in claims")),
            ("an empty issuer", named(r#""""#), invalid("Invalid 'iss' in claims")),
            ("a number as issuer", named("7"), invalid("Invalid 'iss' in claims")),
            ("a list as issuer", named(r#"["HS256"]"#), invalid("Invalid 'iss' in claims")),
            ("an object as issuer", named(r#"{"HS256":1}"#), invalid("Invalid 'iss' in claims")),
            ("null as issuer", named("null"), invalid("Invalid 'iss' in claims")),
            ("false as issuer", named("false"), invalid("Invalid 'iss' in claims")),
            ("an unknown issuer", named(r#""nobody""#), unknown()),
            ("another case", named(r#""hs256""#), unknown()),
            ("a NUL", named(r#""HS256\u0000""#), unknown()),
            ("a path", named(r#""../../dev/null""#), unknown()),
            ("SQL", named(r#""' OR 1=1 --""#), unknown()),
            (
                "a credential without a key",
                hs256(b"", &unsigned(HEADER, &claims("broken"))),
                invalid("Invalid key/secret"),
            ),
            (
                "a consumer that is gone",
                hs(HEADER, &claims("orphan")),
                "401 Could not find consumer for 'iss=orphan'".into(),
            ),
        ]);
    }

    #[test]
    fn claims_that_do_not_hold_are_refused() {
        let with = |claims: &str| hs(HEADER, &format!(r#"{{"iss":"HS256"{claims}}}"#));
        let both = |exp: i64, nbf: i64| with(&format!(r#","exp":{exp},"nbf":{nbf}"#));
        let fault = |exp: &str| invalid(&format!(r#"{{"exp":"{exp}"}}"#));
        let (number, expired) = ("must be a number", "token expired");
        let exp = |value: &str| with(&format!(r#","nbf":1,"exp":{value}"#));
        refused(&[
            ("none", with(""), invalid(r#"{"exp":"must be a number","nbf":"must be a number"}"#)),
            ("no exp", with(r#","nbf":1"#), fault(number)),
            ("exp text", exp("\"9999999999\""), fault(number)),
            ("exp true", exp("true"), fault(number)),
            ("exp null", exp("null"), fault(number)),
            ("exp list", exp("[9999999999]"), fault(number)),
            ("exp object", exp("{}"), fault(number)),
            ("exp empty text", exp("\"\""), fault(number)),
            ("exp NaN", exp("NaN"), bad("invalid JSON")),
            ("exp Infinity", exp("Infinity"), bad("invalid JSON")),
            ("exp beyond numbers", exp("1e999"), bad("invalid JSON")),
            ("exp in hexadecimal", exp("0xffffffff"), bad("invalid JSON")),
            ("exp with a leading zero", exp("09999999999"), bad("invalid JSON")),
            ("exp negative", exp("-1"), fault(expired)),
            ("exp tiny", exp("1e-300"), fault(expired)),
            ("exp 0", exp("0"), fault(expired)),
            ("exp now", both(NOW, 1), fault(expired)),
            ("exp past", both(NOW - 1, 1), fault(expired)),
            ("exp far", both(NOW + 3601, 1), fault("exceeds maximum allowed expiration")),
            ("exp very far", exp("1e300"), fault("exceeds maximum allowed expiration")),
            ("exp of 20 digits", exp("99999999999999999999"), fault("exceeds maximum allowed expiration")),
            ("nbf to come", both(NOW + 60, NOW + 1), invalid(r#"{"nbf":"token not valid yet"}"#)),
            ("nbf text", with(&format!(r#","exp":{},"nbf":"1""#, NOW + 60)), invalid(r#"{"nbf":"must be a number"}"#)),
            ("both", both(NOW, NOW + 1), invalid(r#"{"exp":"token expired","nbf":"token not valid yet"}"#)),
        ]);
    }

    #[test]
    fn unasked_claims_are_looked_at_for_their_form_alone() {
        let plugin = plugin("jwt", "{}", &everyone());
        let with = |claims: &str| verdict(&plugin, &hs(HEADER, &format!(r#"{{"iss":"HS256"{claims}}}"#)));
        assert_eq!(with(""), "continue");
        assert_eq!(with(r#","exp":1,"nbf":9999999999"#), "continue");
        assert_eq!(with(r#","exp":1.5"#), "continue");
        assert_eq!(with(r#","exp":"1""#), invalid(r#"{"exp":"must be a number"}"#));
        assert_eq!(with(r#","exp":-1"#), invalid(r#"{"exp":"token expired"}"#));
        assert_eq!(with(r#","nbf":[]"#), invalid(r#"{"nbf":"must be a number"}"#));
    }

    #[test]
    fn tokens_are_found_in_all_places() {
        let people = everyone();
        let plugin = plugin("jwt", "{cookie_names: [silly], header_names: [authorization, x-token]}", &people);
        let (token, second) = (hs(HEADER, &claims("HS256")), hs(r#"{"alg":"HS256"}"#, &claims("HS256")));
        let ask =
            |target: &str, headers: &[(&str, &str)]| answer(&plugin, &mut Exchange::for_test("GET", target, headers));
        let (bearer, other) = (format!("Bearer {token}"), format!("Bearer {second}"));
        let query = format!("/?jwt={token}");
        let missing = "401 Unauthorized [Bearer]";
        assert_eq!(ask(&query, &[]), "continue");
        assert_eq!(ask("/", &[("authorization", &format!("bearer   {token}"))]), "continue");
        assert_eq!(ask("/", &[("x-token", &bearer)]), "continue");
        assert_eq!(ask("/", &[("x-token", &bearer), ("x-token", "Bearer other")]), "continue");
        assert_eq!(ask("/", &[("cookie", &format!("a=b; silly={token}; path=/"))]), "continue");
        assert_eq!(ask(&query, &[("authorization", &bearer), ("cookie", &format!("silly={token}"))]), "continue");
        let several = invalid("Multiple tokens provided");
        assert_eq!(ask(&query, &[("authorization", &other)]), several);
        assert_eq!(ask(&format!("{query}&jwt={second}"), &[]), several);
        assert_eq!(ask("/", &[("authorization", &bearer), ("authorization", &other)]), several);
        assert_eq!(ask("/", &[("authorization", &bearer), ("authorization", "Basic YTpi")]), several);
        for value in
            ["", "Bearer", "Bearer ", "Basic YTpi", &token, &format!("Bearer{token}"), &format!("xBearer {token}")]
        {
            assert_eq!(ask("/", &[("authorization", value)]), missing, "{value}");
        }
        assert_eq!(ask("/?jwt=&token=x", &[("cookie", "silly=; other=x")]), missing);
    }

    #[test]
    fn values_beyond_utf8_do_no_harm() {
        let plugin = plugin("jwt", "cookie_names: [c]", &everyone());
        for (name, value) in [("authorization", &b"Bearer \xff.\xfe.\xfd"[..]), ("cookie", b"c=\xff\xfe")] {
            let mut exchange = Exchange::for_test("GET", "/?jwt=", &[]);
            let name = HeaderName::from_bytes(name.as_bytes()).expect("name");
            exchange.request.headers.insert(name, HeaderValue::from_bytes(value).expect("header"));
            assert_eq!(answer(&plugin, &mut exchange), bad("invalid JSON"));
        }
    }

    #[test]
    fn the_log_never_sees_a_token() {
        let plugin = plugin("jwt", "uri_param_names: [token]", &everyone());
        let mut exchange = Exchange::for_test("GET", "/p?token=abc&x=1", &[]);
        answer(&plugin, &mut exchange);
        assert_eq!(exchange.raw_uri, "/p?token=REDACTED&x=1");
        assert_eq!(exchange.query.as_deref(), Some("token=abc&x=1"));
    }

    #[test]
    fn the_key_may_stand_in_another_claim_or_in_the_header() {
        let people = everyone();
        let kid = plugin("jwt", "{key_claim_name: kid, realm: house}", &people);
        assert_eq!(verdict(&kid, &hs(r#"{"alg":"HS256","kid":"HS256"}"#, "{}")), "continue");
        assert_eq!(verdict(&kid, &hs(r#"{"alg":"HS256","kid":"no"}"#, r#"{"kid":"HS256"}"#)), "continue");
        let refusal = r#"401 No mandatory 'kid' in claims [Bearer realm="house", error="invalid_token"]"#;
        assert_eq!(verdict(&kid, &hs(HEADER, r#"{"iss":"HS256"}"#)), refusal);
        let missing = answer(&kid, &mut Exchange::for_test("GET", "/", &[]));
        assert_eq!(missing, r#"401 Unauthorized [Bearer realm="house"]"#);
    }

    #[test]
    fn secrets_can_be_base64() {
        let bytes = [251_u8, 255, 190, 1, 2, 3, 4];
        let people = identities(vec![
            credential("std", JwtAlgorithm::HS256, &STANDARD.encode(bytes)),
            credential("url", JwtAlgorithm::HS256, &b64(bytes)),
            credential("no", JwtAlgorithm::HS256, "not base64!"),
            credential("RS256", JwtAlgorithm::RS256, ""),
        ]);
        let decoded = plugin("jwt", "secret_is_base64: true", &people);
        for key in ["std", "url"] {
            assert_eq!(verdict(&decoded, &hs256(&bytes, &unsigned(HEADER, &claims(key)))), "continue");
        }
        let text = hs256(b64(bytes).as_bytes(), &unsigned(HEADER, &claims("url")));
        assert_eq!(verdict(&decoded, &text), invalid("Invalid signature"));
        assert_eq!(verdict(&plugin("jwt", "{}", &people), &text), "continue");
        let no = hs256(b"not base64!", &unsigned(HEADER, &claims("no")));
        assert_eq!(verdict(&decoded, &no), invalid("Invalid key/secret"));
        assert_eq!(verdict(&decoded, &signed(JwtAlgorithm::RS256)), "continue");
    }

    #[test]
    fn keys_are_checked_before_they_are_used() {
        let try_pem = |algorithm, text: &str| {
            let secret = JwtSecret { public_key: Some(text.to_owned()), ..credential("k", algorithm, "") };
            verifier(&secret).map(drop)
        };
        let pem_of = |pair: &Pair| pair.public_pem.clone();
        assert_eq!(try_pem(JwtAlgorithm::RS256, &format!("\n  {}  \n", pem_of(&KEYS.rsa))), Ok(()));
        let pkcs1 = pem("RSA PUBLIC KEY", &KEYS.rsa.public_der[24..]);
        assert_eq!(try_pem(JwtAlgorithm::PS512, &pkcs1), Ok(()));
        let cut = pem("PUBLIC KEY", &KEYS.rsa.public_der[..200]);
        for (algorithm, text, words) in [
            (JwtAlgorithm::RS256, String::new(), "the key is not PEM"),
            (JwtAlgorithm::RS256, "MIIB".to_owned(), "the key is not PEM"),
            (JwtAlgorithm::RS256, pem_of(&KEYS.rsa).replace("END PUBLIC", "END RSA PUBLIC"), "the key is not PEM"),
            (JwtAlgorithm::RS256, pem_of(&KEYS.rsa).replace('M', "*"), "the PEM's content is not base64"),
            (JwtAlgorithm::RS256, cut, "RS256 needs an RSA key"),
            (JwtAlgorithm::RS256, pem_of(&KEYS.p256), "RS256 needs an RSA key"),
            (JwtAlgorithm::PS384, pem_of(&KEYS.ed), "PS384 needs an RSA key"),
            (JwtAlgorithm::ES256, pem_of(&KEYS.p384), "ES256 needs a P-256 key"),
            (JwtAlgorithm::ES384, pem_of(&KEYS.p521), "ES384 needs a P-384 key"),
            (JwtAlgorithm::ES512, pem_of(&KEYS.p256), "ES512 needs a P-521 key"),
            (JwtAlgorithm::ES256, pem_of(&KEYS.rsa), "ES256 needs a P-256 key"),
            (JwtAlgorithm::EdDSA, pem_of(&KEYS.p256), "EdDSA needs an Ed25519 key"),
            (JwtAlgorithm::RS256, KEYS.rsa.private_pem.clone(), "the PEM holds a private key"),
            (JwtAlgorithm::RS256, pem("CERTIFICATE", &KEYS.rsa.public_der), "the PEM is not a public key"),
        ] {
            let error = try_pem(algorithm, &text).expect_err("refused");
            assert!(error.contains(words), "{error} has no {words}");
        }
        let short = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDBU3ySRMahsVPbZZZZbBzwWmRA\n-----END PUBLIC KEY-----";
        assert!(try_pem(JwtAlgorithm::RS256, short).is_err());
        let without = |algorithm| verifier(&JwtSecret { public_key: None, ..credential("k", algorithm, "") }).map(drop);
        assert_eq!(without(JwtAlgorithm::HS256), Err("HS256 needs a `secret`".to_owned()));
        assert_eq!(without(JwtAlgorithm::ES512), Err("ES512 needs an `rsa_public_key`".to_owned()));
    }

    #[test]
    fn wrong_configuration_has_a_place() {
        assert!(problems("jwt", "claims_to_verify: [exp, nbff]").contains("did you mean `nbf`?"));
        assert!(
            problems("jwt", "maximum_expiration: 60").contains("k.yml:1:1: error: `maximum_expiration` without `exp`")
        );
        assert!(problems("jwt", "maximum_expiration: -1").contains("an integer from 0 to 31536000"));
        assert!(problems("jwt", "header_names: ['a b']").contains("k.yml:1:16: error: `a b` is not a header name"));
        assert!(problems("jwt", "cookie_names: silly").contains("expected: a list"));
        assert!(problems("jwt", "secret_is_base64: 1").contains("expected: true or false"));
    }
}
