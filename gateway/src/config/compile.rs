//! The compiler: a text in, a snapshot or a list of everything that is wrong out.

use std::collections::HashMap;
use std::sync::Arc;

use super::snapshot::{Counts, Snapshot};
use super::{Environment, certificates, consumers, plugins, routes, services, settings, stream};
use crate::document::{Fields, Node, Report, Value, tree};
use crate::identity::digest;
use crate::plugins::Shared;
use crate::router::Router;
use crate::router::stream::StreamRouter;

/// The outcome of a compilation.
pub struct Compiled {
    /// What is wrong or worth mending.
    pub report: Report,
    /// The configuration, when nothing is fatally wrong.
    pub snapshot: Option<Snapshot>,
}

/// Ids and names of services and routes, to resolve references.
#[derive(Default)]
pub struct Names<'a> {
    /// (id, name) by place.
    pub services: Vec<(String, String)>,
    /// (id, name) by place.
    pub routes: Vec<(String, String)>,
    services_by: HashMap<String, usize>,
    routes_by: HashMap<String, usize>,
    report: Option<&'a Report>,
}

impl Names<'_> {
    /// The service of a name or id.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<usize> {
        self.services_by.get(name).copied()
    }

    /// The route of a name or id.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<usize> {
        self.routes_by.get(name).copied()
    }

    fn add(&mut self, kind: &str, id: &str, name: &str, place: tree::Place) {
        let (list, by) = match kind {
            "services" => (&mut self.services, &mut self.services_by),
            _ => (&mut self.routes, &mut self.routes_by),
        };
        let index = list.len();
        let double_id = by.insert(id.to_owned(), index).is_some();
        let double_name = !name.is_empty() && by.insert(name.to_owned(), index).is_some();
        if let Some(report) = self.report
            && (double_id || double_name)
        {
            let (key, value) = if double_name { ("name", name) } else { ("id", id) };
            report.error(
                place,
                format!("uniqueness violation: '{kind}' entity with {key} set to '{value}' already declared"),
            );
        }
        list.push((id.to_owned(), name.to_owned()));
    }
}

/// A reference to another entity: a name or id, or a map with one of them.
#[must_use]
pub fn reference(node: &Node) -> Option<String> {
    match &node.value {
        Value::Str(name) => Some(name.clone()),
        _ => ["id", "name", "username"].iter().find_map(|k| node.member(k)).and_then(|n| match &n.value {
            Value::Str(name) => Some(name.clone()),
            _ => None,
        }),
    }
}

/// Arrays of Kong's format that are accepted when they are empty, and refused by name else.
const NOT_BUILT: &[&str] = &[
    "ca_certificates",
    "vaults",
    "keys",
    "key_sets",
    "filter_chains",
    "parameters",
    "clustering_data_planes",
    "oauth2_authorization_codes",
    "oauth2_tokens",
    "sessions",
    "acme_storage",
];

/// Keys of decK's dialect and of the enterprise edition.
const FOREIGN: &[&str] = &[
    "_info",
    "_workspace",
    "_konnect",
    "_plugin_configs",
    "consumer_groups",
    "consumer_group_consumers",
    "consumer_group_plugins",
    "rbac_roles",
    "partials",
    "licenses",
    "service_packages",
    "plugins_partials",
];

/// Compiles the text of a Kong file.
#[must_use]
pub fn compile(text: &str, file: &str, allow_unsupported: bool, env: &Environment, shared: &Arc<Shared>) -> Compiled {
    let report = Report::new(file, allow_unsupported);
    let tree = match tree::parse(text) {
        Ok(tree) => tree,
        Err((place, words)) => {
            report.error(place, words);
            return Compiled { report, snapshot: None };
        }
    };
    let snapshot = root(&tree, text, env, shared, &report);
    let snapshot = if report.fatal() { None } else { snapshot };
    Compiled { report, snapshot }
}

