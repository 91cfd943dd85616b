//! What one route asks of a request: methods, hosts, headers, SNI. Compiled once.

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

/// A host of a route: exact, `*.suffix` or `prefix.*`, perhaps with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// The kind and its text, in lower case.
    pub name: HostName,
    /// The port that the request must have come to.
    pub port: Option<u16>,
}

/// The name part of a `HostPattern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// The whole name.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`.
    Suffix(String),
    /// `example.*`, kept as `example.`.
    Prefix(String),
}

impl HostPattern {
    /// Reads a host of a route (Kong `hosts`, `snis`).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.to_ascii_lowercase();
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !text.ends_with(']') => (name, Some(port.parse().map_err(|_| "invalid port")?)),
            _ => (text.as_str(), None),
        };
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '[' | ']');
        let name = if let Some(rest) = name.strip_prefix('*') {
            if !rest.starts_with('.') || rest.len() < 2 || rest.contains('*') {
                return Err("invalid wildcard: must be placed at leftmost or rightmost label");
            }
            HostName::Suffix(rest.to_owned())
        } else if let Some(rest) = name.strip_suffix('*') {
            if !rest.ends_with('.') || rest.len() < 2 || rest.contains('*') {
                return Err("invalid wildcard: must be placed at leftmost or rightmost label");
            }
            HostName::Prefix(rest.to_owned())
        } else {
            HostName::Exact(name.to_owned())
        };
        let (HostName::Exact(t) | HostName::Suffix(t) | HostName::Prefix(t)) = &name;
        if t.is_empty() || !t.chars().all(label) {
            return Err("invalid hostname");
        }
        Ok(HostPattern { name, port })
    }

    /// Whether the host of a request fits.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        self.port.is_none_or(|p| p == port)
            && match &self.name {
                HostName::Exact(name) => name == host,
                HostName::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
                HostName::Prefix(prefix) => host.len() > prefix.len() && host.starts_with(prefix.as_str()),
            }
    }

    /// Whether it is a wildcard.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        !matches!(self.name, HostName::Exact(_))
    }
}

/// A header that a route asks for: any of the values, or a regex.
#[derive(Clone, Debug)]
pub struct HeaderPattern {
    /// Its name.
    pub name: HeaderName,
    /// Accepted values in lower case.
    pub values: Vec<String>,
    /// `~*pattern`, when the only value is one.
    pub pattern: Option<Regex>,
}

impl HeaderPattern {
    /// Whether any of the request's values of this header fits. Values compare in lower case, as Kong's router does.
    #[must_use]
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        headers.get_all(&self.name).iter().any(|value| {
            let Ok(value) = value.to_str() else { return false };
            let value = value.to_ascii_lowercase();
            match &self.pattern {
                Some(pattern) => pattern.is_match(&value),
                None => self.values.contains(&value),
            }
        })
    }
}

/// A method set.
#[derive(Clone, Debug, Default)]
pub struct Methods(pub Vec<Method>);

impl Methods {
    /// Whether `method` is in the set; an empty set holds all.
    #[must_use]
    pub fn contains(&self, method: &Method) -> bool {
        self.0.is_empty() || self.0.contains(method)
    }
}

/// Compiles a regex path, `~` already removed: anchored at the start, not at the end (Kong traditional_compatible).
///
/// # Errors
/// The engine's words: look-around and back-references are not in it.
pub fn path_regex(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&format!("^(?:{text})"))
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .build()
        .map_err(|e| e.to_string().lines().last().unwrap_or_default().trim().to_owned())
}

/// The literal text that every match of a regex path begins with; what the index sorts it under.
#[must_use]
pub fn literal_prefix(text: &str) -> &str {
    let text = text.strip_prefix('^').unwrap_or(text);
    if text.contains('|') {
        return "";
    }
    let meta = |c: char| matches!(c, '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$');
    let end = text.find(meta).unwrap_or(text.len());
    match text[end..].chars().next() {
        // The character before a quantifier is itself optional or repeated.
        Some('*' | '?' | '{' | '+') => &text[..text[..end].char_indices().next_back().map_or(0, |(i, _)| i)],
        _ => &text[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_wildcards_and_ports() {
        let h = |t: &str| HostPattern::parse(t).expect("host");
        assert!(h("Example.com").matches("example.com", 80));
        assert!(h("*.example.com").matches("a.b.example.com", 80));
        assert!(!h("*.example.com").matches("example.com", 80));
        assert!(h("example.*").matches("example.org", 80));
        assert!(!h("example.com:8080").matches("example.com", 80));
        for bad in ["*", "a.*.b", "*a.com", "a b", "", "x:port"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn literal_prefixes_are_safe() {
        assert_eq!(literal_prefix("/pets/(?<id>[^/]+)$"), "/pets/");
        assert_eq!(literal_prefix("/colou?r"), "/colo");
        assert_eq!(literal_prefix("/a|/b"), "");
        assert_eq!(literal_prefix("/v1.0"), "/v1");
    }
}
