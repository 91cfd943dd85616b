//! Paths: one normal form before anything looks at them, and Kong's way of joining a service's path with a request's.

use std::borrow::Cow;

/// Why a path is refused before routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crooked {
    /// Bytes that no URI may hold, or a broken percent triplet.
    Syntax,
    /// Another reader would see a dot segment, a NUL or a backslash where this one does not.
    Ambiguous,
}

/// Decodes unreserved triplets, writes the others in upper case, merges slashes and resolves dot segments (RFC 3986 §6.2.2,
/// §5.2.4; Kong `normalize`). A path that some servers would read differently is refused.
///
/// # Errors
/// See `Crooked`.
pub fn normalize(raw: &str) -> Result<Cow<'_, str>, Crooked> {
    if is_normal(raw.as_bytes()) {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = decode_unreserved(raw.as_bytes())?;
    let path = resolve(&decoded);
    if has_crooked_segment(&path) {
        return Err(Crooked::Ambiguous);
    }
    Ok(Cow::Owned(path))
}

/// True for the paths of nearly all requests: nothing to decode, merge or resolve.
fn is_normal(raw: &[u8]) -> bool {
    let mut previous = 0_u8;
    for &b in raw {
        let plain = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'_'
                    | b'~'
                    | b'/'
                    | b'.'
                    | b':'
                    | b'@'
                    | b'='
                    | b'&'
                    | b'+'
                    | b','
                    | b'$'
                    | b'!'
                    | b'*'
                    | b'('
                    | b')'
            );
        if !plain || (previous == b'/' && matches!(b, b'/' | b'.')) {
            return false;
        }
        previous = b;
    }
    raw.first() == Some(&b'/')
}

fn decode_unreserved(raw: &[u8]) -> Result<String, Crooked> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b == b'%' {
            let value = tail.get(..2).and_then(hex).ok_or(Crooked::Syntax)?;
            rest = &tail[2..];
            if is_unreserved(value) {
                out.push(char::from(value));
            } else {
                out.push('%');
                out.push(char::from(tail[0].to_ascii_uppercase()));
                out.push(char::from(tail[1].to_ascii_uppercase()));
            }
        } else if b == b'\\' {
            return Err(Crooked::Ambiguous);
        } else if b <= 0x20 || b >= 0x7f || matches!(b, b'?' | b'#') {
            return Err(Crooked::Syntax);
        } else {
            out.push(char::from(b));
        }
    }
    Ok(out)
}

fn hex(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// Removes dot segments and merges slashes; the result begins with a slash.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in path.split('/').skip(usize::from(path.starts_with('/'))) {
        directory = true;
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => {
                segments.push(name);
                directory = false;
            }
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if directory {
        out.push('/');
    }
    out
}

/// Whether a second decoding, a backslash reading, or path parameters would turn a segment into `.` or `..`, or whether it
/// decodes to a NUL or to what is not UTF-8 (overlong forms).
fn has_crooked_segment(path: &str) -> bool {
    if !path.contains(['%', ';']) {
        return false;
    }
    let once: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    if once.contains(&0) || once.contains(&b'\\') || std::str::from_utf8(&once).is_err() {
        return true;
    }
    let twice: Vec<u8> = percent_encoding::percent_decode(&once).collect();
    let crooked = |segment: &[u8]| {
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    let separator = |b: &u8| matches!(b, b'/' | b'\\');
    once.split(separator).any(crooked) || twice.split(separator).any(crooked) || twice.contains(&0)
}

/// How two paths are joined (Kong `path_handling`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Joint {
    /// With one slash between them (`v0`).
    #[default]
    Segments,
    /// As texts: a base that does not end with a slash gets none (`v1`, in the `traditional` flavour alone).
    Text,
}

/// Joins a service's path and a request's. `matched` is the length of the matched prefix or regex text.
#[must_use]
pub fn upstream_path(base: &str, request: &str, matched: usize, strip: bool, joint: Joint) -> String {
    match joint {
        Joint::Segments => join_segments(base, request, matched, strip),
        Joint::Text => join_text(base, request, matched, strip),
    }
}

