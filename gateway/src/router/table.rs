//! The table of routes in Kong's `traditional_compatible` order, with an index by host and path prefix so that a look-up
//! touches only entries that can match.

use http::{HeaderMap, Method};
use regex::Regex;
use rustc_hash::FxHashMap;

use super::index::{Candidate, PathIndex, Search};
use super::pattern::{HeaderPattern, HostName, HostPattern, Methods, literal_prefix};

/// What the router looks at.
pub struct Facts<'a> {
    /// Method of the request.
    pub method: &'a Method,
    /// Host in lower case, without a port.
    pub host: &'a str,
    /// Port that the request came to.
    pub port: u16,
    /// Normalised path.
    pub path: &'a str,
    /// Headers of the request.
    pub headers: &'a HeaderMap,
    /// SNI of a TLS connection; `None` when it is not TLS.
    pub sni: Option<&'a str>,
}

/// What a route asks for (Kong route fields).
#[derive(Default)]
pub struct Matchers {
    /// `methods`.
    pub methods: Methods,
    /// `hosts`.
    pub hosts: Vec<HostPattern>,
    /// `headers`.
    pub headers: Vec<HeaderPattern>,
    /// `snis`.
    pub snis: Vec<HostPattern>,
    /// Plain `paths`, normalised.
    pub prefixes: Vec<String>,
    /// Regex `paths`, with the text after `~`.
    pub regexes: Vec<(String, Regex)>,
    /// `regex_priority`.
    pub regex_priority: u32,
    /// The route's UUID, which decides ties: the higher wins.
    pub uuid: u128,
}

/// The winner.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Place of the route in the list that the table was made of.
    pub route: usize,
    /// Bytes of the path that the prefix or regex matched.
    pub matched: usize,
    /// Captures of the regex: named, and numbered from 1.
    pub captures: Vec<(String, String)>,
}

enum PathTest {
    Any,
    Prefix(String),
    Regex(Regex, String),
}

struct Entry {
    priority: u64,
    route: usize,
    path: PathTest,
}

/// The compiled table.
#[derive(Default)]
pub struct Router {
    routes: Vec<Matchers>,
    /// Highest priority first: the place is the rank.
    entries: Vec<Entry>,
    by_host: FxHashMap<Box<str>, PathIndex>,
    any_host: PathIndex,
}

impl Router {
    /// Compiles the table; `Found::route` counts in the order of `routes`.
    #[must_use]
    pub fn new(routes: Vec<Matchers>) -> Self {
        let mut entries: Vec<Entry> = routes.iter().enumerate().flat_map(|(i, m)| entries_of(i, m)).collect();
        entries.sort_by_key(|e| std::cmp::Reverse((e.priority, routes[e.route].uuid)));
        let mut any_host = Vec::new();
        let mut by_host: FxHashMap<&str, Vec<(&str, Candidate)>> = FxHashMap::default();
        for (rank, entry) in entries.iter().enumerate() {
            let m = &routes[entry.route];
            let text = entry.path.text();
            let candidate = |settled| Candidate { rank: rank as u32, route: entry.route as u32, settled };
            let settled = entry.path.is_text() && m.asks_no_more();
            if m.hosts.is_empty() || m.hosts.iter().any(HostPattern::is_wildcard) {
                any_host.push((text, candidate(settled && m.hosts.is_empty())));
                continue;
            }
            for host in &m.hosts {
                if let HostName::Exact(name) = &host.name {
                    by_host.entry(name).or_default().push((text, candidate(settled && host.port.is_none())));
                }
            }
        }
        let by_host = by_host.iter().map(|(host, entries)| ((*host).into(), PathIndex::new(entries))).collect();
        let any_host = PathIndex::new(&any_host);
        Router { routes, entries, by_host, any_host }
    }

    /// The route of a request.
    #[must_use]
    pub fn find(&self, facts: &Facts<'_>) -> Option<Found> {
        let mut search = Search::default();
        // What names a host mostly wins, and then spares the other search.
        if !self.by_host.is_empty()
            && let Some(index) = self.by_host.get(facts.host)
        {
            index.search(facts.path, &mut search);
        }
        self.any_host.search(facts.path, &mut search);
        let tried = search.open().iter().find_map(|rank| self.try_entry(&self.entries[*rank as usize], facts));
        tried.or_else(|| {
            let (route, matched) = search.known()?;
            Some(Found { route, matched, captures: Vec::new() })
        })
    }

    fn try_entry(&self, entry: &Entry, facts: &Facts<'_>) -> Option<Found> {
        let route = &self.routes[entry.route];
        let fits = route.methods.contains(facts.method)
            && (route.hosts.is_empty() || route.hosts.iter().any(|h| h.matches(facts.host, facts.port)))
            && route.headers.iter().all(|h| h.matches(facts.headers))
            && (route.snis.is_empty()
                || facts.sni.is_none_or(|sni| route.snis.iter().any(|s| s.matches(sni, facts.port))));
        if !fits {
            return None;
        }
        let found = |matched, captures| Some(Found { route: entry.route, matched, captures });
        match &entry.path {
            PathTest::Any => found(0, Vec::new()),
            PathTest::Prefix(prefix) => {
                facts.path.starts_with(prefix.as_str()).then_some(()).and_then(|()| found(prefix.len(), Vec::new()))
            }
            PathTest::Regex(regex, _) => {
                if regex.captures_len() == 1 {
                    return found(regex.find(facts.path)?.end(), Vec::new());
                }
                let captures = regex.captures(facts.path)?;
                let text = |m: Option<regex::Match<'_>>| m.map_or(String::new(), |m| m.as_str().to_owned());
                let mut named = Vec::with_capacity(captures.len());
                for (i, name) in regex.capture_names().enumerate().skip(1) {
                    named.push((i.to_string(), text(captures.get(i))));
                    if let Some(name) = name {
                        named.push((name.to_owned(), text(captures.get(i))));
                    }
                }
                found(captures.get(0).map_or(0, |m| m.end()), named)
            }
        }
    }
}

