//! The gateway's own block, `gateway:`, and Kong's environment variables: whom to trust, how the edge acts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::HeaderName;
use ipnet::IpNet;

use super::bounds::{Limits, Timeouts};
use super::listens::{self, Listen};
use super::marks::{self, Marks};
use crate::document::{Fields, Node, Place, Report};
use crate::edge::{Ceilings, Fallback, GatePolicy, LadderPolicy, Mode, Policy, Rate};
use crate::fleet;
use crate::proxy::reply::form::Style;
use crate::telemetry::writer::Sink;

/// Where a trusted peer names the client (Kong `real_ip_header`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RealIp {
    /// In a header.
    Header(HeaderName),
    /// Before the connection's own bytes (Kong's `proxy_protocol`).
    ProxyProtocol,
}

/// Kong's variables, as far as they are honoured.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `KONG_PROXY_LISTEN`.
    pub proxy_listen: Option<String>,
    /// `KONG_STREAM_LISTEN`.
    pub stream_listen: Option<String>,
    /// `KONG_ADMIN_LISTEN`.
    pub admin_listen: Option<String>,
    /// `KONG_TRUSTED_IPS`.
    pub trusted_ips: Option<String>,
    /// `KONG_REAL_IP_HEADER`.
    pub real_ip_header: Option<String>,
    /// `KONG_REAL_IP_RECURSIVE`.
    pub real_ip_recursive: Option<String>,
    /// `KONG_HEADERS`.
    pub headers: Option<String>,
    /// `KONG_HEADERS_UPSTREAM`.
    pub headers_upstream: Option<String>,
    /// `KONG_ERROR_DEFAULT_TYPE`.
    pub error_default_type: Option<String>,
    /// `KONG_ROUTER_FLAVOR`.
    pub router_flavor: Option<String>,
    /// `GATEWAY_ADMIN_TOKEN`.
    pub admin_token: Option<Secret>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Which fields of routes decide (Kong `router_flavor`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavor {
    /// `paths`, `hosts` and so on.
    #[default]
    Fields,
    /// The same, and `path_handling`.
    Traditional,
    /// The first, and `expression`.
    Expressions,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn read() -> Self {
        let var = |name| std::env::var(name).ok().filter(|v: &String| !v.trim().is_empty());
        Environment {
            proxy_listen: var("KONG_PROXY_LISTEN"),
            stream_listen: var("KONG_STREAM_LISTEN"),
            admin_listen: var("KONG_ADMIN_LISTEN"),
            trusted_ips: var("KONG_TRUSTED_IPS"),
            real_ip_header: var("KONG_REAL_IP_HEADER"),
            real_ip_recursive: var("KONG_REAL_IP_RECURSIVE"),
            headers: var("KONG_HEADERS"),
            headers_upstream: var("KONG_HEADERS_UPSTREAM"),
            error_default_type: var("KONG_ERROR_DEFAULT_TYPE"),
            router_flavor: var("KONG_ROUTER_FLAVOR"),
            admin_token: var("GATEWAY_ADMIN_TOKEN").map(Secret),
        }
    }
}

/// Everything that is not Kong's entities.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Listening sockets of the proxy.
    pub listen: Vec<Listen>,
    /// Listening sockets for stream routes.
    pub stream_listen: Vec<Listen>,
    /// Listening socket of the admin API.
    pub admin: Option<SocketAddr>,
    /// What a client of the admin API must know; without one it listens on loopback alone.
    pub admin_token: Option<Secret>,
    /// Where API keys that are made while it runs are kept; without it none are made.
    pub issued_keys: Option<PathBuf>,
    /// Which fields of routes decide.
    pub router_flavor: Flavor,
    /// Worker threads.
    pub workers: usize,
    /// Peers whose forwarding headers count.
    pub trusted: Vec<IpNet>,
    /// Where a trusted peer names the client.
    pub real_ip: RealIp,
    /// Whether trusted addresses in it are passed over, from the right (Kong `real_ip_recursive`).
    pub real_ip_recursive: bool,
    /// The headers that the gateway adds.
    pub marks: Marks,
    /// How errors are worded.
    pub style: Style,
    /// Where the access log goes.
    pub access_log: Option<Sink>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Sizes and numbers.
    pub limits: Limits,
    /// The edge; without it a file behaves exactly as with Kong.
    pub edge: Option<Policy>,
    /// The other gateways whose verdicts hold here too.
    pub fleet: Option<fleet::Settings>,
}

