//! Services and routes of a file as they are read, one after the other, each with what is nested in it.

use std::collections::HashMap;
use std::sync::Arc;

use super::compile::{duplicate, reference};
use super::plugins::{Draft, Scope};
use super::services::Upstreams;
use super::settings::Flavor;
use super::snapshot::{Route, Service};
use super::{routes, services, stream};
use crate::document::{Node, Place, Report, Value};
use crate::router::pattern::HostPattern;
use crate::router::stream::StreamMatchers;
use crate::router::{Matchers, Rule};

/// What was read so far.
pub struct Parts<'a> {
    /// To resolve references.
    pub names: Names<'a>,
    /// Plugins, nested in services and routes.
    pub drafts: Vec<Draft<'a>>,
    /// Services in file order.
    pub services: Vec<Service>,
    /// Routes; those of streams come last.
    pub routes: Vec<Route>,
    /// The names that a route is for, of TLS clients; without any it is for all.
    pub snis: Vec<Option<Vec<HostPattern>>>,
    /// What the router's table asks.
    pub matchers: Vec<Matchers>,
    /// Which route each place of the table is.
    pub of_table: Vec<usize>,
    /// Routes by expression.
    pub rules: Vec<Rule>,
    /// What stream routes ask.
    pub streams: Vec<StreamMatchers>,
    enabled: Vec<bool>,
    flavor: Flavor,
    report: &'a Report,
}

/// A route that is to be read, with the service that it is nested in.
type Nested<'a> = (&'a Node, usize);

impl<'a> Parts<'a> {
    /// Nothing yet.
    #[must_use]
    pub fn new(flavor: Flavor, report: &'a Report) -> Self {
        Parts {
            names: Names { report: Some(report), ..Names::default() },
            drafts: Vec::new(),
            services: Vec::new(),
            routes: Vec::new(),
            snis: Vec::new(),
            matchers: Vec::new(),
            of_table: Vec::new(),
            rules: Vec::new(),
            streams: Vec::new(),
            enabled: Vec::new(),
            flavor,
            report,
        }
    }

    /// Reads `services`; returns the routes that are nested in them.
    pub fn services(&mut self, nodes: &'a [Node], upstreams: &Upstreams) -> Vec<Nested<'a>> {
        let mut nested = Vec::new();
        for node in nodes {
            let Some(draft) = services::read(node, self.report, upstreams) else { continue };
            let index = self.services.len();
            self.names.add("services", &draft.id, &draft.name, draft.place);
            let scope = Scope { service: Some(index), ..Scope::default() };
            self.drafts.extend(draft.plugins.iter().map(|node| Draft { node, scope }));
            nested.extend(draft.routes.iter().map(|node| (node, index)));
            self.services.push(draft.service);
            self.enabled.push(draft.enabled);
        }
        nested
    }

    /// Reads the routes that are nested in services, and those at top level.
    pub fn routes(&mut self, nested: Vec<Nested<'a>>, top: &'a [Node]) {
        let mut nodes: Vec<(&Node, Option<usize>)> = nested.into_iter().map(|(node, at)| (node, Some(at))).collect();
        nodes.extend(top.iter().map(|node| (node, None)));
        // Without expressions the router's table knows the first of the list: streams come behind them.
        nodes.sort_by_key(|(node, _)| stream::is_stream(node));
        for (node, owner) in nodes {
            self.route(node, owner);
        }
    }

    fn route(&mut self, node: &'a Node, parent: Option<usize>) {
        let (top, report, index) = (parent.is_none(), self.report, self.routes.len());
        let Some(owner) = service_of(node, parent, &self.names, report) else { return };
        let is_stream = stream::is_stream(node);
        if owner.is_some_and(|at| self.services[at].stream != is_stream) || (owner.is_none() && is_stream) {
            report.error(node.place, "the protocols of a route and of its service are of different families");
            return;
        }
        let parent = owner.map(|index| routes::Parent { index, info: Arc::clone(&self.services[index].info) });
        let disabled = owner.is_some_and(|at| !self.enabled[at]);
        let read = match parent {
            Some(parent) if is_stream => {
                stream::read(node, parent, top, index, report).map(|(draft, asks)| (draft, Some(asks)))
            }
            parent => routes::read(node, parent, top, index, self.flavor, report).map(|draft| (draft, None)),
        };
        let Some((draft, stream)) = read.filter(|_| !disabled) else { return };
        self.streams.extend(stream);
        self.names.add("routes", &draft.id, &draft.name, draft.place);
        let scope = Scope { route: Some(index), ..Scope::default() };
        self.drafts.extend(draft.plugins.iter().map(|node| Draft { node, scope }));
        // An expression may ask for names as well, and for other things instead.
        let snis = Some(&draft.matchers.snis).filter(|snis| !snis.is_empty() && draft.rule.is_none());
        self.snis.push(snis.cloned());
        match draft.rule {
            Some(rule) => self.rules.push(rule),
            None => {
                self.of_table.push(index);
                self.matchers.push(draft.matchers);
            }
        }
        self.routes.push(draft.route);
    }
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

/// The service of a route: its parent, or the one that it refers to. `None` when the reference leads nowhere.
fn service_of(node: &Node, parent: Option<usize>, names: &Names<'_>, report: &Report) -> Option<Option<usize>> {
    let given = node.member("service").filter(|n| !matches!(n.value, Value::Null));
    let Some(given) = given else { return Some(parent) };
    if parent.is_some() {
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
