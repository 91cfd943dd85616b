//! Who may speak to the admin API: who knows the token, if there is one; else whoever is on this host, but not a web page
//! in the operator's browser. A page can name our address (DNS rebinding) or post a form to it; neither gets past the
//! Host, Origin and content-type checks.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, Method};

/// Whether a request knows the token: `Authorization: Bearer TOKEN` or `Kong-Admin-Token: TOKEN`, compared in constant
/// time.
#[must_use]
pub fn knows(token: &str, headers: &HeaderMap) -> bool {
    use subtle::ConstantTimeEq;
    let bearer = headers.get(AUTHORIZATION).and_then(|v| {
        let (scheme, rest) = v.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(rest)
    });
    let given = bearer.or_else(|| headers.get("kong-admin-token").map(http::HeaderValue::as_bytes));
    given.is_some_and(|given| given.ct_eq(token.as_bytes()).into())
}

/// Checks the head of a request without a token.
///
/// # Errors
/// Why it is refused.
pub fn check(method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err("one Host is needed") };
    let host = host.to_str().unwrap_or_default();
    if !names_an_address(host) {
        return Err("Host must be an IP address or localhost");
    }
    if *method == Method::GET || *method == Method::HEAD {
        return Ok(());
    }
    if headers.contains_key(ORIGIN) {
        return Err("requests from web pages are refused");
    }
    // The content types that a form can send without a preflight.
    let simple = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next() {
        Some(kind) if simple.contains(&kind.trim().to_ascii_lowercase().as_str()) => {
            Err("content type is refused; use application/yaml or application/json")
        }
        _ => Ok(()),
    }
}

fn names_an_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: Method, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("value"));
        }
        check(&method, &map).is_ok()
    }

    #[test]
    fn the_token_opens_in_two_headers() {
        let headers = |name: &'static str, value: &str| {
            let mut map = HeaderMap::new();
            map.append(name, value.parse().expect("value"));
            map
        };
        assert!(knows("secret", &headers("authorization", "bearer secret")));
        assert!(knows("secret", &headers("kong-admin-token", "secret")));
        for (name, value) in [("authorization", "secret"), ("authorization", "Bearer secre"), ("kong-admin-token", "")]
        {
            assert!(!knows("secret", &headers(name, value)), "{name}: {value}");
        }
        assert!(!knows("secret", &HeaderMap::new()));
    }

    #[test]
    fn pages_are_kept_out() {
        assert!(judge(Method::GET, &[("host", "127.0.0.1:8001")]));
        assert!(judge(Method::GET, &[("host", "[::1]:8001")]));
        assert!(!judge(Method::GET, &[("host", "evil.test")]));
        assert!(!judge(Method::GET, &[]));
        assert!(judge(Method::POST, &[("host", "localhost:8001"), ("content-type", "application/json")]));
        assert!(!judge(Method::POST, &[("host", "localhost"), ("content-type", "text/plain")]));
        assert!(!judge(Method::POST, &[("host", "localhost"), ("origin", "http://evil.test")]));
    }
}
