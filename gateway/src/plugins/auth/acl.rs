//! Kong's `acl`: lets consumers through, or keeps them out, by their groups. Who calls was settled before.

use std::collections::HashSet;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::{AUTHENTICATED_GROUPS, CONSUMER_GROUPS};
use crate::document::Fields;
use crate::identity::{Consumer, Identities};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::{Reply, default_message};

/// Kong's `acl`.
pub const KIND: Kind = Kind { name: "acl", priority: 950, consumer_scope: false, compile };

struct Acl {
    identities: Arc<Identities>,
    rule: Rule,
    hide_groups_header: bool,
    /// Whether consumer groups count beside the groups of `acls`.
    include_consumer_groups: bool,
    /// Whether the groups that a credential brings count in place of its consumer's.
    prefer_own: bool,
}

enum Rule {
    /// One of the groups must be the consumer's.
    Allow(HashSet<String>),
    /// None of the groups may be the consumer's.
    Deny(HashSet<String>),
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let groups = |field| -> Option<HashSet<String>> {
        fields.strings(field).map(|groups| groups.into_iter().map(|(_, group)| group).collect())
    };
    let hide_groups_header = fields.boolean("hide_groups_header").unwrap_or(false);
    let include_consumer_groups = fields.boolean("include_consumer_groups");
    let prefer_own = fields.boolean("always_use_authenticated_groups").unwrap_or(false);
    let rule = match (groups("allow"), groups("deny")) {
        (Some(allow), None) => Rule::Allow(allow),
        (None, Some(deny)) => Rule::Deny(deny),
        (Some(_), Some(_)) => {
            fields.report.mismatch(fields.place_of("deny"), "both `allow` and `deny` are given", "only one of them");
            return None;
        }
        (None, None) => {
            fields.report.mismatch(fields.place(), "acl has neither `allow` nor `deny`", "one of them");
            return None;
        }
    };
    let include_consumer_groups = include_consumer_groups.unwrap_or(false);
    let identities = Arc::clone(setup.identities);
    Some(Arc::new(Acl { identities, rule, hide_groups_header, include_consumer_groups, prefer_own }))
}

impl Rule {
    fn admits<'g>(&self, mut groups: impl Iterator<Item = &'g str>) -> bool {
        match self {
            Rule::Allow(allowed) => groups.any(|g| allowed.contains(g)),
            Rule::Deny(denied) => !groups.any(|g| denied.contains(g)),
        }
    }
}

impl Acl {
    /// The groups that count.
    fn groups<'g>(&'g self, consumer: &'g Consumer) -> impl Iterator<Item = &'g str> {
        let member_of = self.include_consumer_groups.then(|| self.identities.groups_of(consumer));
        consumer.groups.iter().map(String::as_str).chain(member_of.into_iter().flatten())
    }

    /// Judges by groups that the credential itself brings.
    fn judge_own(&self, exchange: &mut Exchange, groups: &[String]) -> Flow {
        if !self.rule.admits(groups.iter().map(String::as_str)) {
            return forbidden();
        }
        let value = HeaderValue::from_bytes(groups.join(", ").as_bytes()).ok();
        self.tell(exchange, AUTHENTICATED_GROUPS, value);
        Flow::Continue
    }

    /// Tells the upstream the groups that counted, and no others.
    fn tell(&self, exchange: &mut Exchange, name: HeaderName, value: Option<HeaderValue>) {
        let headers = &mut exchange.request.headers;
        headers.remove(AUTHENTICATED_GROUPS);
        headers.remove(CONSUMER_GROUPS);
        if let Some(value) = value.filter(|_| !self.hide_groups_header) {
            headers.insert(name, value);
        }
    }

    /// `X-Consumer-Groups`.
    fn header(&self, consumer: &Consumer) -> HeaderValue {
        let own = || consumer.groups_header.clone();
        if !self.include_consumer_groups || consumer.member_of.is_empty() {
            return own().unwrap_or(HeaderValue::from_static(""));
        }
        let names: Vec<&str> = self.groups(consumer).collect();
        HeaderValue::from_str(&names.join(", ")).ok().or_else(own).unwrap_or(HeaderValue::from_static(""))
    }
}

