//! What a proxy has to do in a scenario besides forwarding one prefix, and the keys that this takes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tokens;
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
        let (token, pem) = tokens::rs256("bench", folder)?;
        let public = at("token.pub");
        std::fs::write(&public, pem)?;
        let modulus = openssl(folder, "rsa -pubin -in token.pub -noout -modulus")?;
        let modulus = tokens::base64url(&bytes_of(modulus.trim().rsplit('=').next().unwrap_or_default()));
        Ok(Self { certificate, certificate_key, pair, public, modulus, token })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read() {
        assert_eq!(bytes_of("00A1ff"), [0, 0xa1, 0xff]);
    }
}
