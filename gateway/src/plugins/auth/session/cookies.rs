//! Cookies as text (RFC 6265): finding some in a request, taking them out, and telling a client to keep or forget one.

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

/// Where a cookie is valid, and who may see it.
pub struct Attributes {
    /// `Path`.
    pub path: String,
    /// `Domain`; the host alone without.
    pub domain: Option<String>,
    /// `SameSite`; the browser's own default without.
    pub same_site: Option<&'static str>,
    /// `Secure`.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
}

impl Attributes {
    /// A cookie that is kept for so many seconds, or until the browser is closed. Marked as a secret.
    pub fn set(&self, name: &str, value: &str, max_age_s: Option<u64>) -> Option<HeaderValue> {
        let mut text = format!("{name}={value}; Path={}", self.path);
        for (attribute, value) in [("Domain", self.domain.as_deref()), ("SameSite", self.same_site)] {
            if let Some(value) = value {
                text.push_str(&format!("; {attribute}={value}"));
            }
        }
        if let Some(seconds) = max_age_s {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        for (attribute, is_on) in [("Secure", self.secure), ("HttpOnly", self.http_only)] {
            if is_on {
                text.push_str(&format!("; {attribute}"));
            }
        }
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Makes the client forget a cookie.
    pub fn forget(&self, name: &str) -> Option<HeaderValue> {
        self.set(name, "", Some(0))
    }
}

/// The values of cookies of this name, in order.
pub fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value)
}

/// Takes cookies of these names out; the others stay as they are.
pub fn remove(headers: &mut HeaderMap, names: &[&str]) {
    let is_ours = |pair: &str| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name).trim();
        names.contains(&name)
    };
    let has_ours = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.split(';').any(is_ours));
    if !headers.get_all(COOKIE).iter().any(has_ours) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let Ok(text) = line.to_str() else {
            headers.append(COOKIE, line);
            continue;
        };
        let kept: Vec<&str> =
            text.split(';').map(str::trim).filter(|pair| !pair.is_empty() && !is_ours(pair)).collect();
        if let Ok(mut value) = HeaderValue::from_str(&kept.join("; "))
            && !kept.is_empty()
        {
            value.set_sensitive(line.is_sensitive());
            headers.append(COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn ours_are_found_and_taken_out() {
        let mut some = headers(&["a=1; session=x=y;session2=3; session=", "b; session=z"]);
        assert_eq!(values(&some, "session").collect::<Vec<_>>(), ["x=y", "z"]);
        remove(&mut some, &["session", "remember"]);
        let left: Vec<_> = some.get_all(COOKIE).iter().map(|line| line.to_str().expect("text")).collect();
        assert_eq!(left, ["a=1; session2=3", "b"]);
        let mut only = headers(&["session=x"]);
        remove(&mut only, &["session"]);
        assert!(!only.contains_key(COOKIE));
        let mut others = headers(&["a=1;b=2"]);
        remove(&mut others, &["session"]);
        assert_eq!(others.get(COOKIE).expect("stays"), "a=1;b=2");
    }

    #[test]
    fn attributes_are_told() {
        let all = Attributes {
            path: "/a".to_owned(),
            domain: Some("a.test".to_owned()),
            same_site: Some("Strict"),
            secure: true,
            http_only: true,
        };
        let text = |value: Option<HeaderValue>| value.map(|value| value.to_str().expect("text").to_owned());
        let expected = "s=v; Path=/a; Domain=a.test; SameSite=Strict; Secure; HttpOnly";
        assert_eq!(text(all.set("s", "v", None)).as_deref(), Some(expected));
        let none = Attributes { path: "/".to_owned(), domain: None, same_site: None, secure: false, http_only: false };
        assert_eq!(text(none.set("s", "v", Some(9))).as_deref(), Some("s=v; Path=/; Max-Age=9"));
        assert_eq!(text(none.forget("s")).as_deref(), Some("s=; Path=/; Max-Age=0"));
    }
}
