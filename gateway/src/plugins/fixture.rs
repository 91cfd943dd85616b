//! For the tests of plugins: compiles one from YAML as the configuration compiler does, and makes the things around it.

use std::rc::Rc;
use std::sync::Arc;

use super::{Flow, Kind, Plugin, Setup, Shared};
use crate::document::{Fields, Report, tree};
use crate::identity::{Consumer, Identities};
use crate::proxy::exchange::{Exchange, Response, RouteInfo, RouteRef, ServiceInfo};
use crate::proxy::reply::Reply;
use crate::telemetry::writer::LogWriter;

/// Fresh counters, circuits and a log writer.
pub fn shared() -> Arc<Shared> {
    let (writer, _) = LogWriter::start().expect("a thread");
    Arc::new(Shared::new(writer))
}

/// Two consumers, `alice` (index 0) and `bob` (index 1).
pub fn identities() -> Arc<Identities> {
    let mut identities = Identities::default();
    for name in ["alice", "bob"] {
        identities.add_consumer(Consumer {
            id: format!("id-of-{name}"),
            username: Some(name.to_owned()),
            custom_id: None,
            groups: Vec::new(),
            member_of: Vec::new(),
            member_of_header: None,
            id_header: name.parse().expect("header"),
            username_header: None,
            custom_id_header: None,
            groups_header: None,
        });
    }
    Arc::new(identities)
}

/// What a compiled `config` gives: the plugin and the text of the report.
pub fn compile(kind: &Kind, config: &str, allow: bool, shared: &Arc<Shared>) -> (Option<Arc<dyn Plugin>>, String) {
    let tree = tree::parse(config).expect("YAML");
    let report = Report::new("kong.yml", allow);
    let plugin = {
        let fields = Fields::of(&tree, "config", &report).expect("a map");
        let place = tree.place;
        let identities = identities();
        let (route, service, group) = ("r1", "s1", "");
        let setup = Setup { identities: &identities, shared, report: &report, place, id: "p", route, service, group };
        (kind.compile)(&fields, &setup)
    };
    (plugin, report.to_string())
}

/// The plugin of a `config` without fault.
pub fn good(kind: &Kind, config: &str) -> Arc<dyn Plugin> {
    let (plugin, report) = compile(kind, config, false, &shared());
    assert!(report.is_empty(), "{report}");
    plugin.expect("compiles")
}

/// The report about a faulty `config`.
pub fn bad(kind: &Kind, config: &str) -> String {
    let (_, report) = compile(kind, config, false, &shared());
    assert!(report.contains("error") || report.contains("unsupported"), "{config}: {report:?}");
    report
}

/// A route, with a service unless its id is empty.
pub fn route(id: &str, service: &str) -> RouteRef {
    let entity = serde_json::json!({ "id": id });
    let service = (!service.is_empty())
        .then(|| Arc::new(ServiceInfo { id: service.into(), name: String::new(), entity: entity.clone() }));
    Rc::new(Arc::new(RouteInfo { index: 0, id: id.into(), name: String::new(), service, entity }))
}

/// The reply of a plugin that must answer.
pub fn reply(plugin: &Arc<dyn Plugin>, exchange: &mut Exchange) -> Reply {
    match plugin.on_request(exchange) {
        Flow::Reply(reply) => *reply,
        Flow::Continue => panic!("the request passed"),
        Flow::Wait(_) => panic!("the plugin asks somebody"),
    }
}

/// Runs a plugin that must let the request pass.
pub fn pass(plugin: &Arc<dyn Plugin>, exchange: &mut Exchange) {
    match plugin.on_request(exchange) {
        Flow::Continue => {}
        Flow::Reply(reply) => panic!("answered {}", reply.status),
        Flow::Wait(_) => panic!("the plugin asks somebody"),
    }
}

/// The value of a header that is put on the answer.
pub fn told(exchange: &Exchange, name: &str) -> Option<String> {
    let (_, value, _) = exchange.response_headers.iter().rev().find(|(n, _, _)| n == name)?;
    Some(value.to_str().expect("text").to_owned())
}

/// An upstream's answer.
pub fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::try_from(*name).expect("name"), value.parse().expect("value"));
    }
    let body = Some(bytes::Bytes::copy_from_slice(body.as_bytes()));
    Response {
        status: http::StatusCode::from_u16(status).expect("status"),
        headers: map,
        body,
        from_upstream: true,
        without_body: false,
    }
}
