//! JSON Web Keys (RFC 7517) of a set that somebody publishes: the public keys that sign tokens, each under the algorithms that
//! it may verify. Symmetric keys of a published set would be secrets of everybody and are passed over.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::JwtAlgorithm::{self, *};
use super::verifier::{Verifier, public_verifier};

/// The most keys of one set that are kept.
const KEYS_MAX: usize = 128;

/// One published key.
#[derive(Debug)]
pub struct PublishedKey {
    /// Its name within the set, if it has one.
    pub kid: Option<String>,
    verifiers: Vec<(JwtAlgorithm, Verifier)>,
}

/// The keys of a set that verify signatures.
#[derive(Debug, Default)]
pub struct KeySet(Vec<PublishedKey>);

impl KeySet {
    /// Reads a JWK Set (RFC 7517 §5). Keys that are not understood or not for signatures are passed over.
    ///
    /// # Errors
    /// When it is none, or no key is left.
    pub fn read(text: &[u8]) -> Result<Self, &'static str> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "the key set is no JSON")?;
        let keys = set["keys"].as_array().ok_or("the key set has no `keys`")?;
        let keys: Vec<PublishedKey> = keys.iter().filter_map(key).take(KEYS_MAX).collect();
        if keys.is_empty() { Err("the key set has no key that verifies signatures") } else { Ok(KeySet(keys)) }
    }

    /// Whether there is a key of this name, or for a token without `kid`, any.
    #[must_use]
    pub fn has(&self, kid: Option<&str>) -> bool {
        self.named(kid).next().is_some()
    }

    /// Whether one of the keys that the token may mean has made the signature by `algorithm`; nothing when none of them is
    /// for that algorithm.
    #[must_use]
    pub fn verify(&self, kid: Option<&str>, algorithm: JwtAlgorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        let mut found = None;
        let verifiers = self.named(kid).flat_map(|key| &key.verifiers).filter(|(own, _)| *own == algorithm);
        for (_, verifier) in verifiers {
            if verifier.verify(message, signature, false) {
                return Some(true);
            }
            found = Some(false);
        }
        found
    }

    fn named(&self, kid: Option<&str>) -> impl Iterator<Item = &PublishedKey> {
        self.0.iter().filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
    }
}

fn key(jwk: &Value) -> Option<PublishedKey> {
    let text = |name: &str| jwk[name].as_str();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if let Some(operations) = jwk["key_ops"].as_array()
        && !operations.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    let (fits, der) = match (text("kty")?, text("crv")) {
        ("RSA", _) => (&[RS256, RS384, RS512, PS256, PS384, PS512][..], rsa(jwk)?),
        ("EC", Some("P-256")) => (&[ES256][..], point(jwk, P256, 32)?),
        ("EC", Some("P-384")) => (&[ES384][..], point(jwk, P384, 48)?),
        ("EC", Some("P-521")) => (&[ES512][..], point(jwk, P521, 66)?),
        ("OKP", Some("Ed25519")) => (&[EdDSA][..], [ED25519, &decoded(jwk, "x", 32)?].concat()),
        _ => return None,
    };
    // `Ed25519` is what RFC 9864 calls EdDSA with this curve.
    let named =
        |algorithm: JwtAlgorithm, name: &str| name == algorithm.name() || (algorithm == EdDSA && name == "Ed25519");
    let allowed = |algorithm: &&JwtAlgorithm| text("alg").is_none_or(|name| named(**algorithm, name));
    let verifiers: Vec<_> = fits
        .iter()
        .filter(allowed)
        .filter_map(|algorithm| Some((*algorithm, public_verifier(*algorithm, &der).ok()?)))
        .collect();
    (!verifiers.is_empty()).then(|| PublishedKey { kid: text("kid").map(str::to_owned), verifiers })
}

// SubjectPublicKeyInfo up to the key itself (RFC 5480 §2, RFC 8410 §4).
const P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
const P384: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04";
const P521: &[u8] =
    b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00\x04";
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

fn rsa(jwk: &Value) -> Option<Vec<u8>> {
    let number = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str()?).ok().filter(|n| !n.is_empty());
    let key = RsaPublicKeyComponents { n: number("n")?, e: number("e")? };
    let der: PublicKeyX509Der<'_> = key.as_der().ok()?;
    Some(der.as_ref().to_vec())
}

fn point(jwk: &Value, prefix: &[u8], width: usize) -> Option<Vec<u8>> {
    Some([prefix, &decoded(jwk, "x", width)?, &decoded(jwk, "y", width)?].concat())
}

fn decoded(jwk: &Value, name: &str, width: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(jwk[name].as_str()?).ok().filter(|bytes| bytes.len() == width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public keys of RFC 7517 appendix A.1 and RFC 8037 appendix A.2.
    const SET: &str = r#"{"keys":[
        {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"},
        {"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
         "e":"AQAB","alg":"RS256","kid":"2011-04-29"},
        {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"ed"},
        {"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75","kid":"shared"},
        {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"for encryption"},
        {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"AAAA","kid":"broken"},
        {"kty":"future","kid":"unknown"}, 7]}"#;

    #[test]
    fn keys_that_verify_are_kept_and_no_others() {
        let set = KeySet::read(SET.as_bytes()).expect("reads");
        let known: Vec<_> = set.0.iter().filter_map(|key| key.kid.as_deref()).collect();
        assert_eq!(known, ["1", "2011-04-29", "ed"]);
        let verify = |kid, algorithm| set.verify(Some(kid), algorithm, b"message", b"signature");
        assert_eq!(verify("1", ES256), Some(false));
        assert_eq!(verify("1", RS256), None, "another family");
        assert_eq!(verify("2011-04-29", RS256), Some(false));
        assert_eq!(verify("2011-04-29", PS256), None, "`alg` names one");
        assert_eq!(verify("shared", HS256), None);
        assert!(set.has(None) && !set.has(Some("shared")));
        // Keys that are passed over take nobody's place.
        let one = SET.split("},\n").next().expect("a key").replace(r#"{"keys":["#, "") + "}";
        let many = format!(r#"{{"keys":[{}{one}]}}"#, r#"{"kty":"oct","k":"AA"},"#.repeat(KEYS_MAX));
        assert!(KeySet::read(many.as_bytes()).expect("reads").has(Some("1")));
        let many = format!(r#"{{"keys":[{one}{}]}}"#, format!(",{one}").repeat(KEYS_MAX));
        assert_eq!(KeySet::read(many.as_bytes()).expect("reads").0.len(), KEYS_MAX);
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AA"}]}"#] {
            assert!(KeySet::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
