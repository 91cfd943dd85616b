//! What gateways of a fleet tell each other of sources: a verdict with its cause and its end, a lifting, a greeting. Pure
//! text; it must not know how it travels or what becomes of it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::report::{OffenceKind, cut};

/// Bytes of a notice at most.
pub(super) const BYTES_MAX: usize = 4_096;
/// The longest verdict that is taken from others.
const LASTS_MAX: Duration = Duration::from_secs(3_600);
/// The form of these texts.
const VERSION: u64 = 1;

/// A verdict of another gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The source: an IPv4 address, or the first address of an IPv6 prefix.
    pub source: IpAddr,
    /// Whether the source is dropped altogether (rung 5), or only its new connections (rung 4).
    pub dropped: bool,
    /// How long it has held, and how long it still holds: lengths, since clocks differ.
    pub age: Duration,
    /// The second of them.
    pub lasts: Duration,
    /// The plugin that refused the request which tipped it.
    pub plugin: Box<str>,
    /// The route that it asked for.
    pub route: Box<str>,
    /// That request's id.
    pub request_id: Box<str>,
    /// What was done.
    pub kind: OffenceKind,
    /// Strikes or failures that made it.
    pub strikes: u32,
    /// Times that the source was gated before.
    pub repeats: u8,
}

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// A gateway has come, or is back: the others tell it what holds.
    Hello,
    /// A verdict.
    Verdict(Foreign),
    /// A source is free again.
    Lifted {
        /// The source.
        source: IpAddr,
        /// How long ago.
        ago: Duration,
        /// By an operator, for all gateways; else the one that made the verdict saw that an innocent suffers.
        by_operator: bool,
    },
}

/// What is told, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The process, unique.
    pub node: Box<str>,
    /// Its name, for people.
    pub name: Box<str>,
    /// What it tells.
    pub word: Word,
}

impl Notice {
    /// The text that travels.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = match &self.word {
            Word::Hello => json!({ "op": "hello" }),
            Word::Verdict(told) => json!({
                "op": "verdict",
                "source": told.source.to_string(),
                "rung": if told.dropped { 5 } else { 4 },
                "age_ms": millis(told.age),
                "lasts_ms": millis(told.lasts),
                "plugin": told.plugin,
                "route": told.route,
                "request_id": told.request_id,
                "kind": told.kind.name(),
                "strikes": told.strikes,
                "repeats": told.repeats,
            }),
            Word::Lifted { source, ago, by_operator } => json!({
                "op": "lifted",
                "source": source.to_string(),
                "ago_ms": millis(*ago),
                "by_operator": by_operator,
            }),
        };
        text["v"] = json!(VERSION);
        text["node"] = json!(self.node);
        text["name"] = json!(self.name);
        text.to_string()
    }

    /// What a text says; nothing if it is none of these.
    #[must_use]
    pub fn of(text: &[u8]) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let value: Value = serde_json::from_slice(text).ok()?;
        if value["v"].as_u64() != Some(VERSION) {
            return None;
        }
        let words = |field: &str| value[field].as_str().map(printable);
        let length = |field: &str| value[field].as_u64().map(Duration::from_millis);
        let source = || value["source"].as_str()?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let word = match value["op"].as_str()? {
            "hello" => Word::Hello,
            "lifted" => {
                Word::Lifted { source: source()?, ago: length("ago_ms")?, by_operator: value["by_operator"].as_bool()? }
            }
            "verdict" => Word::Verdict(Foreign {
                source: source()?,
                dropped: match value["rung"].as_u64()? {
                    4 => false,
                    5 => true,
                    _ => return None,
                },
                age: length("age_ms")?,
                lasts: length("lasts_ms")?.min(LASTS_MAX),
                plugin: words("plugin")?,
                route: words("route")?,
                request_id: words("request_id")?,
                kind: match value["kind"].as_str()? {
                    "rate_limited" => OffenceKind::RateLimited { retry_after: Duration::ZERO },
                    "unauthorized" => OffenceKind::Unauthorized,
                    "bad_request" => OffenceKind::BadRequest,
                    _ => return None,
                },
                strikes: u32::try_from(value["strikes"].as_u64()?).ok()?,
                repeats: u8::try_from(value["repeats"].as_u64()?).ok()?,
            }),
            _ => return None,
        };
        Some(Notice { node: words("node")?, name: words("name")?, word })
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Somebody else's words, fit for logs and terminals.
fn printable(text: &str) -> Box<str> {
    cut(&text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Notice {
        let told = Foreign {
            source: "192.0.2.1".parse().expect("address"),
            dropped: true,
            age: Duration::from_secs(3),
            lasts: Duration::from_secs(90),
            plugin: "rate-limiting".into(),
            route: "orders".into(),
            request_id: "q".into(),
            kind: OffenceKind::Unauthorized,
            strikes: 20,
            repeats: 1,
        };
        Notice { node: "n1".into(), name: "one".into(), word: Word::Verdict(told) }
    }

    #[test]
    fn what_is_told_is_what_is_heard() {
        let source = "2001:db8::".parse().expect("address");
        let lifted = Word::Lifted { source, ago: Duration::from_millis(70), by_operator: true };
        for word in [verdict().word, Word::Hello, lifted] {
            let notice = Notice { word, ..verdict() };
            assert_eq!(Notice::of(notice.text().as_bytes()), Some(notice));
        }
    }

    #[test]
    fn a_verdict_lasts_an_hour_at_most() {
        let text = verdict().text().replace("90000", "18446744073709551615");
        let Some(Word::Verdict(told)) = Notice::of(text.as_bytes()).map(|notice| notice.word) else { panic!("{text}") };
        assert_eq!(told.lasts, LASTS_MAX);
    }

    #[test]
    fn what_is_no_notice_is_nothing() {
        let good = verdict().text();
        for (from, to) in [
            ("192.0.2.1", "192.0.2.0/24"),
            ("\"rung\":5", "\"rung\":3"),
            ("\"v\":1", "\"v\":2"),
            ("unauthorized", "whatever"),
            ("\"verdict\"", "\"ban\""),
            ("\"lasts_ms\":90000", "\"lasts_ms\":-1"),
            ("\"repeats\":1", "\"repeats\":256"),
            ("\"node\":\"n1\"", "\"node\":1"),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good, "{from}");
            assert_eq!(Notice::of(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Notice::of(b"\xff\xfe"), None);
        assert_eq!(Notice::of(good.replace("orders", &"x".repeat(BYTES_MAX)).as_bytes()), None);
    }

    #[test]
    fn the_words_of_others_are_made_harmless() {
        let text = verdict().text().replace("orders", "a\\u001b[2Jb");
        let Some(Word::Verdict(told)) = Notice::of(text.as_bytes()).map(|notice| notice.word) else { panic!("{text}") };
        assert_eq!(&*told.route, "a?[2Jb");
    }
}
