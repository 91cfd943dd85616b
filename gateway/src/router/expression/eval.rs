//! Asks an expression about a request. Nothing is made of the request but what the expression names.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use super::field::Field;
use super::{Check, Order, Test, Tree};
use crate::router::Facts;

/// A request as expressions see it.
pub struct View<'a> {
    /// What the table of fields sees too.
    pub facts: &'a Facts<'a>,
    /// `http` or `https`.
    pub protocol: &'a str,
    /// The query without `?`.
    pub query: Option<&'a str>,
    /// The peer.
    pub source: SocketAddr,
    /// The address that it connected to.
    pub destination: IpAddr,
}

/// What a test of the path matched, for `strip_path` and templates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Bytes from the path's start.
    pub matched: usize,
    /// Captures of the last regex on the path: named, and numbered from 1.
    pub captures: Vec<(String, String)>,
}

pub fn holds(tree: &Tree, view: &View<'_>, hit: &mut Hit) -> bool {
    match tree {
        Tree::And(left, right) => holds(left, view, hit) && holds(right, view, hit),
        Tree::Or(left, right) => holds(left, view, hit) || holds(right, view, hit),
        Tree::Not(inner) => !holds(inner, view, hit),
        Tree::Test(test) => passes(test, view, hit),
    }
}

fn passes(test: &Test, view: &View<'_>, hit: &mut Hit) -> bool {
    match &test.check {
        Check::Number(order, wanted) => number(&test.field, view).is_some_and(|n| compare(*order, n, *wanted)),
        Check::Within(net, inside) => {
            let address = if test.field == Field::Ip { view.destination } else { view.source.ip() };
            net.contains(&address.to_canonical()) == *inside
        }
        check => {
            let values = texts(&test.field, view);
            let one = |value: &Cow<'_, str>| {
                let lowered;
                let value = if test.lower {
                    lowered = value.to_lowercase();
                    lowered.as_str()
                } else {
                    value.as_ref()
                };
                text(check, value, test.field == Field::Path, hit)
            };
            // A field that is not there fits nothing, whatever is asked.
            !values.is_empty() && if test.any { values.iter().any(one) } else { values.iter().all(one) }
        }
    }
}

fn text(check: &Check, value: &str, is_path: bool, hit: &mut Hit) -> bool {
    let (holds, matched) = match check {
        Check::Equals(wanted) => (value == wanted, value.len()),
        Check::Begins(wanted) => (value.starts_with(wanted.as_str()), wanted.len()),
        Check::Ends(wanted) => return value.ends_with(wanted.as_str()),
        Check::Contains(wanted) => return value.contains(wanted.as_str()),
        Check::Differs(unwanted) => return value != unwanted,
        Check::Matches(regex) => {
            let Some(captures) = regex.captures(value) else { return false };
            if is_path {
                hit.captures = named(regex, &captures);
            }
            (true, captures.get(0).filter(|m| m.start() == 0).map_or(0, |m| m.end()))
        }
        Check::Number(..) | Check::Within(..) => return false,
    };
    if holds && is_path {
        hit.matched = matched;
    }
    holds
}

fn named(regex: &regex::Regex, captures: &regex::Captures<'_>) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for (i, name) in regex.capture_names().enumerate().skip(1) {
        let Some(text) = captures.get(i).map(|m| m.as_str().to_owned()) else { continue };
        named.push((i.to_string(), text.clone()));
        if let Some(name) = name {
            named.push((name.to_owned(), text));
        }
    }
    named
}

fn compare(order: Order, value: i64, wanted: i64) -> bool {
    match order {
        Order::Equal => value == wanted,
        Order::Unequal => value != wanted,
        Order::Greater => value > wanted,
        Order::GreaterOrEqual => value >= wanted,
        Order::Less => value < wanted,
        Order::LessOrEqual => value <= wanted,
    }
}

fn number(field: &Field, view: &View<'_>) -> Option<i64> {
    Some(match field {
        Field::SourcePort => view.source.port().into(),
        Field::Port => view.facts.port.into(),
        Field::Segments => segments(view.facts.path).count() as i64,
        _ => return None,
    })
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1).filter(|segment| !segment.is_empty())
}

fn texts<'a>(field: &Field, view: &View<'a>) -> Vec<Cow<'a, str>> {
    let one = |text: &'a str| vec![Cow::Borrowed(text)];
    let facts = view.facts;
    match field {
        Field::Protocol => one(view.protocol),
        Field::Sni => facts.sni.map(one).unwrap_or_default(),
        Field::Method => one(facts.method.as_str()),
        Field::Host => one(facts.host),
        Field::Path => one(facts.path),
        Field::Segment(from, to) => {
            let wanted: Vec<&str> = segments(facts.path).skip(*from).take(to - from + 1).collect();
            if wanted.len() <= to - from { Vec::new() } else { vec![Cow::Owned(wanted.join("/"))] }
        }
        Field::Header(name) => {
            let same = |known: &str| {
                known.len() == name.len()
                    && known.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
            };
            let values = facts.headers.iter().filter(|(known, _)| same(known.as_str()));
            values.filter_map(|(_, value)| value.to_str().ok().map(Cow::Borrowed)).collect()
        }
        Field::Query(name) => {
            let pairs = form_urlencoded::parse(view.query.unwrap_or_default().as_bytes());
            pairs.filter(|(key, _)| key == name).map(|(_, value)| value).collect()
        }
        Field::Segments | Field::SourceIp | Field::Ip | Field::SourcePort | Field::Port => Vec::new(),
    }
}
