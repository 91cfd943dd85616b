//! Kong's `bot-detection`: refuses clients by their `User-Agent`. It knows names that programs give themselves, and nothing
//! of how they behave.

use std::sync::{Arc, LazyLock};

use http::StatusCode;
use http::header::USER_AGENT;
use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};

use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `bot-detection`.
pub const KIND: Kind = Kind { name: "bot-detection", priority: 2500, consumer_scope: false, compile };

/// Memory that the expressions of one list may take when they are compiled, bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// How crawlers and download programs name themselves; `CUBOT` is a telephone.
const KNOWN: &[&str] = &[
    r"(?i-u:spider|crawl)|(?-u:[Ss]crap[ey])",
    r"(?-u:[^C][^Uu][Bb]ot|^.?[Bb]ot\b|[Bb]ot[/ ]\d)",
    r"(?-u:(?:[Aa]rchiver|[Ii]ndexer)[/ ]\d)",
    r"(?-u:facebookexternalhit/\d|Google.*/\+/web/snippet|AppEngine-Google|Mediapartners-Google|Google SketchUp)",
    r"(?-u:Apache-HttpClient|Google-HTTP-Java-Client|http%20client|HttpMonitor|JNLP|Python-urllib|TLSProber|WinHTTP)",
    r"(?-u:altavista|Ask Jeeves|BingPreview|\b\w*favicon\w*\b|gsa-|heritrix|htdig|ia_archiver|InternetArchive)",
    r"(?-u:larbin|lycos|Netvibes|NewsGator|Nutch|PagePeeker|scooter|searchsight|Slurp|SimplePie|SimpleRSS|WordPress)",
    r"(?-u:Web-sniffer|WebThumb|WebZIP|WhatWeb|Xenu|yacy|YahooSeeker|Yahoo[a-z]*Seeker|Yandex\w+|\bYeti\b|ZyBorg)",
];

static CRAWLERS: LazyLock<RegexSet> =
    LazyLock::new(|| RegexSet::new(KNOWN).expect("the expressions of the list above are valid"));

struct BotDetection {
    allow: RegexSet,
    deny: RegexSet,
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let (allow, deny) = (expressions(fields, "allow"), expressions(fields, "deny"));
    Some(Arc::new(BotDetection { allow: allow?, deny: deny? }))
}

/// The expressions of a list. Kong's engine knows more than this one: what it cannot read is refused by name, and left out
/// where the user allows that.
fn expressions<'a>(fields: &Fields<'a>, field: &'a str) -> Option<RegexSet> {
    let mut given = fields.strings(field).unwrap_or_default();
    given.retain(|(place, text)| {
        let sound = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build().is_ok();
        if !sound {
            let help = "the syntax is that of Rust's regex crate; with `--allow-unsupported` this entry is left out";
            fields.report.unsupported(*place, format!("an expression in `{field}`"), Some(help));
        }
        sound
    });
    let set = RegexSetBuilder::new(given.iter().map(|(_, text)| text)).size_limit(REGEX_BYTES_MAX).build().ok();
    if set.is_none() {
        fields.report.mismatch(
            fields.place_of(field),
            format!("`{field}` is too large"),
            "fewer or simpler expressions",
        );
    }
    set
}

impl Plugin for BotDetection {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let mut agents = exchange.request.headers.get_all(USER_AGENT).iter();
        let Some(agent) = agents.next() else { return Flow::Continue };
        if agents.next().is_some() {
            let message = "Only one User-Agent header allowed";
            return Reply::templated(KIND.name, StatusCode::BAD_REQUEST, message).into();
        }
        // Kong looks at the value without the blanks around it.
        let agent = agent.as_bytes().trim_ascii();
        if self.allow.is_match(agent) || !(self.deny.is_match(agent) || CRAWLERS.is_match(agent)) {
            return Flow::Continue;
        }
        Reply::templated(KIND.name, StatusCode::FORBIDDEN, "Forbidden").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good};

    fn status(config: &str, agents: &[&str]) -> u16 {
        let headers: Vec<_> = agents.iter().map(|agent| ("user-agent", *agent)).collect();
        match good(&KIND, config).on_request(&mut Exchange::for_test("GET", "/", &headers)) {
            Flow::Continue | Flow::Wait(_) => 200,
            Flow::Reply(reply) => reply.status.as_u16(),
        }
    }

    #[test]
    fn crawlers_are_known_and_people_are_not() {
        for agent in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "facebookexternalhit/1.1",
            "Twitterbot/1.0",
            "Baiduspider+(+http://www.baidu.com/search/spider.htm)",
            "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
            "Scrapy/1.0 (+https://scrapy.org)",
            "WordPress/4.0; http://example.org",
            "Python-urllib/3.1",
            "A SPIDER",
            "bot/1",
        ] {
            assert_eq!(status("{}", &[agent]), 403, "{agent}");
        }
        for agent in [
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
            "Mozilla/5.0 (Linux; Android 5.1; CUBOT X15) AppleWebKit/537.36",
            "curl/8.5.0",
            "okhttp/4.9",
            "",
        ] {
            assert_eq!(status("{}", &[agent]), 200, "{agent}");
        }
        assert_eq!(status("{}", &[]), 200);
        assert_eq!(status("{}", &["a", "b"]), 400);
    }

    #[test]
    fn allow_goes_before_deny_and_deny_before_the_list() {
        assert_eq!(status("allow: [Googlebot]", &["Googlebot/2.1"]), 200);
        assert_eq!(status("{allow: [curl], deny: [curl]}", &["curl/8"]), 200);
        assert_eq!(status("deny: ['^curl/[0-7]']", &["curl/7.1"]), 403);
        assert_eq!(status("deny: ['^curl/[0-7]']", &["curl/8.1"]), 200);
        assert_eq!(status("deny: ['^curl']", &["  curl  "]), 403);
    }

    #[test]
    fn bad_expressions_have_their_place() {
        let words = bad(&KIND, "{allow: ['a', '(?=b)'], deny: ['(']}");
        assert!(words.contains(":1:15: error: not yet supported: an expression in `allow`"), "{words}");
        assert!(words.contains(":1:32: error: not yet supported: an expression in `deny`"), "{words}");
    }
}
