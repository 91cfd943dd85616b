//! `Cookie` fields of requests (RFC 6265 §4.2.1): their pairs, and the crumbs of HTTP/2 joined. Bytes as they came; what a
//! cookie means is not known here.

use http::header::{COOKIE, HeaderMap, HeaderValue};

/// Names and values of all cookies, in the order in which they stand; spaces around either do not count.
pub fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';')).filter_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
    })
}

/// Joins the crumbs of an HTTP/2 cookie (RFC 9113 §8.2.3): HTTP/1 has one field.
pub fn join(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = [first.as_bytes(), b"; ", second.as_bytes()].concat();
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_are_joined_and_say_the_same() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1; b = 2", "c", "d=x=y;; =e"] {
            headers.append(COOKIE, crumb.parse().expect("a value"));
        }
        let seen = |headers: &HeaderMap| -> Vec<(Vec<u8>, Vec<u8>)> {
            pairs(headers).map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
        };
        let before = seen(&headers);
        join(&mut headers);
        assert_eq!(headers[COOKIE], "a=1; b = 2; c; d=x=y;; =e");
        assert_eq!(seen(&headers), before);
        let text = |pair: &(&str, &str)| (pair.0.as_bytes().to_vec(), pair.1.as_bytes().to_vec());
        assert_eq!(before, [("a", "1"), ("b", "2"), ("d", "x=y"), ("", "e")].iter().map(text).collect::<Vec<_>>());
    }
}
