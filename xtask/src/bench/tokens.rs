//! JSON Web Tokens for a measurement, signed by the `openssl` program: nothing here needs a crate for it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A token signed by HS256 with `secret`.
///
/// # Errors
/// openssl is missing or failed.
pub fn hs256(issuer: &str, secret: &str) -> Result<String> {
    signed("HS256", issuer, &["dgst", "-sha256", "-hmac", secret, "-binary"])
}

/// A token signed by RS256, and the public key that verifies it, PEM. The private key is left in `folder`.
///
/// # Errors
/// openssl is missing or failed.
pub fn rs256(issuer: &str, folder: &Path) -> Result<(String, String)> {
    let key = folder.join("rsa.pem");
    let key = key.to_str().context("the folder's name is text")?;
    openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key], b"")?;
    let public = String::from_utf8(openssl(&["pkey", "-in", key, "-pubout"], b"")?)?;
    Ok((signed("RS256", issuer, &["dgst", "-sha256", "-sign", key, "-binary"])?, public))
}

fn signed(algorithm: &str, issuer: &str, sign: &[&str]) -> Result<String> {
    let header = format!("{{\"typ\":\"JWT\",\"alg\":\"{algorithm}\"}}");
    // 2100-01-01.
    let claims = format!("{{\"iss\":\"{issuer}\",\"exp\":4102444800}}");
    let text = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let tag = openssl(sign, text.as_bytes())?;
    Ok(format!("{text}.{}", base64url(&tag)))
}

fn openssl(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("`openssl` is missing")?;
    child.stdin.take().context("its input is a pipe")?.write_all(input)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("openssl {}: {}", arguments[0], output.status);
    }
    Ok(output.stdout)
}

/// RFC 4648 §5, without padding.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            out.push(char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_without_padding() {
        let written = [&b""[..], b"f", b"fo", b"foo", b"foob", &[0xfb, 0xff]].map(base64url);
        assert_eq!(written, ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "-_8"]);
    }
}
