//! The compiler: texts in, a snapshot or a list of everything that is wrong out.

use std::collections::HashMap;
use std::sync::Arc;

use super::prepare::{self, Dialect};
use super::snapshot::{Counts, Snapshot};
use super::sources::Bundle;
use super::{Environment, certificates, consumers, keys, plugins, routes, services, settings, stream};
use crate::document::{Fields, Node, Place, Report, Value};
use crate::plugins::Shared;
use crate::router::stream::StreamRouter;
use crate::router::{Router, Routes};

/// How a configuration is read, besides what stands in it.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Run what is built of a file that asks for more.
    pub allow_unsupported: bool,
    /// Variables, and whether they are filled in.
    pub dialect: Dialect,
    /// Kong's own variables.
    pub env: Environment,
}

impl Load {
    /// With the process's environment.
    #[must_use]
    pub fn from_process(allow_unsupported: bool, env_subst: bool) -> Self {
        // What is not UTF-8 cannot be asked for in a file.
        let variables = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let variables = variables.collect();
        Load { allow_unsupported, dialect: Dialect { env_subst, variables }, env: Environment::read() }
    }
}

/// The outcome of a compilation.
pub struct Compiled {
    /// What is wrong or worth mending.
    pub report: Report,
    /// The configuration, when nothing is fatally wrong.
    pub snapshot: Option<Snapshot>,
    /// The tree, when it could be read and something in it is fatally wrong.
    pub faulty: Option<Node>,
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
    service_places: Vec<Place>,
    route_places: Vec<Place>,
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

    fn add(&mut self, kind: &str, id: &str, name: &str, place: Place) {
        let (list, by, places) = match kind {
            "services" => (&mut self.services, &mut self.services_by, &mut self.service_places),
            _ => (&mut self.routes, &mut self.routes_by, &mut self.route_places),
        };
        let index = list.len();
        let double_id = by.insert(id.to_owned(), index);
        let double_name = if name.is_empty() { None } else { by.insert(name.to_owned(), index) };
        if let Some(report) = self.report
            && let Some(first) = double_name.or(double_id).and_then(|first| places.get(first))
        {
            let (key, value) = if double_name.is_some() { ("name", name) } else { ("id", id) };
            duplicate(report, place, kind, (key, value), Some(*first));
        }
        list.push((id.to_owned(), name.to_owned()));
        places.push(place);
    }
}

/// Reports an entity that stands twice, with the place of the first.
pub fn duplicate(report: &Report, place: Place, kind: &str, key: (&str, &str), first: Option<Place>) {
    let (key, value) = key;
    let first = first.map(|first| format!(" (first at {})", report.at(first))).unwrap_or_default();
    report.error(
        place,
        format!("uniqueness violation: '{kind}' entity with {key} set to '{value}' already declared{first}"),
    );
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
    "_konnect",
    "consumer_group_plugins",
    "rbac_roles",
    "partials",
    "licenses",
    "service_packages",
    "plugins_partials",
];

/// Compiles a configuration.
#[must_use]
pub fn compile(bundle: &Bundle, load: &Arc<Load>, shared: &Arc<Shared>) -> Compiled {
    let report = Report::of_files(bundle.names(), load.allow_unsupported);
    let Some(tree) = prepare::tree(bundle, &load.dialect, true, &report) else {
        return Compiled { report, snapshot: None, faulty: None };
    };
    let snapshot = root(&tree, bundle, load, shared, &report);
    if report.fatal() {
        return Compiled { report, snapshot: None, faulty: Some(tree) };
    }
    Compiled { report, snapshot, faulty: None }
}

/// Reads a tree only to learn what its readers ask.
#[cfg(test)]
pub(super) fn read_only(tree: &Node, shared: &Arc<Shared>, report: &Report) {
    let _ = root(tree, &Bundle::default(), &Arc::default(), shared, report);
}

fn root(tree: &Node, bundle: &Bundle, load: &Arc<Load>, shared: &Arc<Shared>, report: &Report) -> Option<Snapshot> {
    let f = Fields::of(tree, "the file", report)?;
    format_version(&f);
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

    let keys = keys::read(&f);
    let tls = certificates::read(&f);
    let settings = settings::read(f.node("gateway"), tls.is_some(), &load.env, report);
    let upstream_nodes = f.list("upstreams").unwrap_or_default();
    let upstreams = services::read_upstreams(upstream_nodes, f.list("targets").unwrap_or_default(), shared, report);
    let consumers::Read { identities, plugins: of_consumers, group_plugins } = consumers::read(&f);
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
    let mut rules = Vec::new();
    let mut of_table = Vec::new();
    let mut streams = Vec::new();
    // Without expressions the router's table knows the first of the list: streams come behind them.
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
            parent => routes::read(node, parent, top, routes.len(), settings.router_flavor, report),
        };
        let Some(draft) = draft else { continue };
        if owner.is_some_and(|index| !enabled[index]) {
            streams.retain(|asks| asks.route != routes.len());
            continue;
        }
        names.add("routes", &draft.id, &draft.name, draft.place);
        let scope = plugins::Scope { route: Some(routes.len()), ..plugins::Scope::default() };
        drafts.extend(draft.plugins.iter().map(|node| plugins::Draft { node, scope }));
        match draft.rule {
            Some(rule) => rules.push(rule),
            None => {
                of_table.push(routes.len());
                matchers.push(draft.matchers);
            }
        }
        routes.push(draft.route);
    }
    let everywhere = f.list("plugins").unwrap_or_default();
    drafts.extend(everywhere.iter().map(|node| plugins::Draft { node, scope: plugins::Scope::default() }));
    drafts.extend(of_consumers.iter().map(|(node, index)| plugins::Draft {
        node,
        scope: plugins::Scope { consumer: Some(*index), ..plugins::Scope::default() },
    }));
    drafts.extend(group_plugins.iter().map(|(node, index)| plugins::Draft {
        node,
        scope: plugins::Scope { group: Some(*index), ..plugins::Scope::default() },
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
    Some(Snapshot {
        settings,
        groups: upstreams.into_values().map(|(_, group)| group).collect(),
        services,
        routes,
        router: Routes::new(rules, Router::new(matchers), of_table),
        stream: StreamRouter::new(streams),
        stream_tls: tls.as_ref().map(|config| {
            let mut config = rustls::ServerConfig::clone(config);
            config.alpn_protocols.clear();
            Arc::new(config)
        }),
        unmatched: index.unmatched(),
        identities,
        tls,
        keys,
        counts,
        hash: bundle.hash(),
        bundle: bundle.clone(),
        load: Arc::clone(load),
        kept: std::sync::Mutex::default(),
    })
}

/// Checks `_format_version`; what older ones mean was rewritten before.
fn format_version(f: &Fields<'_>) {
    if f.require("_format_version") {
        f.choice("_format_version", &[("1.1", ()), ("2.1", ()), ("3.0", ())]);
    }
    f.skip("_format_version");
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
