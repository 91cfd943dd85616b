//! The gateway's own block, `gateway:`, and Kong's environment variables: where to listen, whom to trust, how the edge acts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::document::{Fields, Node, Place, Report};
use crate::edge::{Ceilings, EgressPolicy, GatePolicy, LadderPolicy, Mode, Policy, Rate};
use crate::telemetry::writer::Sink;

/// One listening socket of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Its address; port 0 is any free one.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Kong's variables, as far as they are honoured.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `KONG_PROXY_LISTEN`.
    pub proxy_listen: Option<String>,
    /// `KONG_ADMIN_LISTEN`.
    pub admin_listen: Option<String>,
    /// `KONG_TRUSTED_IPS`.
    pub trusted_ips: Option<String>,
    /// `KONG_REAL_IP_HEADER`.
    pub real_ip_header: Option<String>,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn read() -> Self {
        let var = |name| std::env::var(name).ok().filter(|v: &String| !v.trim().is_empty());
        Environment {
            proxy_listen: var("KONG_PROXY_LISTEN"),
            admin_listen: var("KONG_ADMIN_LISTEN"),
            trusted_ips: var("KONG_TRUSTED_IPS"),
            real_ip_header: var("KONG_REAL_IP_HEADER"),
        }
    }
}

/// Time limits of the client side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request, the first byte included.
    pub header: Duration,
    /// For the next request on an idle connection.
    pub idle: Duration,
    /// For requests in flight when the gateway is told to stop.
    pub drain: Duration,
}

/// Everything that is not Kong's entities.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Listening sockets of the proxy.
    pub listen: Vec<Listen>,
    /// Listening socket of the admin API.
    pub admin: Option<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// Peers whose forwarding headers count.
    pub trusted: Vec<IpNet>,
    /// The header in which a trusted peer names the client (Kong `real_ip_header`).
    pub real_ip_header: HeaderName,
    /// Where the access log goes.
    pub access_log: Option<Sink>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The edge; without it a file behaves exactly as with Kong.
    pub edge: Option<Policy>,
}

/// Reads the block; `tls` tells whether the file has certificates, which opens Kong's TLS port by default.
pub fn read(node: Option<&Node>, tls: bool, env: &Environment, report: &Report) -> Settings {
    let empty = Node { place: Place::default(), value: crate::document::Value::Null };
    let fields = Fields::of(node.unwrap_or(&empty), "`gateway`", report)
        .unwrap_or_else(|| Fields::empty(Place::default(), "`gateway`", report));
    let trusted = trusted(&fields, env);
    let mut settings = Settings {
        listen: listen(&fields, tls, env),
        admin: admin(&fields, env),
        workers: fields.integer("workers", 1..=1024).map_or_else(cpus, |n| n as usize),
        trusted,
        real_ip_header: real_ip_header(&fields, env),
        access_log: access_log(&fields),
        timeouts: timeouts(&fields),
        edge: None,
    };
    if let Some(edge) = fields.fields("edge") {
        settings.edge = Some(policy(&edge, &settings));
    }
    settings
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn listen(fields: &Fields<'_>, tls: bool, env: &Environment) -> Vec<Listen> {
    let given = fields.strings("listen");
    let texts = match (&env.proxy_listen, given) {
        (Some(text), _) => text.split(',').map(|t| (Place::default(), t.to_owned())).collect(),
        (None, Some(given)) => given,
        (None, None) => {
            let mut default = vec![(Place::default(), "0.0.0.0:8000".to_owned())];
            if tls {
                default.push((Place::default(), "0.0.0.0:8443 ssl".to_owned()));
            }
            default
        }
    };
    let mut listens = Vec::new();
    for (place, text) in texts {
        if text.trim() == "off" {
            continue;
        }
        match listen_of(&text) {
            Ok(listen) => listens.push(listen),
            Err(what) => fields.report.mismatch(
                place,
                format!("listen address `{}`: {what}", text.trim()),
                "ADDRESS:PORT [ssl] [http2]",
            ),
        }
    }
    listens
}

/// One entry of Kong's `proxy_listen`; flags that make no difference here are accepted.
fn listen_of(text: &str) -> Result<Listen, String> {
    let mut words = text.split_whitespace();
    let address = words.next().ok_or("nothing given")?;
    let address = address.parse().map_err(|_| format!("`{address}` is no socket address"))?;
    let mut tls = false;
    for word in words {
        match word {
            "ssl" => tls = true,
            "http2" | "reuseport" | "deferred" | "bind" => {}
            _ if word.starts_with("backlog=") || word.starts_with("so_keepalive=") || word.starts_with("ipv6only=") => {
            }
            _ => return Err(format!("`{word}` is not supported")),
        }
    }
    Ok(Listen { address, tls })
}

fn admin(fields: &Fields<'_>, env: &Environment) -> Option<SocketAddr> {
    let given = fields.string_or_off("admin");
    let place = fields.place_of("admin");
    let text = match (&env.admin_listen, given) {
        // Kong's variable may list a TLS twin: the first plain address is ours.
        (Some(text), _) => text.split(',').next().unwrap_or_default().trim().to_owned(),
        (None, Some(text)) => text,
        (None, None) => "127.0.0.1:8001".to_owned(),
    };
    match text.as_str() {
        "off" => None,
        text => match listen_of(text) {
            Ok(listen) if !listen.tls => Some(listen.address),
            _ => {
                fields.report.mismatch(place, format!("`admin` is `{text}`"), "ADDRESS:PORT, or off");
                None
            }
        },
    }
}

fn trusted(fields: &Fields<'_>, env: &Environment) -> Vec<IpNet> {
    let given = networks(fields, "trusted_ips");
    match &env.trusted_ips {
        None => given,
        Some(text) => text.split(',').filter_map(|t| network(t.trim())).collect(),
    }
}

fn real_ip_header(fields: &Fields<'_>, env: &Environment) -> HeaderName {
    let given = fields.string("real_ip_header");
    let text = env.real_ip_header.clone().or(given).unwrap_or_else(|| "X-Real-IP".to_owned());
    HeaderName::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        fields.report.mismatch(
            fields.place_of("real_ip_header"),
            format!("`real_ip_header` is `{text}`"),
            "a header name",
        );
        HeaderName::from_static("x-real-ip")
    })
}