fn root(tree: &Node, text: &str, env: &Environment, shared: &Arc<Shared>, report: &Report) -> Option<Snapshot> {
    let f = Fields::of(tree, "the file", report)?;
    let old_paths = format_version(&f);
    for key in ["_comment", "_ignore"] {
        f.skip(key);
    }
    f.boolean("_transform");
    for key in FOREIGN {
        if f.node(key).is_some() {
            report.error(f.place_of(key), format!("`{key}` is a key of decK or of Kong's enterprise edition"));
        }
    }
    for key in NOT_BUILT {
        if f.list(key).is_some_and(|l| !l.is_empty()) {
            report.unsupported(f.place_of(key), format!("`{key}`"), None);
        }
    }
    f.skip("workspaces");

    let tls = certificates::read(&f);
    let settings = settings::read(f.node("gateway"), tls.is_some(), env, report);
    let upstream_nodes = f.list("upstreams").unwrap_or_default();
    let upstreams = services::read_upstreams(upstream_nodes, f.list("targets").unwrap_or_default(), shared, report);
    let consumers::Read { identities, plugins: of_consumers } = consumers::read(&f);
    let identities = Arc::new(identities);

    let mut names = Names { report: Some(report), ..Names::default() };
    let mut drafts: Vec<plugins::Draft<'_>> = Vec::new();
    let mut services = Vec::new();
    let mut enabled = Vec::new();
    let mut route_nodes: Vec<(&Node, Option<usize>, bool)> = Vec::new();
    for node in f.list("services").unwrap_or_default() {
        let Some(draft) = services::read(node, report, &upstreams) else { continue };
        let index = services.len();
        names.add("services", &draft.id, &draft.name, draft.place);
        let scope = plugins::Scope { service: Some(index), ..plugins::Scope::default() };
        drafts.extend(draft.plugins.iter().map(|node| plugins::Draft { node, scope }));
        route_nodes.extend(draft.routes.iter().map(|node| (node, Some(index), false)));
        services.push(draft.service);
        enabled.push(draft.enabled);
    }
    route_nodes.extend(f.list("routes").unwrap_or_default().iter().map(|node| (node, None, true)));

    let mut routes = Vec::new();
    let mut matchers = Vec::new();
    let mut streams = Vec::new();
    // The router's table knows the first of the list: streams come behind them.
    route_nodes.sort_by_key(|(node, ..)| stream::is_stream(node));
    for (node, owner, top) in route_nodes {
        let Some(owner) = service_of(node, owner, top, &names, report) else { continue };
        let is_stream = stream::is_stream(node);
        if owner.is_some_and(|index| services[index].stream != is_stream) || (owner.is_none() && is_stream) {
            report.error(node.place, "the protocols of a route and of its service are of different families");
            continue;
        }
        let parent = owner.map(|index| routes::Parent { index, info: Arc::clone(&services[index].info) });
        let draft = match parent {
            Some(parent) if is_stream => stream::read(node, parent, top, routes.len(), report).map(|(draft, asks)| {
                streams.push(asks);
                draft
            }),
            parent => routes::read(node, parent, top, routes.len(), old_paths, report),
        };
        let Some(draft) = draft else { continue };
        if owner.is_some_and(|index| !enabled[index]) {
            streams.retain(|asks| asks.route != routes.len());
            continue;
        }
        names.add("routes", &draft.id, &draft.name, draft.place);
        let scope = plugins::Scope { route: Some(routes.len()), ..plugins::Scope::default() };
        drafts.extend(draft.plugins.iter().map(|node| plugins::Draft { node, scope }));
        routes.push(draft.route);
        if !is_stream {
            matchers.push(draft.matchers);
        }
    }
    let everywhere = f.list("plugins").unwrap_or_default();
    drafts.extend(everywhere.iter().map(|node| plugins::Draft { node, scope: plugins::Scope::default() }));
    drafts.extend(of_consumers.iter().map(|(node, index)| plugins::Draft {
        node,
        scope: plugins::Scope { consumer: Some(*index), ..plugins::Scope::default() },
    }));

    let declarations = plugins::read(&drafts, &names, &identities, shared, report);
    let index = declarations.index();
    for (i, route) in routes.iter_mut().enumerate() {
        route.chain = index.chain(Some(i), route.service);
    }
    let counts = Counts {
        services: services.len(),
        routes: routes.len(),
        consumers: identities.consumers.len(),
        plugins: declarations.len(),
        upstreams: upstreams.len(),
    };
    let hash = digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    Some(Snapshot {
        settings,
        groups: upstreams.into_values().map(|(_, group)| group).collect(),
        services,
        routes,
        router: Router::new(matchers),
        stream: StreamRouter::new(streams),
        stream_tls: tls.as_ref().map(|config| {
            let mut config = rustls::ServerConfig::clone(config);
            config.alpn_protocols.clear();
            Arc::new(config)
        }),
        unmatched: index.unmatched(),
        identities,
        tls,
        counts,
        hash,
        text: text.to_owned(),
    })
}

/// Checks `_format_version`; true asks for the migration of paths.
fn format_version(f: &Fields<'_>) -> bool {
    let versions = [("1.1", true), ("2.1", true), ("3.0", false)];
    if !f.require("_format_version") {
        f.skip("_format_version");
        return false;
    }
    f.choice("_format_version", &versions).unwrap_or(false)
}

/// The service of a route: its parent, or the one that it refers to. `None` when the reference leads nowhere.
fn service_of(
    node: &Node,
    owner: Option<usize>,
    top: bool,
    names: &Names<'_>,
    report: &Report,
) -> Option<Option<usize>> {
    let given = node.member("service").filter(|n| !matches!(n.value, Value::Null));
    let Some(given) = given else { return Some(owner) };
    if !top {
        report.mismatch(given.place, "`service` inside of a service", "value must be null");
        return None;
    }
    let name = reference(given).unwrap_or_default();
    let found = names.service(&name);
    if found.is_none() {
        report.error(given.place, format!("invalid reference 'service: {name}' (no such entry in 'services')"));
    }
    found.map(Some)
}
