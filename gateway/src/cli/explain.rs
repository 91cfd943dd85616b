//! `gateway explain METHOD URL`: the way of one request through a configuration, without sending it.

mod losers;

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;

use super::{Reading, look};
use crate::config::Snapshot;
use crate::config::snapshot::{Instance, PluginInfo, Protocols, Route, Service};
use crate::proxy::sanitize;
use crate::router::{Facts, Found, View, path};

/// Tells the way of a request.
#[derive(Debug, Args)]
pub struct Explain {
    /// Its method.
    method: String,
    /// Its URL, with the host that the client asks for.
    url: String,
    /// A header, `Name: value`; may be given several times.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// The configuration: files and folders.
    #[arg(short, long, env = "KONG_DECLARATIVE_CONFIG", default_value = "kong.yml")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// Routes that do not take the request, at most; the nearest come first.
    #[arg(long, default_value_t = 10)]
    losers: usize,
}

/// The request as the gateway sees it.
pub struct Asked {
    parts: Parts,
    tls: bool,
    normal: sanitize::Normal,
    port: u16,
}

impl Asked {
    fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.parts.method,
            host: &self.normal.host,
            port: self.port,
            path: &self.normal.path,
            headers: &self.parts.headers,
            sni: self.tls.then_some(self.normal.host.as_str()),
        }
    }

    fn view<'a>(&'a self, facts: &'a Facts<'a>) -> View<'a> {
        let protocol = if self.tls { "https" } else { "http" };
        let source = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        View { facts, protocol, query: self.normal.query.as_deref(), source, destination: source.ip() }
    }
}

