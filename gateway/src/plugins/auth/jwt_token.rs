//! A strict reading of JWS compact tokens (RFC 7515, RFC 7519): whatever two readers could understand differently is refused.
//! Nothing here knows keys, credentials or requests.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::identity::JwtAlgorithm;

/// The longest token that is looked at, bytes.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The deepest nesting of header and claims.
const DEPTH_MAX: u8 = 16;

/// A token whose form is right; nothing is said about its signature.
#[derive(Debug)]
pub struct Token<'a> {
    /// The JOSE header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
    /// The algorithm that the header names.
    pub algorithm: JwtAlgorithm,
    /// What the signature is over: the first two parts with their dot.
    pub signed: &'a [u8],
    /// The signature, decoded.
    pub signature: Vec<u8>,
}

/// Reads a token.
///
/// # Errors
/// What is wrong, in Kong's words where Kong has the case; they follow `Bad token; `.
pub fn parse(token: &[u8]) -> Result<Token<'_>, &'static str> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err("too long");
    }
    let mut parts = token.split(|b| *b == b'.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("invalid JSON");
    };
    let signed = &token[..header.len() + 1 + claims.len()];
    let Value::Object(header) = json(header).ok_or("invalid JSON")? else { return Err("invalid header") };
    let Value::Object(claims) = json(claims).ok_or("invalid JSON")? else { return Err("invalid claims") };
    let algorithm = algorithm(&header).ok_or("invalid alg")?;
    refuse_extensions(&header)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok().filter(|s| !s.is_empty()).ok_or("invalid signature")?;
    Ok(Token { header, claims, algorithm, signed, signature })
}

fn algorithm(header: &Map<String, Value>) -> Option<JwtAlgorithm> {
    let name = header.get("alg")?.as_str()?;
    JwtAlgorithm::NAMES.iter().find(|(n, _)| *n == name).map(|(_, algorithm)| *algorithm)
}

/// Refuses headers that ask for what is not done here: extensions that must be understood (RFC 7515 §4.1.11), an unencoded
/// payload (RFC 7797), a key that the token itself brings or points to (§4.1.2, 4.1.3, 4.1.5, 4.1.6), a compressed payload.
fn refuse_extensions(header: &Map<String, Value>) -> Result<(), &'static str> {
    const REFUSED: [(&str, &str); 6] = [
        ("crit", "unsupported crit"),
        ("jwk", "unsupported jwk"),
        ("jku", "unsupported jku"),
        ("x5u", "unsupported x5u"),
        ("x5c", "unsupported x5c"),
        ("zip", "unsupported zip"),
    ];
    if let Some((_, words)) = REFUSED.iter().find(|(name, _)| header.contains_key(*name)) {
        return Err(words);
    }
    if header.get("b64").is_some_and(|b| *b != Value::Bool(true)) {
        return Err("unsupported b64");
    }
    let text = |name| header.get(name).is_none_or(Value::is_string);
    if text("typ") && text("cty") && text("kid") { Ok(()) } else { Err("invalid header") }
}

/// Canonical base64url without padding (RFC 7515 §2; unused bits must be zero), then JSON.
fn json(part: &[u8]) -> Option<Value> {
    let text = URL_SAFE_NO_PAD.decode(part).ok()?;
    let mut reader = serde_json::Deserializer::from_slice(&text);
    let value = Level(DEPTH_MAX).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// Reads a value with at most this many levels of nesting below it; a member that stands twice is an error (RFC 7515 §4).
struct Level(u8);

impl Level {
    fn below<E: Error>(&self) -> Result<Level, E> {
        self.0.checked_sub(1).map(Level).ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.below()?)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.below()?)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    const GOOD: &str = r#"{"alg":"HS256"}"#;

    #[test]
    fn a_plain_token_is_read() {
        let text = token(r#"{"alg":"ES512","kid":"k","x5t":"thumb"}"#, r#"{"iss":"a","n":{"deep":[1,2.5,true,null]}}"#);
        let token = parse(text.as_bytes()).expect("reads");
        assert_eq!(token.algorithm, JwtAlgorithm::ES512);
        assert_eq!(token.claims["n"]["deep"][1], 2.5);
        assert_eq!(token.signature, b"sig");
        assert_eq!(token.signed, text.rsplit_once('.').expect("dots").0.as_bytes());
    }

    #[test]
    fn headers_that_are_not_understood_are_refused() {
        for (members, words) in [
            (r#""crit":["exp"]"#, "unsupported crit"),
            (r#""crit":[]"#, "unsupported crit"),
            (r#""b64":false"#, "unsupported b64"),
            (r#""b64":"false""#, "unsupported b64"),
            (r#""jwk":{"kty":"oct","k":"AA"}"#, "unsupported jwk"),
            (r#""jku":"http://127.0.0.1/"#, "invalid JSON"),
            (r#""jku":"http://127.0.0.1/""#, "unsupported jku"),
            (r#""x5u":"http://127.0.0.1/""#, "unsupported x5u"),
            (r#""x5c":["MII"]"#, "unsupported x5c"),
            (r#""zip":"DEF""#, "unsupported zip"),
            (r#""kid":{"a":1}"#, "invalid header"),
            (r#""kid":7"#, "invalid header"),
            (r#""typ":[]"#, "invalid header"),
            (r#""alg":"HS256""#, "invalid JSON"),
        ] {
            let text = token(&format!(r#"{{"alg":"HS256",{members}}}"#), "{}");
            assert_eq!(parse(text.as_bytes()).err(), Some(words), "{members}");
        }
    }

    #[test]
    fn limits_hold() {
        let nested = |n: usize| token(GOOD, &format!(r#"{{"a":{}{}}}"#, "[".repeat(n), "]".repeat(n)));
        assert!(parse(nested(15).as_bytes()).is_ok());
        assert_eq!(parse(nested(16).as_bytes()).err(), Some("invalid JSON"));
        assert_eq!(parse(nested(2000).as_bytes()).err(), Some("invalid JSON"));
        assert_eq!(parse(&[b'a'; TOKEN_BYTES_MAX + 1]).err(), Some("too long"));
    }
}