impl Settings {
    /// Whether a peer's word about its client counts.
    #[must_use]
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&peer))
    }

    fn listens_for_proxy_protocol(&self) -> bool {
        self.listen.iter().chain(&self.stream_listen).any(|listen| listen.proxy_protocol)
    }
}

/// Reads the block; `tls` tells whether the file has certificates, which opens Kong's TLS port by default.
pub fn read(node: Option<&Node>, tls: bool, env: &Environment, report: &Report) -> Settings {
    let empty = Node { place: Place::default(), value: crate::document::Value::Null };
    let fields = Fields::of(node.unwrap_or(&empty), "`gateway`", report)
        .unwrap_or_else(|| Fields::empty(Place::default(), "`gateway`", report));
    read_fields(&fields, tls, env)
}

/// Reads the fields of the block.
pub fn read_fields(fields: &Fields<'_>, tls: bool, env: &Environment) -> Settings {
    let trusted = trusted(fields, env);
    let admin_token = admin_token(fields, env);
    let mut settings = Settings {
        listen: listens::proxy(fields, tls, env),
        stream_listen: listens::streams(fields, env),
        admin: admin(fields, env, admin_token.as_ref()),
        admin_token,
        issued_keys: fields.string("issued_keys").filter(|path| !path.is_empty()).map(PathBuf::from),
        router_flavor: flavor(fields, env),
        workers: fields.integer("workers", 1..=1024).map_or_else(cpus, |n| n as usize),
        trusted,
        real_ip: real_ip(fields, env),
        real_ip_recursive: real_ip_recursive(fields, env),
        marks: marks::read(fields, env),
        style: marks::style(fields, env),
        access_log: access_log(fields),
        timeouts: Timeouts::read(fields.fields("timeouts").as_ref()),
        limits: Limits::read(fields.fields("limits").as_ref()),
        edge: None,
        fleet: None,
    };
    if settings.real_ip == RealIp::ProxyProtocol && !settings.listens_for_proxy_protocol() {
        fields.report.mismatch(
            fields.place_of("real_ip_header"),
            "`real_ip_header` is `proxy_protocol`, and no listener speaks it",
            "ADDRESS:PORT proxy_protocol among the listen addresses",
        );
    }
    if let Some(edge) = fields.fields("edge") {
        settings.fleet = super::edge::fleet(&edge);
        settings.edge = Some(policy(&edge, &settings));
    }
    settings
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Characters of a token at least.
const TOKEN_MIN: usize = 16;

fn admin_token(fields: &Fields<'_>, env: &Environment) -> Option<Secret> {
    let given = fields.string("admin_token").map(Secret);
    let token = env.admin_token.clone().or(given)?;
    if token.0.len() < TOKEN_MIN || !token.0.bytes().all(|b| b.is_ascii_graphic()) {
        let place = fields.place_of("admin_token");
        let expected = format!("{TOKEN_MIN} printable ASCII characters or more");
        fields.report.mismatch(place, "`admin_token` is too short or holds odd characters", expected);
    }
    Some(token)
}

fn flavor(fields: &Fields<'_>, env: &Environment) -> Flavor {
    let flavors = [
        ("traditional_compatible", Flavor::Fields),
        ("expressions", Flavor::Expressions),
        ("traditional", Flavor::Traditional),
    ];
    let given = fields.choice("router_flavor", &flavors);
    let Some(word) = &env.router_flavor else { return given.unwrap_or_default() };
    let known = flavors.iter().find(|(name, _)| name == word);
    if known.is_none() {
        let names = flavors.map(|(name, _)| name);
        fields.report.unknown(Place::default(), format!("KONG_ROUTER_FLAVOR is `{word}`"), word, &names);
    }
    known.map(|(_, flavor)| *flavor).unwrap_or_default()
}

fn admin(fields: &Fields<'_>, env: &Environment, token: Option<&Secret>) -> Option<SocketAddr> {
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
        text => match listens::listen_of(text) {
            Ok(listen) if !listen.tls && !listen.proxy_protocol && !listen.udp => {
                if !listen.address.ip().is_loopback() && token.is_none() {
                    fields.report.mismatch(
                        place,
                        format!("the admin API on {text} would be open to everyone"),
                        "`gateway.admin_token` or GATEWAY_ADMIN_TOKEN, or a loopback address",
                    );
                }
                Some(listen.address)
            }
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

fn real_ip(fields: &Fields<'_>, env: &Environment) -> RealIp {
    let given = fields.string("real_ip_header");
    let text = env.real_ip_header.clone().or(given).unwrap_or_else(|| "X-Real-IP".to_owned());
    if text == "proxy_protocol" {
        return RealIp::ProxyProtocol;
    }
    RealIp::Header(HeaderName::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        fields.report.mismatch(
            fields.place_of("real_ip_header"),
            format!("`real_ip_header` is `{text}`"),
            "a header name, or proxy_protocol",
        );
        HeaderName::from_static("x-real-ip")
    }))
}

fn real_ip_recursive(fields: &Fields<'_>, env: &Environment) -> bool {
    let given = fields.boolean("real_ip_recursive").unwrap_or(false);
    env.real_ip_recursive.as_deref().map_or(given, |text| matches!(text.trim(), "on" | "true"))
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
        fallback: edge.choice("fallback", &[("tc", Fallback::Tc), ("none", Fallback::None)]).unwrap_or_default(),
        pin: pin(edge),
        keep: edge.boolean("keep").unwrap_or(false),
        pcap: super::edge::pcap(edge),
        hold: edge.boolean("hold").unwrap_or(false),
        v6_prefix: edge.integer("v6_prefix", 48..=64).map_or(defaults.v6_prefix, |n| n as u8),
        never_drop: networks(edge, "never_drop"),
        trusted: settings.trusted.clone(),
        deny: networks(edge, "deny"),
        ports: settings.listen.iter().map(|l| l.address.port()).collect(),
        ceilings: edge.fields("ceilings").map(|f| ceilings(&f)).unwrap_or_default(),
        neighbourhood: edge.fields("neighbourhood").map(|f| ceilings(&f)).unwrap_or_default(),
        raise: edge.integer("authenticated_factor", 1..=1024).map_or(defaults.raise, |n| (n as u32).ilog2()),
        egress: edge.fields("egress").map(|f| super::edge::egress(&f)),
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
    super::edge::check(edge, &policy);
    policy
}

/// `true` is the usual folder; YAML 1.1 reads a bare `on` as true.
fn pin(edge: &Fields<'_>) -> Option<PathBuf> {
    const USUAL: &str = "/sys/fs/bpf/gateway/edge";
    let text = match edge.node("pin")?.value {
        crate::document::Value::Bool(true) => return Some(PathBuf::from(USUAL)),
        crate::document::Value::Bool(false) => return None,
        _ => edge.string("pin")?,
    };
    let path = PathBuf::from(&text);
    let is_plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if path.is_absolute() && path.file_name().is_some() && is_plain {
        return Some(path);
    }
    let expected = format!("an absolute path below a bpffs, or true for {USUAL}");
    edge.report.mismatch(edge.place_of("pin"), format!("`pin` is `{text}`"), expected);
    None
}

fn ceilings(fields: &Fields<'_>) -> Ceilings {
    let rate = |name| rate(&fields.fields(name)?);
    Ceilings { packets: rate("packets"), bytes: rate("bytes"), connections: rate("connections") }
}

/// A ceiling; without `burst` a second's worth may come at once.
pub(super) fn rate(f: &Fields<'_>) -> Option<Rate> {
    let per_second = f.integer("per_second", 1..=10_000_000_000);
    let burst = f.integer("burst", 1..=10_000_000_000);
    if per_second.is_none() {
        f.require("per_second");
    }
    let per_second = per_second? as u64;
    Some(Rate { per_second, burst: burst.map_or(per_second, |b| b as u64) })
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