impl Explain {
    /// Prints the way; exit code 1 when no route takes the request, 2 when the configuration cannot run.
    ///
    /// # Errors
    /// When the request is none.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let parts = self.parts()?;
        let tls = self.url.starts_with("https://");
        let Some(snapshot) = look(&self.config, &self.reading)? else { return Ok(ExitCode::from(2)) };
        let normal = match sanitize::sanitize(&parts) {
            Ok(normal) => normal,
            Err(refusal) => {
                let status = refusal.reply().status;
                writeln!(std::io::stdout(), "refused before any route: {} ({status})", refusal.word())?;
                return Ok(ExitCode::FAILURE);
            }
        };
        let port = normal.port.unwrap_or(if tls { 443 } else { 80 });
        let asked = Asked { parts, tls, normal, port };
        let facts = asked.facts();
        let found = snapshot.router.find(&asked.view(&facts));
        let mut out = String::new();
        let _ = writeln!(out, "{} {}", asked.parts.method, self.url);
        let _ = writeln!(out, "  host {}, port {port}, path {}", asked.normal.host, asked.normal.path);
        match &found {
            Some(found) => tell(&mut out, &snapshot, found, &asked),
            None => out.push_str("\nroute: none, the answer is 404 `no Route matched with those values`\n"),
        }
        losers::tell(&mut out, &snapshot, found.as_ref().map(|f| f.route), &asked, self.losers);
        write!(std::io::stdout(), "{out}")?;
        Ok(if found.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn parts(&self) -> anyhow::Result<Parts> {
        let url: http::Uri = self.url.parse().with_context(|| format!("`{}` is no URL", self.url))?;
        let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
            bail!("`{}` lacks scheme or host, such as http://example.com/path", self.url);
        };
        anyhow::ensure!(matches!(scheme, "http" | "https"), "`{scheme}` is neither http nor https");
        let target = url.path_and_query().map_or("/", |p| p.as_str());
        let mut request = http::Request::builder().method(self.method.as_str()).uri(target).body(())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        for header in &self.headers {
            let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is not `Name: value`"))?;
            let name: HeaderName = name.trim().parse().with_context(|| format!("`{name}` is no header name"))?;
            let value = HeaderValue::from_str(value.trim())?;
            if name == HOST {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        Ok(request.into_parts().0)
    }
}

fn tell(out: &mut String, snapshot: &Snapshot, found: &Found, asked: &Asked) {
    let route = &snapshot.routes[found.route];
    let service = route.service.map(|s| &snapshot.services[s]);
    let _ = writeln!(out, "\nroute: {}", route_name(route));
    if let Some(service) = service {
        let _ = writeln!(out, "  of service {}", named(&service.info.name, &service.info.id));
    }
    for reason in losers::reasons(snapshot, found.route, asked) {
        let _ = writeln!(out, "  {reason}");
    }
    if found.matched > 0 {
        let text = asked.normal.path.get(..found.matched).unwrap_or_default();
        let _ = writeln!(out, "  matched of the path: `{text}`");
    }
    for (name, value) in &found.captures {
        let _ = writeln!(out, "  capture {name} = `{value}`");
    }
    if !asked.tls && !route.protocols.has(Protocols::HTTP) && route.protocols.has(Protocols::HTTPS) {
        let _ = writeln!(out, "\nanswer: {}, the route is for https alone", route.https_redirect);
        return;
    }
    plugins(out, snapshot, route, asked);
    match service {
        Some(service) => upstream(out, route, service, found, asked),
        None => out.push_str(
            "\nupstream: none; without an answer of a plugin it is 503 `no Service found with those values`\n",
        ),
    }
}

fn route_name(route: &Route) -> String {
    named(&route.info.name, &route.info.id)
}

fn named(name: &str, id: &str) -> String {
    if name.is_empty() { id.to_owned() } else { format!("{name} ({id})") }
}

fn plugins(out: &mut String, snapshot: &Snapshot, route: &Route, asked: &Asked) {
    let protocol = if asked.tls { Protocols::HTTPS } else { Protocols::HTTP };
    let _ = writeln!(out, "\nplugins, in the order in which they run:");
    if route.chain.slots.is_empty() {
        out.push_str("  none\n");
    }
    for slot in &route.chain.slots {
        let mut line = |instance: &Instance| {
            let idle = if instance.protocols.has(protocol) { "" } else { ", not for this protocol" };
            let scope = scope(snapshot, &instance.info);
            let place = instance.info.place;
            let file = snapshot.bundle.0.get(usize::from(place.file)).map_or("", |text| text.name.as_str());
            let _ = writeln!(
                out,
                "  {:<24} priority {:<7} {scope}{idle} ({file}:{})",
                slot.kind.name, slot.kind.priority, place.line
            );
        };
        if let Some(base) = &slot.base {
            line(base);
        }
        let mut groups: Vec<_> = slot.groups.iter().collect();
        groups.sort_by_key(|(group, _)| **group);
        for (_, instance) in groups {
            line(instance);
        }
        let mut own: Vec<_> = slot.consumers.iter().collect();
        own.sort_by_key(|(consumer, _)| **consumer);
        for (_, instance) in own.iter().take(5) {
            line(instance);
        }
        if own.len() > 5 {
            let _ = writeln!(out, "  {:<24} and for {} further consumers", slot.kind.name, own.len() - 5);
        }
    }
}

fn scope(snapshot: &Snapshot, info: &PluginInfo) -> String {
    let mut words = Vec::new();
    if let Some(route) = info.scope.route.and_then(|r| snapshot.routes.get(r)) {
        words.push(format!("route {}", route_name(route)));
    }
    if let Some(service) = info.scope.service.and_then(|s| snapshot.services.get(s)) {
        words.push(format!("service {}", named(&service.info.name, &service.info.id)));
    }
    if let Some(consumer) = info.scope.consumer.and_then(|c| snapshot.identities.consumer(c)) {
        words.push(format!("consumer {}", consumer.username.as_deref().unwrap_or(&consumer.id)));
    }
    if let Some(group) = info.scope.group.and_then(|g| snapshot.identities.consumer_groups.get(g as usize)) {
        words.push(format!("consumer group {}", group.name));
    }
    if words.is_empty() { "everywhere".to_owned() } else { words.join(", ") }
}

fn upstream(out: &mut String, route: &Route, service: &Service, found: &Found, asked: &Asked) {
    let matched = found.matched.max(1);
    let path = path::upstream_path(&service.path, &asked.normal.path, matched, route.strip_path, route.joint);
    let query = asked.normal.query.as_ref().map(|q| format!("?{q}")).unwrap_or_default();
    let scheme = if service.tls { "https" } else { "http" };
    let _ = writeln!(out, "\nupstream, before plugins change it:");
    for target in service.targets.iter().filter(|t| t.weight > 0) {
        let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
        let share = if service.targets.len() > 1 { format!("  (weight {})", target.weight) } else { String::new() };
        let _ = writeln!(out, "  {} {scheme}://{host}:{}{path}{query}{share}", asked.parts.method, target.port);
        let header = if route.preserve_host {
            asked.parts.headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned()
        } else {
            String::from_utf8_lossy(target.host_header.as_bytes()).into_owned()
        };
        let _ = writeln!(out, "    Host: {header}");
    }
    if service.weight_sum == 0 {
        out.push_str("  no target has a weight: 503 `failure to get a peer from the ring-balancer`\n");
    }
}