impl Plugin for Acl {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let known = exchange.credential().is_some();
        let consumer = exchange.consumer().and_then(|index| self.identities.consumer(index));
        let own = exchange.groups().filter(|_| consumer.is_none() || self.prefer_own).cloned();
        if let Some(groups) = own {
            return self.judge_own(exchange, &groups);
        }
        // Kong: without a credential it is 401 for whoever has no group that could be allowed.
        let nameless = match consumer {
            None => true,
            Some(consumer) => self.groups(consumer).next().is_none() && matches!(self.rule, Rule::Allow(_)),
        };
        let Some(consumer) = consumer.filter(|c| !nameless && self.rule.admits(self.groups(c))) else {
            return if nameless && !known { unauthorized() } else { forbidden() };
        };
        let value = self.header(consumer);
        self.tell(exchange, CONSUMER_GROUPS, Some(value));
        Flow::Continue
    }
}

fn unauthorized() -> Flow {
    Reply::templated(KIND.name, StatusCode::UNAUTHORIZED, default_message(401)).into()
}

fn forbidden() -> Flow {
    Reply::templated(KIND.name, StatusCode::FORBIDDEN, "You cannot consume this service").into()
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;
    use crate::proxy::exchange::Authenticated;

    const FORBIDDEN: &str = "403 You cannot consume this service";
    const UNAUTHORIZED: &str = "401 Unauthorized";

    fn caller(consumer: Option<u32>, credential: bool) -> Exchange {
        let mut exchange =
            Exchange::for_test("GET", "/", &[("x-consumer-groups", "admin"), ("x-authenticated-groups", "admin")]);
        if consumer.is_some() || credential {
            exchange.authenticated =
                Some(Authenticated { consumer, credential: credential.then(|| Arc::from("c")), groups: None });
        }
        exchange
    }

    #[test]
    fn groups_decide() {
        let (alice, bob, nobody) = (Some(0), Some(1), Some(2));
        for (config, consumer, credential, expected) in [
            ("allow: [admin]", alice, true, "continue"),
            ("allow: [other, pro]", alice, true, "continue"),
            ("allow: [other]", alice, true, FORBIDDEN),
            ("allow: [ADMIN]", alice, true, FORBIDDEN),
            ("allow: []", alice, true, FORBIDDEN),
            ("allow: [admin]", bob, true, FORBIDDEN),
            ("allow: [admin]", nobody, false, UNAUTHORIZED),
            ("allow: [admin]", None, false, UNAUTHORIZED),
            ("allow: [admin]", None, true, FORBIDDEN),
            ("allow: [admin]", Some(99), true, FORBIDDEN),
            ("deny: [admin]", alice, true, FORBIDDEN),
            ("deny: [other, pro]", alice, true, FORBIDDEN),
            ("deny: [other]", alice, true, "continue"),
            ("deny: [admin]", bob, true, "continue"),
            ("deny: [admin]", nobody, false, "continue"),
            ("deny: [admin]", None, false, UNAUTHORIZED),
            ("deny: []", None, true, FORBIDDEN),
        ] {
            let plugin = plugin("acl", config, &identities(Vec::new()));
            assert_eq!(
                answer(&plugin, &mut caller(consumer, credential)),
                expected,
                "{config} {consumer:?} {credential}"
            );
        }
    }

    #[test]
    fn the_upstream_sees_the_groups_of_the_file_alone() {
        let people = identities(Vec::new());
        for (config, consumer, groups) in [
            ("allow: [admin]", 0, Some("admin, pro")),
            ("{allow: [admin], hide_groups_header: true}", 0, None),
            ("{allow: [admin], always_use_authenticated_groups: true}", 0, Some("admin, pro")),
            ("deny: [admin]", 1, Some("")),
        ] {
            let mut exchange = caller(Some(consumer), true);
            assert_eq!(answer(&plugin("acl", config, &people), &mut exchange), "continue");
            assert_eq!(upstream(&exchange, "x-consumer-groups"), groups, "{config}");
            assert_eq!(upstream(&exchange, "x-authenticated-groups"), None);
        }
    }

    #[test]
    fn exactly_one_list_is_given() {
        assert!(problems("acl", "{}").contains("neither `allow` nor `deny`"));
        assert!(problems("acl", "{allow: [a], deny: [b]}").contains("k.yml:1:14: error: both `allow` and `deny`"));
        assert!(problems("acl", "allow: admin").contains("expected: a list"));
        assert!(problems("acl", "whitelist: [a]").contains("unknown field `whitelist`"));
    }
}