impl PathTest {
    /// The text that every path which it fits begins with.
    fn text(&self) -> &str {
        match self {
            PathTest::Any => "",
            PathTest::Prefix(text) | PathTest::Regex(_, text) => text,
        }
    }

    /// Whether it fits every path that begins with that text.
    fn is_text(&self) -> bool {
        !matches!(self, PathTest::Regex(..))
    }
}

impl Matchers {
    /// Whether nothing but host and path is asked.
    fn asks_no_more(&self) -> bool {
        self.methods.0.is_empty() && self.headers.is_empty() && self.snis.is_empty()
    }
}

fn entries_of(route: usize, m: &Matchers) -> Vec<Entry> {
    let base = base_priority(m);
    if m.prefixes.is_empty() && m.regexes.is_empty() {
        return vec![Entry { priority: base, route, path: PathTest::Any }];
    }
    let prefixes = m.prefixes.iter().map(|p| Entry {
        priority: base | (p.len() as u64).min((1 << 19) - 1),
        route,
        path: PathTest::Prefix(p.clone()),
    });
    let regexes = m.regexes.iter().map(|(text, regex)| Entry {
        priority: base | 1 << 51 | u64::from(m.regex_priority) << 19,
        route,
        path: PathTest::Regex(regex.clone(), literal_prefix(text).to_owned()),
    });
    prefixes.chain(regexes).collect()
}

/// Bits 52–63 of Kong's priority (kong-format: attribute kinds, plain hosts, number of headers).
fn base_priority(m: &Matchers) -> u64 {
    let paths = !m.prefixes.is_empty() || !m.regexes.is_empty();
    let kinds = [!m.methods.0.is_empty(), !m.hosts.is_empty(), !m.headers.is_empty(), !m.snis.is_empty(), paths];
    let count = kinds.iter().filter(|k| **k).count() as u64;
    let plain_hosts = !m.hosts.is_empty() && !m.hosts.iter().any(HostPattern::is_wildcard);
    count << 61 | u64::from(plain_hosts) << 60 | (m.headers.len() as u64).min(255) << 52
}

#[cfg(test)]
mod tests {
    use super::super::pattern::path_regex;
    use super::*;

    fn route(prefixes: &[&str]) -> Matchers {
        Matchers { prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(), ..Matchers::default() }
    }

    fn find(router: &Router, method: &str, host: &str, path: &str) -> Option<usize> {
        let method = method.parse().expect("method");
        let facts = Facts { method: &method, host, port: 80, path, headers: &HeaderMap::new(), sni: None };
        router.find(&facts).map(|f| f.route)
    }

    #[test]
    fn longest_prefix_wins_and_is_a_string_prefix() {
        let router = Router::new(vec![route(&["/"]), route(&["/api"]), route(&["/api/v1"])]);
        assert_eq!(find(&router, "GET", "x", "/api/v1/users"), Some(2));
        assert_eq!(find(&router, "GET", "x", "/apiary"), Some(1));
        assert_eq!(find(&router, "GET", "x", "/other"), Some(0));
    }

    #[test]
    fn more_kinds_of_attributes_win_and_regexes_beat_prefixes() {
        let mut by_host = route(&["/"]);
        by_host.hosts = vec![HostPattern::parse("a.com").expect("host")];
        let regex = Matchers {
            regexes: vec![("/api/\\d+$".into(), path_regex("/api/\\d+$").expect("regex"))],
            ..Matchers::default()
        };
        let router = Router::new(vec![route(&["/api/1"]), by_host, regex]);
        assert_eq!(find(&router, "GET", "a.com", "/api/1"), Some(1));
        assert_eq!(find(&router, "GET", "b.com", "/api/1"), Some(2));
        assert_eq!(find(&router, "GET", "b.com", "/api/1x"), Some(0));
        assert_eq!(find(&router, "GET", "b.com", "/none"), None);
    }

    #[test]
    fn captures_are_named_and_numbered() {
        let m = Matchers {
            regexes: vec![("/u/(?<id>\\d+)".into(), path_regex("/u/(?<id>\\d+)").expect("regex"))],
            ..Matchers::default()
        };
        let router = Router::new(vec![m]);
        let method = Method::GET;
        let headers = HeaderMap::new();
        let facts = Facts { method: &method, host: "", port: 80, path: "/u/42/x", headers: &headers, sni: None };
        let found = router.find(&facts).expect("found");
        assert_eq!(found.matched, 5);
        assert_eq!(found.captures, vec![("1".into(), "42".into()), ("id".into(), "42".into())]);
    }
}
