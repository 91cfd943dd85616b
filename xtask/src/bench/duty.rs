//! What a proxy has to do in a scenario besides forwarding one prefix, and the keys that this takes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// The work beside forwarding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    None,
    /// A limit of requests for each address that is counted and never reached.
    LimitNeverHit,
    /// One that refuses all but the first request.
    LimitAlwaysHit,
    /// The same RS256 token verified each time.
    Jwt,
    /// jwt, acl, rate-limiting, request-transformer, the access log as JSON and metrics.
    Everything,
}

/// How a proxy is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    pub tls: bool,
    pub http2: bool,
    pub policy: Policy,
    /// Routes, the one in use being the last.
    pub routes: u32,
    pub workers: u32,
}

impl Duty {
    /// HTTP/1.1 in the clear and nothing else.
    pub const PLAIN: Self = Self { tls: false, http2: false, policy: Policy::None, routes: 1, workers: 1 };

    pub const fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    pub const fn http2(self) -> Self {
        Self { http2: true, ..self }
    }

    pub const fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    pub const fn routes(self, routes: u32) -> Self {
        Self { routes, ..self }
    }

    pub const fn workers(self, workers: u32) -> Self {
        Self { workers, ..self }
    }
}

/// Made anew for each run by the `openssl` command.
pub struct Keys {
    /// A certificate for P-256 and its key; `pair` holds both.
    pub certificate: PathBuf,
    pub certificate_key: PathBuf,
    pub pair: PathBuf,
    /// The public key of `token`, as PEM and as its modulus in base64url.
    pub public: PathBuf,
    pub modulus: String,
    /// An RS256 token of issuer `bench` that is valid for a year.
    pub token: String,
}

impl Keys {
    /// Makes them in `folder`.
    ///
    /// # Errors
    /// `openssl` is missing or failed.
    pub fn make(folder: &Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let (certificate, certificate_key, pair) = (at("certificate.pem"), at("certificate.key"), at("pair.pem"));
        openssl(
            folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=bench \
             -addext subjectAltName=IP:127.0.0.1 -keyout certificate.key -out certificate.pem",
        )?;
        std::fs::write(
            &pair,
            std::fs::read(&certificate)?.into_iter().chain(std::fs::read(&certificate_key)?).collect::<Vec<u8>>(),
        )?;
        openssl(folder, "genrsa -out token.key 2048")?;
        openssl(folder, "rsa -in token.key -pubout -out token.pub")?;
        let modulus = openssl(folder, "rsa -in token.key -noout -modulus")?;
        let modulus = modulus.trim().rsplit('=').next().unwrap_or_default();
        let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 31_536_000;
        let head = base64url(br#"{"alg":"RS256","typ":"JWT","kid":"bench"}"#);
        let claims = base64url(format!(r#"{{"iss":"bench","sub":"bench","exp":{expires}}}"#).as_bytes());
        std::fs::write(at("signed"), format!("{head}.{claims}"))?;
        openssl(folder, "dgst -sha256 -sign token.key -out signature signed")?;
        let token = format!("{head}.{claims}.{}", base64url(&std::fs::read(at("signature"))?));
        Ok(Self {
            certificate,
            certificate_key,
            pair,
            public: at("token.pub"),
            modulus: base64url(&bytes_of(modulus)),
            token,
        })
    }
}

/// An HS256 token of issuer `issuer`, valid until 2100, signed with `secret`, which has no space in it.
///
/// # Errors
/// `openssl` is missing or failed.
pub fn hs256(folder: &Path, issuer: &str, secret: &str) -> Result<String> {
    let head = base64url(br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = base64url(format!(r#"{{"iss":"{issuer}","exp":4102444800}}"#).as_bytes());
    std::fs::write(folder.join("signed"), format!("{head}.{claims}"))?;
    openssl(folder, &format!("dgst -sha256 -hmac {secret} -binary -out signature signed"))?;
    Ok(format!("{head}.{claims}.{}", base64url(&std::fs::read(folder.join("signature"))?)))
}

fn openssl(folder: &Path, arguments: &str) -> Result<String> {
    let mut command = shell::program("openssl");
    command.current_dir(folder).args(arguments.split_whitespace());
    shell::output(&mut command).with_context(|| format!("`{}` failed", shell::typed(&command)))
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hexadecimal.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}

/// RFC 4648 §5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |chunk: &[u8]| {
        let word = (0..3).fold(0_usize, |word, at| word << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        (0..=chunk.len()).map(|at| char::from(DIGITS[word >> (18 - 6 * at) & 63])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_as_the_rfc_has_it() {
        let of = |text: &str| base64url(text.as_bytes());
        assert_eq!([of(""), of("f"), of("fo"), of("foo"), of("foob")], ["", "Zg", "Zm8", "Zm9v", "Zm9vYg"]);
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
        assert_eq!(bytes_of("00A1ff"), [0, 0xa1, 0xff]);
    }
}