/// An address or a CIDR.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|ip: std::net::IpAddr| IpNet::from(ip)))
}

fn networks<'a>(fields: &Fields<'a>, name: &'a str) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (place, text) in fields.strings(name).unwrap_or_default() {
        match network(&text) {
            Some(net) => nets.push(net),
            None => fields.report.mismatch(place, format!("`{name}`: `{text}` is no network"), "an IP address or CIDR"),
        }
    }
    nets
}

fn access_log(fields: &Fields<'_>) -> Option<Sink> {
    match fields.string_or_off("access_log").as_deref() {
        Some("off") => None,
        None | Some("stdout") => Some(Sink::Stdout),
        Some("stderr") => Some(Sink::Stderr),
        Some(path) => Some(Sink::File { path: PathBuf::from(path), reopen: false }),
    }
}

fn timeouts(fields: &Fields<'_>) -> Timeouts {
    let defaults =
        Timeouts { header: Duration::from_secs(10), idle: Duration::from_secs(60), drain: Duration::from_secs(30) };
    let Some(given) = fields.fields("timeouts") else { return defaults };
    let read = |name, default| match given.duration(name) {
        Some(d) if d.is_zero() => {
            given.report.mismatch(given.place_of(name), format!("`{name}` is zero"), "a time limit");
            default
        }
        Some(d) => d,
        None => default,
    };
    Timeouts {
        header: read("header", defaults.header),
        idle: read("idle", defaults.idle),
        drain: read("drain", defaults.drain),
    }
}

fn policy(edge: &Fields<'_>, settings: &Settings) -> Policy {
    let modes = [("off", Mode::Off), ("shadow", Mode::Shadow), ("enforce", Mode::Enforce)];
    let defaults = Policy::default();
    let interfaces = edge.strings("interfaces").unwrap_or_default();
    // YAML 1.1 reads a bare `off` as false.
    let bare = edge.node("mode").is_some_and(|n| matches!(n.value, crate::document::Value::Bool(false)));
    let mode = if bare { Some(Mode::Off) } else { edge.choice("mode", &modes) };
    let off = mode == Some(Mode::Off);
    let policy = Policy {
        mode: if off { Mode::Enforce } else { mode.unwrap_or(Mode::Enforce) },
        // `off` is the kernel side's: without interfaces the same policy is carried out in user space.
        interfaces: if off { Vec::new() } else { interfaces.into_iter().map(|(_, name)| name).collect() },
        allow_generic: edge.boolean("allow_generic").unwrap_or(false),
        hold: edge.boolean("hold").unwrap_or(false),
        v6_prefix: edge.integer("v6_prefix", 48..=64).map_or(defaults.v6_prefix, |n| n as u8),
        never_drop: networks(edge, "never_drop"),
        trusted: settings.trusted.clone(),
        deny: networks(edge, "deny"),
        ports: settings.listen.iter().map(|l| l.address.port()).collect(),
        ceilings: edge.fields("ceilings").map(|f| ceilings(&f)).unwrap_or_default(),
        neighbourhood: edge.fields("neighbourhood").map(|f| ceilings(&f)).unwrap_or_default(),
        raise: edge.integer("authenticated_factor", 1..=1024).map_or(defaults.raise, |n| (n as u32).ilog2()),
        egress: edge.fields("egress").map(|f| EgressPolicy {
            bytes: ceilings(&f).bytes,
            sources_max: f
                .integer("sources_max", 1024..=4_194_304)
                .map_or(EgressPolicy::default().sources_max, |n| n as u32),
        }),
        gate: gate(edge),
        cells: edge.integer("cells", 1024..=4_194_304).map_or(defaults.cells, |n| n as u32),
        verdicts_max: edge.integer("verdicts_max", 1024..=1_048_576).map_or(defaults.verdicts_max, |n| n as u32),
        ladder: ladder(edge),
    };
    for name in &policy.interfaces {
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
            edge.report.mismatch(
                edge.place_of("interfaces"),
                format!("`{name}` is no interface name"),
                "a name of at most 15 bytes",
            );
        }
    }
    for net in policy.trusted.iter().chain(&policy.never_drop) {
        if policy.deny.iter().any(|d| d.contains(net) || net.contains(d)) {
            edge.report
                .error(edge.place_of("deny"), format!("`deny` overlaps with {net}, which is trusted or never dropped"));
        }
    }
    policy
}

