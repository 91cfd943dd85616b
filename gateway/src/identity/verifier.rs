//! What checks the signature of a token: the key of one credential, parsed once when the configuration is compiled.
//! This file knows keys and algorithms; it must not know tokens, claims or requests.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::verified::RememberingKey;
use super::{JwtAlgorithm, JwtSecret};

/// A parsed key that is bound to one algorithm.
pub struct Verifier(Key);

enum Key {
    /// Bytes, and no `hmac::Key`: that takes 1.2 KB, and saves two hash blocks of a request.
    Shared {
        algorithm: hmac::Algorithm,
        text: Box<[u8]>,
        /// The secret read as base64, for plugins with `secret_is_base64`; absent when it is none.
        decoded: Option<Box<[u8]>>,
    },
    Public(RememberingKey),
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// Parses the key of a credential.
///
/// # Errors
/// What is wrong with the key, in words that hold nothing of it.
pub fn verifier(secret: &JwtSecret) -> Result<Verifier, String> {
    let name = secret.algorithm.name();
    if let Some(algorithm) = shared(secret.algorithm) {
        let text = secret.secret.as_deref().filter(|s| !s.is_empty());
        let text = text.ok_or_else(|| format!("{name} needs a `secret`"))?;
        let decoded = base64_lenient(text).filter(|d| !d.is_empty()).map(Vec::into_boxed_slice);
        return Ok(Verifier(Key::Shared { algorithm, text: text.as_bytes().into(), decoded }));
    }
    let text = secret.public_key.as_deref().ok_or_else(|| format!("{name} needs an `rsa_public_key`"))?;
    let (label, der) = pem(text)?;
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => public(secret.algorithm, &der).map(|key| Verifier(Key::Public(key))),
        l if l.ends_with("PRIVATE KEY") => Err("the PEM holds a private key; give the public key".into()),
        _ => Err("the PEM is not a public key (`BEGIN PUBLIC KEY`)".into()),
    }
}

impl Verifier {
    /// Whether the key exists in the asked reading of the secret (Kong jwt `secret_is_base64`, which concerns HS* only).
    #[must_use]
    pub fn usable(&self, secret_is_base64: bool) -> bool {
        !matches!(&self.0, Key::Shared { decoded: None, .. } if secret_is_base64)
    }

    /// Whether `signature` is this key's over `message` (RFC 7515 §5.2 step 8). Shared keys compare in constant time.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8], secret_is_base64: bool) -> bool {
        match &self.0 {
            Key::Shared { algorithm, text, decoded } => {
                let secret = if secret_is_base64 { decoded.as_deref() } else { Some(&**text) };
                secret.is_some_and(|s| hmac::verify(&hmac::Key::new(*algorithm, s), message, signature).is_ok())
            }
            Key::Public(key) => key.verify(message, signature),
        }
    }
}

fn shared(algorithm: JwtAlgorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        JwtAlgorithm::HS256 => Some(hmac::HMAC_SHA256),
        JwtAlgorithm::HS384 => Some(hmac::HMAC_SHA384),
        JwtAlgorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// A public key for `algorithm`, from SubjectPublicKeyInfo (RFC 5280) or RSAPublicKey (RFC 8017).
fn public(algorithm: JwtAlgorithm, der: &[u8]) -> Result<RememberingKey, String> {
    let name = algorithm.name();
    let (scheme, wanted): (&'static dyn VerificationAlgorithm, _) = match algorithm {
        JwtAlgorithm::ES256 => (&signature::ECDSA_P256_SHA256_FIXED, "a P-256 key"),
        JwtAlgorithm::ES384 => (&signature::ECDSA_P384_SHA384_FIXED, "a P-384 key"),
        JwtAlgorithm::ES512 => (&signature::ECDSA_P521_SHA512_FIXED, "a P-521 key"),
        JwtAlgorithm::EdDSA => (&signature::ED25519, "an Ed25519 key (Ed448 is not supported)"),
        _ => return rsa(algorithm, der).map(RememberingKey::new),
    };
    let key = ParsedPublicKey::new(scheme, der).map(RememberingKey::new);
    key.map_err(|_| format!("{name} needs {wanted}; the PEM holds something else"))
}

fn rsa(algorithm: JwtAlgorithm, der: &[u8]) -> Result<ParsedPublicKey, String> {
    let name = algorithm.name();
    let parse = |scheme: &'static RsaParameters| {
        ParsedPublicKey::new(scheme, der).map_err(|_| format!("{name} needs an RSA key; the PEM holds something else"))
    };
    let key = parse(rsa_scheme(algorithm))?;
    match modulus_bits(&key) {
        2048..=8192 => Ok(key),
        // A modulus of 256 bytes with leading zero bits is as strong; some generators make such.
        2041..=2047 if algorithm == JwtAlgorithm::RS256 => {
            parse(&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY)
        }
        2041..=2047 if algorithm == JwtAlgorithm::RS512 => {
            parse(&signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY)
        }
        _ => Err(format!("{name} needs an RSA key of 2048 to 8192 bits")),
    }
}

fn rsa_scheme(algorithm: JwtAlgorithm) -> &'static RsaParameters {
    match algorithm {
        JwtAlgorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        JwtAlgorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        JwtAlgorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        JwtAlgorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        JwtAlgorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => &signature::RSA_PKCS1_2048_8192_SHA256,
    }
}

/// Bits of an RSA modulus; 0 when it is far below what is accepted.
fn modulus_bits(key: &ParsedPublicKey) -> u32 {
    // SubjectPublicKeyInfo of RSA keys from 1,025 bits up begins with 24 bytes that are the same but for the lengths.
    const PREFIX: usize = 24;
    let spki: Option<PublicKeyX509Der<'_>> = key.as_der().ok();
    let Some(pkcs1) = spki.as_ref().and_then(|der| der.as_ref().get(PREFIX..)) else { return 0 };
    RsaParameters::public_modulus_len(pkcs1).unwrap_or(0)
}

/// The label and content of the one PEM block of `text` (RFC 7468 §2).
fn pem(text: &str) -> Result<(&str, Vec<u8>), String> {
    let broken = || "the key is not PEM (`-----BEGIN PUBLIC KEY-----` … `-----END PUBLIC KEY-----`)".to_owned();
    let (label, rest) =
        text.trim().strip_prefix("-----BEGIN ").and_then(|begun| begun.split_once("-----")).ok_or_else(broken)?;
    let (body, end) = rest.split_once("-----END ").ok_or_else(broken)?;
    if end.strip_suffix("-----") != Some(label) {
        return Err(broken());
    }
    let body: Vec<u8> = body.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body);
    der.map(|der| (label, der)).map_err(|_| "the PEM's content is not base64".to_owned())
}

/// Base64 in either alphabet, padded or not: what Kong reads when `secret_is_base64` is set.
fn base64_lenient(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    LENIENT.decode(text.replace('-', "+").replace('_', "/")).ok()
}
