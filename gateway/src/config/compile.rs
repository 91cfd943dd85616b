//! The compiler: texts in, a snapshot or a list of everything that is wrong out.

use std::sync::Arc;

use super::handshake::Handshake;
use super::parts::Parts;
use super::prepare::{self, Dialect};
use super::snapshot::{Counts, Snapshot};
use super::sources::Bundle;
use super::{Environment, certificates, consumers, edge, keys, plugins, services, settings};
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
    foreign(&f);
    let keys = keys::read(&f);
    let authorities = keys::authorities(&f);
    let certificates = certificates::read(&f);
    let mut settings = settings::read(f.node("gateway"), certificates.is_some(), &load.env, report);
    let upstream_nodes = f.list("upstreams").unwrap_or_default();
    let upstreams = services::read_upstreams(upstream_nodes, f.list("targets").unwrap_or_default(), shared, report);
    let consumers::Read { identities, plugins: of_consumers, group_plugins } = consumers::read(&f, authorities);
    edge::enroll(&f, &mut settings, &identities);
    let identities = Arc::new(identities);

    let mut parts = Parts::new(settings.router_flavor, report);
    let nested = parts.services(f.list("services").unwrap_or_default(), &upstreams);
    parts.routes(nested, f.list("routes").unwrap_or_default());
    let Parts { names, mut drafts, services, mut routes, snis, matchers, rules, of_table, streams, .. } = parts;
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
    let tls = certificates.map(|certificates| Handshake::new(certificates, routes.iter().zip(snis)));
    Some(Snapshot {
        settings,
        groups: upstreams.into_values().map(|(_, group)| group).collect(),
        services,
        routes,
        router: Routes::new(rules, Router::new(matchers), of_table),
        stream: StreamRouter::new(streams),
        stream_tls: tls.as_ref().map(Handshake::for_streams),
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

/// Keys of the root that say nothing here, and those that say what is not built.
fn foreign(f: &Fields<'_>) {
    format_version(f);
    for key in ["_comment", "_ignore", "workspaces"] {
        f.skip(key);
    }
    f.boolean("_transform");
    for key in FOREIGN {
        if f.node(key).is_some() {
            f.report.error(f.place_of(key), format!("`{key}` is a key of decK or of Kong's enterprise edition"));
        }
    }
    for key in NOT_BUILT {
        if f.list(key).is_some_and(|l| !l.is_empty()) {
            f.report.unsupported(f.place_of(key), format!("`{key}`"), None);
        }
    }
}

/// Checks `_format_version`; what older ones mean was rewritten before.
fn format_version(f: &Fields<'_>) {
    if f.require("_format_version") {
        f.choice("_format_version", &[("1.1", ()), ("2.1", ()), ("3.0", ())]);
    }
    f.skip("_format_version");
}