fn ceilings(fields: &Fields<'_>) -> Ceilings {
    let rate = |name| {
        let f = fields.fields(name)?;
        let per_second = f.integer("per_second", 1..=10_000_000_000);
        let burst = f.integer("burst", 1..=10_000_000_000);
        if per_second.is_none() {
            f.require("per_second");
        }
        let per_second = per_second? as u64;
        Some(Rate { per_second, burst: burst.map_or(per_second, |b| b as u64) })
    };
    Ceilings { packets: rate("packets"), bytes: rate("bytes"), connections: rate("connections") }
}

fn gate(edge: &Fields<'_>) -> Option<GatePolicy> {
    if is_off(edge, "gate") {
        return None;
    }
    let defaults = GatePolicy::default();
    let Some(f) = edge.fields("gate") else { return Some(defaults) };
    let rate = |name, default: u64| f.integer(name, 1..=100_000_000).map_or(default, |n| n as u64);
    Some(GatePolicy {
        syns: rate("syns_per_second", defaults.syns),
        hold: f.duration("hold").unwrap_or(defaults.hold),
        stranger_syns: rate("stranger_syns_per_second", defaults.stranger_syns),
        stranger_packets: rate("stranger_packets_per_second", defaults.stranger_packets),
        arm_cookies: f.boolean("arm_cookies").unwrap_or(defaults.arm_cookies),
        verified_max: f.integer("verified_max", 1024..=4_194_304).map_or(defaults.verified_max, |n| n as u32),
    })
}

/// YAML 1.1 reads a bare `off` as false.
fn is_off(edge: &Fields<'_>, name: &'static str) -> bool {
    match edge.node(name).map(|node| &node.value) {
        Some(crate::document::Value::Str(text)) => text == "off",
        Some(crate::document::Value::Bool(on)) => !on,
        _ => false,
    }
}

fn ladder(edge: &Fields<'_>) -> Option<LadderPolicy> {
    if is_off(edge, "ladder") {
        return None;
    }
    let defaults = LadderPolicy::default();
    let Some(f) = edge.fields("ladder") else { return Some(defaults) };
    let count = |name, default: u32| f.integer(name, 1..=1_000_000).map_or(default, |n| n as u32);
    Some(LadderPolicy {
        degrade_after: count("degrade_after", defaults.degrade_after),
        degrade_window: f.duration("degrade_window").unwrap_or(defaults.degrade_window),
        degrade_for: f.duration("degrade_for").unwrap_or(defaults.degrade_for),
        failures_run: count("failures_run", defaults.failures_run),
        gate_for: f.duration("gate_for").unwrap_or(defaults.gate_for),
        gate_max: f.duration("gate_max").unwrap_or(defaults.gate_max),
        drop_after: count("drop_after", defaults.drop_after),
        memory: f.duration("memory").unwrap_or(defaults.memory),
        neighbour_window: f.duration("neighbour_window").unwrap_or(defaults.neighbour_window),
        sources_max: count("sources_max", defaults.sources_max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kong_listen_lines_are_understood() {
        assert_eq!(
            listen_of("0.0.0.0:8443 http2 ssl reuseport backlog=16384"),
            Ok(Listen { address: "0.0.0.0:8443".parse().expect("address"), tls: true })
        );
        assert!(listen_of("0.0.0.0:8000 proxy_protocol").is_err());
        assert!(listen_of("localhost").is_err());
    }
}