/// Kong `get_upstream_uri_v1`.
fn join_text(base: &str, request: &str, matched: usize, strip: bool) -> String {
    let rest =
        if strip { postfix(request.get(matched..).unwrap_or_default()) } else { &request[1.min(request.len())..] };
    match base.strip_suffix('/') {
        Some(stem) if rest.starts_with('/') => [stem, rest].concat(),
        _ => [base, rest].concat(),
    }
}

/// Kong `get_upstream_uri_v0`.
fn join_segments(base: &str, request: &str, matched: usize, strip: bool) -> String {
    if !strip {
        return match base.strip_suffix('/') {
            Some(stem) => [stem, request].concat(),
            None if request == "/" => base.to_owned(),
            None => [base, request].concat(),
        };
    }
    let rest = postfix(request.get(matched..).unwrap_or_default());
    let slashed = request.ends_with('/');
    match base.strip_suffix('/') {
        Some("") if rest.is_empty() => "/".to_owned(),
        Some(_) if rest.is_empty() && slashed => base.to_owned(),
        Some(stem) if rest.is_empty() => stem.to_owned(),
        Some(stem) if rest.starts_with('/') => [stem, rest].concat(),
        Some(_) => [base, rest].concat(),
        None if rest.is_empty() && request.len() > 1 && slashed => [base, "/"].concat(),
        None if rest.is_empty() => base.to_owned(),
        None if rest.starts_with('/') => [base, rest].concat(),
        None => [base, "/", rest].concat(),
    }
}

/// A remainder must not begin with a dot segment (Kong `sanitize_uri_postfix`).
fn postfix(rest: &str) -> &str {
    match rest {
        "." | ".." => "",
        _ => rest.strip_prefix("./").or_else(|| rest.strip_prefix("../")).unwrap_or(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_normal_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//a///b/", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/../../x", "/x"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%20b", "/a%20b"),
            ("/%7Euser", "/~user"),
            ("/pub/%2e%2e/admin", "/admin"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a;v=1/b", "/a;v=1/b"),
        ] {
            assert_eq!(normalize(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_others_read_differently_is_refused() {
        for raw in [
            "/pub/..%2fadmin",
            "/pub/..;/admin",
            "/pub/%252e%252e/admin",
            "/pub\\..\\admin",
            "/pub/..%5cadmin",
            "/a%00",
            "/%c0%ae%c0%ae/x",
            "/%c0%af",
            "/a%2f..%2fb",
            "/a%2",
            "/a%zz",
            "/.;x/b",
            "/a%5Cb",
            "/a\u{e9}",
            "/a#b",
            "/a?b",
        ] {
            assert!(normalize(raw).is_err(), "{raw} {:?}", normalize(raw));
        }
    }

    #[test]
    fn joins_as_kong_does() {
        // service path, matched, strip, request → upstream
        for (base, matched, strip, request, upstream) in [
            ("/", 4, true, "/api/users", "/users"),
            ("/", 4, true, "/api", "/"),
            ("/v1", 4, true, "/api/users", "/v1/users"),
            ("/v1/", 4, true, "/api/users", "/v1/users"),
            ("/v1/", 4, true, "/api", "/v1"),
            ("/v1", 5, true, "/api/", "/v1/"),
            ("/v1/", 5, true, "/api/", "/v1/"),
            ("/v1", 4, false, "/api/users", "/v1/api/users"),
            ("/v1", 1, false, "/", "/v1"),
            ("/", 6, true, "/route-suffix", "/-suffix"),
            ("/", 4, true, "/apis", "/s"),
        ] {
            assert_eq!(upstream_path(base, request, matched, strip, Joint::Segments), upstream, "{base} {request}");
        }
        for (base, matched, strip, request, upstream) in [
            ("/", 6, true, "/route", "/"),
            ("/", 6, true, "/route/", "/"),
            ("/service", 6, true, "/routereq", "/servicereq"),
            ("/service", 6, false, "/route", "/serviceroute"),
            ("/service", 7, true, "/route/", "/service"),
            ("/service/", 1, true, "/route/", "/service/route/"),
            ("/service/", 6, true, "/route/req", "/service/req"),
            ("/service", 1, false, "/", "/service"),
        ] {
            assert_eq!(upstream_path(base, request, matched, strip, Joint::Text), upstream, "{base} {request}");
        }
    }
}
