//! Kong's `plugins`: which instance runs on which route, in which order, for whom. Scope precedence is resolved here once,
//! so that a request walks a slice.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::compile::{duplicate, reference};
use super::parts::Names;
use super::snapshot::{Chain, Instance, PluginInfo, Protocols, Slot};
use super::{ids, routes};
use crate::document::{Fields, Node, Place, Report, Value};
use crate::identity::Identities;
use crate::plugins::{Kind, Plugin, REGISTRY, Setup, Shared};

pub use super::snapshot::Scope;

/// A plugin entity, not yet compiled.
pub struct Draft<'a> {
    /// Its node.
    pub node: &'a Node,
    /// Where it was nested.
    pub scope: Scope,
}

/// One compiled plugin entity.
struct Declared {
    kind: &'static Kind,
    scope: Scope,
    plugin: Arc<dyn Plugin>,
    protocols: Protocols,
    instance_name: Option<String>,
    info: Arc<PluginInfo>,
}

/// All plugin entities of a file.
#[derive(Default)]
pub struct Declarations(Vec<Declared>);

/// Compiles every plugin entity.
pub fn read(
    drafts: &[Draft<'_>],
    names: &Names<'_>,
    identities: &Arc<Identities>,
    shared: &Arc<Shared>,
    report: &Report,
) -> Declarations {
    let mut seen = HashMap::new();
    let mut instances: HashMap<String, Place> = HashMap::new();
    let mut declared = Vec::new();
    for draft in drafts {
        if let Some((plugin, enabled)) = read_one(draft, names, identities, shared, report) {
            if let Some(name) = &plugin.instance_name
                && let Some(first) = instances.insert(name.clone(), draft.node.place)
            {
                duplicate(report, draft.node.place, "plugins", ("instance_name", name), Some(first));
            }
            if let Some(first) = seen.insert((plugin.kind.name, plugin.scope), draft.node.place) {
                let message = format!(
                    "uniqueness violation: 'plugins' entity with name set to '{}' already declared in this scope \
                     (first at {})",
                    plugin.kind.name,
                    report.at(first)
                );
                report.error(draft.node.place, message);
            } else if enabled {
                declared.push(plugin);
            }
        }
    }
    Declarations(declared)
}

fn read_one(
    draft: &Draft<'_>,
    names: &Names<'_>,
    identities: &Arc<Identities>,
    shared: &Arc<Shared>,
    report: &Report,
) -> Option<(Declared, bool)> {
    let f = Fields::of(draft.node, "plugin", report)?;
    for other in ["ordering", "condition", "partials"] {
        if f.node(other).is_some() {
            report.error(f.place_of(other), format!("`{other}` of a plugin is a field of Kong's enterprise edition"));
        }
    }
    let instance_name = f.string("instance_name");
    let enabled = f.boolean("enabled").unwrap_or(true);
    let streams = matches!(draft.node.member("name").map(|n| &n.value), Some(Value::Str(s)) if s == "ip-restriction");
    let everywhere = if streams { Protocols(15 | Protocols::STREAM.0) } else { Protocols(15) };
    let protocols = routes::protocols(&f, "protocols", everywhere)?;
    let scope = scope(&f, draft.scope, names, identities);
    let config = f.node("config");
    let place = f.place_of("name");
    let name = f.required_string("name");
    ids::skip_common(&f);
    let (scope, name) = (scope?, name?);
    let kind = known(&name, place, report)?;
    if (scope.consumer.is_some() || scope.group.is_some()) && !kind.consumer_scope {
        report.mismatch(
            place,
            format!("plugin `{name}` cannot be configured for a consumer or a consumer group"),
            "a route, a service, or no scope",
        );
        return None;
    }
    let id = ids::of_entity(&f, "plugins", Some(&name)).to_string();
    let setup = Setup {
        identities,
        shared,
        report,
        place: draft.node.place,
        id: &id,
        route: scope.route.map_or("", |r| names.routes[r].0.as_str()),
        service: scope.service.map_or("", |s| names.services[s].0.as_str()),
        group: scope.group.and_then(|g| identities.consumer_groups.get(g as usize)).map_or("", |g| g.id.as_str()),
    };
    let plugin = match config {
        Some(node) => (kind.compile)(&Fields::of(node, "config", report)?, &setup),
        None => (kind.compile)(&Fields::empty(draft.node.place, "config", report), &setup),
    }?;
    let info = Arc::new(PluginInfo { id, scope, place: draft.node.place });
    Some((Declared { kind, scope, plugin, protocols, instance_name, info }, enabled))
}

/// The scope: where it is nested and what it refers to.
fn scope(f: &Fields<'_>, nested: Scope, names: &Names<'_>, identities: &Identities) -> Option<Scope> {
    let mut scope = nested;
    let mut ok = true;
    for (key, plural) in
        [("route", "routes"), ("service", "services"), ("consumer", "consumers"), ("consumer_group", "consumer_groups")]
    {
        let Some(node) = f.node(key) else { continue };
        let parent = match key {
            "route" => nested.route.is_some(),
            "service" => nested.service.is_some(),
            "consumer_group" => nested.group.is_some(),
            _ => nested.consumer.is_some(),
        };
        if parent {
            f.report.mismatch(node.place, format!("`{key}` inside of a {key}"), "value must be null");
            ok = false;
            continue;
        }
        let name = reference(node).unwrap_or_default();
        let found = match key {
            "route" => {
                let found = names.route(&name);
                scope.route = scope.route.or(found);
                found.is_some()
            }
            "service" => {
                let found = names.service(&name);
                scope.service = scope.service.or(found);
                found.is_some()
            }
            "consumer_group" => {
                let found = identities.group_named(&name);
                scope.group = scope.group.or(found);
                found.is_some()
            }
            _ => {
                let found = identities.consumer_named(&name);
                scope.consumer = scope.consumer.or(found);
                found.is_some()
            }
        };
        if !found {
            f.report.error(node.place, format!("invalid reference '{key}: {name}' (no such entry in '{plural}')"));
            ok = false;
        }
    }
    if scope.consumer.is_some() && scope.group.is_some() {
        f.report.mismatch(f.place(), "a plugin for a consumer and a consumer group", "one of them");
        ok = false;
    }
    ok.then_some(scope)
}

/// Kong's open-source plugins that are recognised and not built.
const NOT_BUILT: &[&str] = &[
    "acme",
    "ai-prompt-decorator",
    "ai-prompt-guard",
    "ai-prompt-template",
    "ai-proxy",
    "ai-request-transformer",
    "ai-response-transformer",
    "aws-lambda",
    "azure-functions",
    "datadog",
    "grpc-gateway",
    "grpc-web",
    "http-log",
    "loggly",
    "oauth2",
    "opentelemetry",
    "post-function",
    "pre-function",
    "proxy-cache",
    "standard-webhooks",
    "statsd",
    "syslog",
    "tcp-log",
    "udp-log",
    "zipkin",
];

/// Plugins of Kong's enterprise edition.
const ENTERPRISE: &[&str] = &[
    "canary",
    "degraphql",
    "exit-transformer",
    "forward-proxy",
    "graphql-rate-limiting-advanced",
    "injection-protection",
    "jq",
    "json-threat-protection",
    "jwe-decrypt",
    "jwt-signer",
    "kafka-log",
    "kafka-upstream",
    "key-auth-enc",
    "ldap-auth-advanced",
    "mocking",
    "oas-validation",
    "opa",
    "proxy-cache-advanced",
    "request-callout",
    "request-transformer-advanced",
    "request-validator",
    "response-transformer-advanced",
    "route-by-header",
    "route-transformer-advanced",
    "saml",
    "service-protection",
    "statsd-advanced",
    "upstream-oauth",
    "upstream-timeout",
    "vault-auth",
    "websocket-size-limit",
    "websocket-validator",
    "xml-threat-protection",
];

fn known(name: &str, place: crate::document::Place, report: &Report) -> Option<&'static Kind> {
    if let Some(kind) = crate::plugins::kind(name) {
        return Some(kind);
    }
    if NOT_BUILT.contains(&name) {
        report.unsupported(place, format!("plugin `{name}`"), None);
    } else if ENTERPRISE.contains(&name) {
        report.error(place, format!("`{name}` is a plugin of Kong's enterprise edition"));
    } else {
        let names: Vec<&str> = REGISTRY.iter().map(|k| k.name).chain(NOT_BUILT.iter().copied()).collect();
        report.unknown(place, format!("unknown plugin `{name}`"), name, &names);
    }
    None
}

