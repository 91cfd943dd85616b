//! Key pairs of the signature algorithms of JSON Web Tokens (RFC 7518, RFC 8037), for tokens that tests sign and for the
//! forms in which public keys are given: PEM and JWK.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use rcgen::PublicKeyData;
use serde_json::{Value, json};

use crate::jwt::base64url;

/// A key pair and the algorithm that it signs by.
pub struct Signer {
    algorithm: &'static str,
    pair: rcgen::KeyPair,
}

impl Signer {
    /// A new key for `algorithm`.
    pub fn new(algorithm: &'static str) -> Self {
        let kind = match algorithm {
            "ES256" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "ES384" => &rcgen::PKCS_ECDSA_P384_SHA384,
            "ES512" => &rcgen::PKCS_ECDSA_P521_SHA512,
            "EdDSA" => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_RSA_SHA256,
        };
        Self { algorithm, pair: rcgen::KeyPair::generate_for(kind).expect("the kind can be made") }
    }

    /// The same key under another algorithm of its family.
    pub fn as_if(&self, algorithm: &'static str) -> Self {
        let pair = rcgen::KeyPair::try_from(self.pair.serialize_der()).expect("it is PKCS#8");
        Self { algorithm, pair }
    }

    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The public key as a JWK without `kid` (RFC 7517).
    pub fn jwk(&self) -> Value {
        let spki = self.pair.subject_public_key_info();
        let tail = |count: usize| &spki[spki.len() - count..];
        let curve = |name: &str, size: usize| {
            let point = tail(2 * size);
            json!({ "kty": "EC", "crv": name, "x": base64url(&point[..size]), "y": base64url(&point[size..]) })
        };
        match self.algorithm {
            "ES256" => curve("P-256", 32),
            "ES384" => curve("P-384", 48),
            "ES512" => curve("P-521", 66),
            "EdDSA" => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(tail(32)) }),
            // 24 bytes name RSA and the lengths, 9 the modulus; 5 are the exponent 65537.
            _ => json!({ "kty": "RSA", "n": base64url(&spki[33..289]), "e": "AQAB" }),
        }
    }

    /// The signature over `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let der = self.pair.serialize_der();
        match self.algorithm {
            "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, message),
            "ES384" => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, &der, message),
            "ES512" => ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING, &der, message),
            "EdDSA" => Ed25519KeyPair::from_pkcs8(&der).expect("the key is its own").sign(message).as_ref().to_vec(),
            "RS384" => rsa(&RSA_PKCS1_SHA384, &der, message),
            "RS512" => rsa(&RSA_PKCS1_SHA512, &der, message),
            "PS256" => rsa(&RSA_PSS_SHA256, &der, message),
            "PS384" => rsa(&RSA_PSS_SHA384, &der, message),
            "PS512" => rsa(&RSA_PSS_SHA512, &der, message),
            _ => rsa(&RSA_PKCS1_SHA256, &der, message),
        }
    }

    /// Header and claims as they are signed; `kid` is left out when it is empty.
    pub fn parts(&self, kid: &str, claims: &Value) -> String {
        let mut header = json!({ "typ": "JWT", "alg": self.algorithm });
        if !kid.is_empty() {
            header["kid"] = kid.into();
        }
        format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()))
    }

    /// A signed token.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        let parts = self.parts(kid, claims);
        let signature = self.sign(parts.as_bytes());
        format!("{parts}.{}", base64url(signature))
    }
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, der: &[u8], message: &[u8]) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(algorithm, der).expect("the key is of the curve");
    key.sign(&SystemRandom::new(), message).expect("it signs").as_ref().to_vec()
}

fn rsa(encoding: &'static dyn RsaEncoding, der: &[u8], message: &[u8]) -> Vec<u8> {
    let key = RsaKeyPair::from_pkcs8(der).expect("the key is RSA");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signature).expect("it signs");
    signature
}
