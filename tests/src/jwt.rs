//! JSON Web Tokens made for tests, good ones and bad ones.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The base64url form without padding.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of `claims` signed with `secret` by HS256, HS384 or HS512.
pub fn hmac_token(algorithm: &str, claims: &Value, secret: &[u8]) -> String {
    hmac_token_with(&json!({ "typ": "JWT", "alg": algorithm }), claims, secret)
}

/// As [`hmac_token`] with a header of one's own; its `alg` decides how it is signed.
pub fn hmac_token_with(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let digest = match header["alg"].as_str() {
        Some("HS384") => hmac::HMAC_SHA384,
        Some("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(digest, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(tag))
}

/// A token that claims to need no signature.
pub fn unsigned_token(claims: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "none" });
    format!("{}.{}.", base64url(header.to_string()), base64url(claims.to_string()))
}

/// A key pair of the NIST curve P-256 that signs ES256.
pub struct Es256(rcgen::KeyPair);

impl Es256 {
    pub fn new() -> Self {
        Self(rcgen::KeyPair::generate().expect("P-256 is the default"))
    }

    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    pub fn token(&self, claims: &Value) -> String {
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.0.serialize_der());
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        jsonwebtoken::encode(&header, claims, &key).expect("the key is of the algorithm")
    }
}

impl Default for Es256 {
    fn default() -> Self {
        Self::new()
    }
}