impl Declarations {
    /// Number of plugins in force.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// An index that makes the chain of a route in time of its own plugins, not of all.
    #[must_use]
    pub fn index(&self) -> Index<'_> {
        let mut index = Index::default();
        for declared in &self.0 {
            let slot = match (declared.scope.route, declared.scope.service) {
                (Some(route), _) => index.by_route.entry(route).or_default(),
                (None, Some(service)) => index.by_service.entry(service).or_default(),
                (None, None) => &mut index.everywhere,
            };
            slot.push(declared);
        }
        index
    }
}

/// Declarations by where they hold.
#[derive(Default)]
pub struct Index<'a> {
    by_route: HashMap<usize, Vec<&'a Declared>>,
    by_service: HashMap<usize, Vec<&'a Declared>>,
    everywhere: Vec<&'a Declared>,
}

impl Index<'_> {
    /// The chain of a request that no route takes: plugins that hold everywhere. Nothing is measured of it, as with Kong.
    #[must_use]
    pub fn unmatched(&self) -> Chain {
        Chain { metrics: None, ..self.chain(None, None) }
    }

    /// The chain of a route and its service: for each kind the most specific instance (Kong's scope precedence,
    /// `Scope::weight`).
    #[must_use]
    pub fn chain(&self, route: Option<usize>, service: Option<usize>) -> Chain {
        let own = route.and_then(|r| self.by_route.get(&r)).into_iter().flatten();
        let of_service = service.and_then(|s| self.by_service.get(&s)).into_iter().flatten();
        let mut slots: BTreeMap<usize, Slot> = BTreeMap::new();
        for declared in own.chain(of_service).chain(&self.everywhere) {
            // A plugin scoped to a route and another route's service never runs.
            if declared.scope.service.is_some() && declared.scope.service != service {
                continue;
            }
            let Some(order) = REGISTRY.iter().position(|k| k.name == declared.kind.name) else { continue };
            let slot = slots.entry(order).or_insert_with(|| Slot {
                kind: declared.kind,
                base: None,
                consumers: HashMap::new(),
                groups: HashMap::new(),
            });
            let known = match (declared.scope.consumer, declared.scope.group) {
                (Some(consumer), _) => slot.consumers.get(&consumer),
                (None, Some(group)) => slot.groups.get(&group),
                (None, None) => slot.base.as_ref(),
            };
            if known.is_some_and(|known| known.info.scope.weight() >= declared.scope.weight()) {
                continue;
            }
            let instance = Instance {
                plugin: Arc::clone(&declared.plugin),
                protocols: declared.protocols,
                info: Arc::clone(&declared.info),
            };
            match (declared.scope.consumer, declared.scope.group) {
                (Some(consumer), _) => drop(slot.consumers.insert(consumer, instance)),
                (None, Some(group)) => drop(slot.groups.insert(group, instance)),
                (None, None) => slot.base = Some(instance),
            }
        }
        let mut slots: Vec<Slot> = slots.into_values().collect();
        for slot in &mut slots {
            // Route and service together beat the consumer alone.
            if let Some(base) = &slot.base {
                slot.consumers.retain(|_, own| own.info.scope.weight() > base.info.scope.weight());
            }
        }
        let instances =
            || slots.iter().flat_map(|s| s.base.iter().chain(s.consumers.values()).chain(s.groups.values()));
        let metrics = slots.iter().find_map(|s| s.base.as_ref()?.plugin.metrics());
        let logs = instances().any(|i| i.plugin.logs());
        let limits = |slot: &Slot| {
            let mut instances = slot.base.iter().chain(slot.consumers.values()).chain(slot.groups.values());
            instances.any(|i| i.plugin.quota().is_some())
        };
        let limiters = slots.iter().enumerate().filter(|(_, slot)| limits(slot)).map(|(at, _)| at).collect();
        Chain { slots, metrics, logs, limiters }
    }
}
