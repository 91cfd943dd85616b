//! The composition root: the only file that may know every room. Starts, reloads, drains.

mod lifetime;
mod process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::admin::{self, Control};
use crate::background::Background;
use crate::clock;
use crate::config::{Bundle, Load, Refused, Reload, Running, Snapshot};
use crate::drain::{Drain, Drained};
use crate::edge::{Edge, Identity, Policy};
use crate::fleet::{self, Carrier};
use crate::identity::Revoked;
use crate::identity::keyring::Keyring;
use crate::limits::pressure::Gauge;
use crate::listen::{self, Bound, Command, Port, Thread, Workers};
use crate::plugins::Shared;
use crate::privileges;
use crate::proxy::transport::TlsClients;
use crate::proxy::worker::{EdgeLink, Worker};
use crate::telemetry::metrics::{self, Registry};
use crate::telemetry::writer::LogWriter;
use crate::upstreams::probe;

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// The configuration: files and folders.
    pub config: Vec<PathBuf>,
    /// How they are read.
    pub load: Load,
    /// Written when everything listens.
    pub ready_file: Option<PathBuf>,
    /// Listen on addresses on which another gateway still listens.
    pub beside: bool,
}

/// How often memory is looked at, far from its limit and near it: a burst must not outrun the looks.
const LOOK_FAR: Duration = Duration::from_millis(100);
const LOOK_NEAR: Duration = Duration::from_millis(10);

/// How long the admin API's view of a configuration is kept when nobody asks.
const ENTITIES_IDLE_NS: u64 = 60_000_000_000;

/// What the control plane holds.
struct App {
    running: Arc<Running>,
    /// Held while a configuration is compiled: one at a time, in the order of their coming.
    reloading: tokio::sync::Mutex<()>,
    background: Arc<Background>,
    shared: Arc<Shared>,
    edge: Option<Arc<Edge>>,
    registry: Registry,
    workers: Workers,
    listeners: Vec<(SocketAddr, Port)>,
    started: Instant,
    /// Names this process in Kong's metrics.
    node: String,
    /// Where the fleet meets.
    fleet: Option<fleet::Settings>,
    /// The log of issued keys that was opened.
    issued_keys: Option<PathBuf>,
}

/// Runs the gateway until it is told to stop. Exit code 2 is a configuration that cannot run.
///
/// # Errors
/// What kept it from starting.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    crate::crypto::install();
    process::raise_descriptor_limit();
    // Threads inherit: before the first one.
    privileges::at_start();
    let (shared, log) = shared()?;
    let background = Background::start(privileges::of_files).context("cannot start the thread for configurations")?;
    let first = {
        let (paths, load, shared) = (options.config.clone(), options.load.clone(), Arc::clone(&shared));
        // Where the next ones will be compiled, so that they find the memory which this one leaves.
        background.run(move || Running::start(&paths, load, shared))
    };
    let running = match first.blocking_recv().context("the compilation broke off")? {
        Ok(running) => Arc::new(running),
        Err(errors) => {
            eprint!("{errors}");
            return Ok(ExitCode::from(2));
        }
    };
    for warning in running.warnings().lines() {
        tracing::warn!("{warning}");
    }
    let snapshot = running.current();
    if let Some(path) = &snapshot.settings.issued_keys {
        shared.keyring.open(path, clock::unix_ns() / 1_000_000_000).map_err(anyhow::Error::msg)?;
    }
    let http = snapshot.settings.listen.iter().map(|l| (l, false));
    let streams = snapshot.settings.stream_listen.iter().map(|l| (l, true));
    let bind = |(l, stream)| listen::bind(l, stream, snapshot.settings.workers, options.beside);
    let bound: Vec<Bound> = http.chain(streams).map(bind).collect::<Result<_, _>>()?;
    let listeners: Vec<(SocketAddr, Port)> = bound.iter().map(|b| (b.address, b.port)).collect();
    let edge = snapshot.settings.edge.clone().map(|policy| Arc::new(Edge::start(with_ports(policy, &listeners))));
    let carrier = match (&edge, &snapshot.settings.fleet) {
        (Some(edge), Some(fleet)) => {
            Some(Carrier::start(fleet.clone(), Arc::clone(edge)).context("cannot start the thread of the fleet")?)
        }
        _ => None,
    };
    let (drain, drained) = Drain::new();
    let threads = start_workers(bound, &snapshot, &shared, edge.as_ref(), &drained)?;
    let app = Arc::new(App {
        running,
        reloading: tokio::sync::Mutex::new(()),
        background: Arc::new(background),
        shared,
        edge,
        registry: Registry::default(),
        workers: Workers(threads.iter().map(|t| t.commands.clone()).collect()),
        listeners,
        started: Instant::now(),
        node: uuid::Uuid::new_v4().to_string(),
        issued_keys: snapshot.settings.issued_keys.clone(),
        fleet: snapshot.settings.fleet.clone(),
    });
    // Whoever holds it keeps it from being freed when it is replaced.
    drop(snapshot);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(control(Arc::clone(&app), options, drain, threads));
    if let Some(carrier) = carrier {
        carrier.stop();
    }
    ended?;
    drop(runtime);
    // The last handle of the log writer goes with the application; its thread then ends with an empty queue.
    drop(app);
    let _ = log.join();
    Ok(ExitCode::SUCCESS)
}

/// Things that outlive a reload, with the log's thread.
///
/// # Errors
/// When the log's thread cannot be started.
pub fn shared() -> anyhow::Result<(Arc<Shared>, std::thread::JoinHandle<()>)> {
    let (writer, log) = LogWriter::start().context("cannot start the log writer")?;
    Ok((Arc::new(Shared::new(writer)), log))
}

/// The policy with the ports that are really listened on.
fn with_ports(mut policy: Policy, listeners: &[(SocketAddr, Port)]) -> Policy {
    policy.ports = listeners.iter().map(|(address, _)| address.port()).collect();
    policy
}

fn start_workers(
    bound: Vec<Bound>,
    snapshot: &Arc<Snapshot>,
    shared: &Arc<Shared>,
    edge: Option<&Arc<Edge>>,
    drained: &Drained,
) -> anyhow::Result<Vec<Thread>> {
    let tls = Arc::new(TlsClients::new());
    shared.remote.calls.trust(Arc::clone(&tls));
    let count = snapshot.settings.workers;
    let mut sockets: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for listener in bound {
        for (own, socket) in sockets.iter_mut().zip(listener.sockets) {
            own.push((socket, listener.port));
        }
    }
    let spawn = |(id, own)| {
        let (snapshot, shared, tls) = (Arc::clone(snapshot), Arc::clone(shared), Arc::clone(&tls));
        let edge = edge.map(|e| (e.reporter(), e.standings()));
        let make = move || {
            privileges::of_worker();
            let edge = edge.map(|(reporter, standings)| EdgeLink { reporter: reporter.into(), standings });
            Worker::new(snapshot, shared, tls, edge)
        };
        listen::spawn(id, own, drained.clone(), make).context("cannot start a worker")
    };
    sockets.into_iter().enumerate().map(spawn).collect()
}

/// The control plane: admin API, signals, file watch, edge, sweeping; then the drain.
async fn control(app: Arc<App>, options: &Options, drain: Drain, threads: Vec<Thread>) -> anyhow::Result<()> {
    let settings = app.running.current().settings.clone();
    let admin = match settings.admin {
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address).await;
            Some(listener.with_context(|| format!("cannot listen on {address} for the admin API"))?)
        }
        None => None,
    };
    let admin_address = admin.as_ref().and_then(|l| l.local_addr().ok());
    let (stop_edge, edge_stopped) = oneshot::channel::<()>();
    let edge_task = app.edge.clone().map(|edge| {
        tokio::spawn(edge.run(async move {
            let _ = edge_stopped.await;
        }))
    });
    if let Some(listener) = admin {
        tokio::spawn(admin::serve(listener, Arc::clone(&app)));
    }
    privileges::of_control(app.edge.is_some());
    let probed = Arc::clone(&app);
    tokio::spawn(probe::run(move || Arc::clone(&probed.running.current().groups)));
    let remote = Arc::clone(&app.shared);
    tokio::spawn(async move { remote.remote.sources.run(&remote.remote.calls).await });
    let mut changes = process::watch_without_privileges(app.running.paths())?;
    // Who is told that everything listens may send a signal at once, which would end a process that does not expect it.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    lifetime::announce(&app, admin_address, options)?;

    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut look = tokio::time::Instant::now();
    let gauge = Gauge::find(settings.limits.memory_bytes);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                tokio::spawn(Arc::clone(&app).reload(Running::reload, "SIGHUP"));
            }
            Some(()) = changes.recv() => {
                tokio::spawn(Arc::clone(&app).reload(Running::reload_if_changed, "file change"));
            }
            () = tokio::time::sleep_until(look) => {
                let near = app.measure(&gauge);
                look = tokio::time::Instant::now() + if near { LOOK_NEAR } else { LOOK_FAR };
            }
            _ = tick.tick() => {
                let now_s = clock::unix_ns() / 1_000_000_000;
                app.shared.sweep(now_s);
                app.end_keys(now_s);
                let since_ns = clock::monotonic_ns().saturating_sub(ENTITIES_IDLE_NS);
                if let Some(entities) = app.running.current().forget_entities(since_ns) {
                    // Nobody waits for it.
                    drop(tokio::task::spawn_blocking(move || drop(entities)));
                }
            }
        }
    }
    tracing::info!("draining");
    drain.begin();
    let deadline = Instant::now() + settings.timeouts.drain;
    while threads.iter().any(|t| !t.join.is_finished()) && Instant::now() < deadline {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            // A second signal is impatience.
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // Dropping the sender ends the loop's wait as well, should the edge not be listening any more.
    let _ = stop_edge.send(());
    if let Some(task) = edge_task {
        let _ = tokio::time::timeout(Duration::from_secs(2), task).await;
    }
    tracing::info!("stopped");
    Ok(())
}

impl App {
    /// Tells the workers how near the memory limit is; true when more than half of it is used.
    fn measure(&self, gauge: &Gauge) -> bool {
        let (used, limit) = gauge.read();
        let pressure = &self.shared.pressure;
        if pressure.measure(used, limit) {
            tracing::warn!(level = ?pressure.level(), used, limit, "memory");
        }
        used > limit / 2
    }

    /// Whoever lives by an issued key whose time is over is cut off.
    fn end_keys(&self, now_s: u64) {
        let mut revoked = Revoked::default();
        revoked.extend(self.shared.keyring.end(now_s));
        if !revoked.is_empty() {
            Control::revoke(self, revoked);
        }
    }

    async fn reload(self: Arc<Self>, read: fn(&Running) -> Reload, why: &'static str) {
        self.take(read, why).await;
    }

    /// Compiles on a thread of its own, so that signals and the admin API do not wait for a large configuration.
    async fn take(&self, compile: impl FnOnce(&Running) -> Reload + Send + 'static, why: &str) -> Reload {
        let _turn = self.reloading.lock().await;
        let running = Arc::clone(&self.running);
        let before = running.current();
        let old = Arc::clone(&before);
        let keyring = Arc::clone(&self.shared.keyring);
        let outcome = self.background.run(move || {
            let outcome = compile(&running);
            let mut revoked = Revoked::default();
            if let Reload::Adopted(snapshot) = &outcome {
                revoked = old.identities.revoked_in(&snapshot.identities);
                revoked.extend(keyring.of_consumers(|consumer| old.identities.lost(&snapshot.identities, consumer)));
            }
            (outcome, revoked)
        });
        let outcome = outcome.await;
        let lost = |_| (Reload::Refused(Refused::broken_off()), Revoked::default());
        let outcome = self.tell(outcome.unwrap_or_else(lost), why);
        if matches!(outcome, Reload::Adopted(_)) {
            tokio::spawn(lifetime::retire(before, Arc::clone(&self.background)));
        }
        outcome
    }

    /// Hands an adopted configuration to the workers and the edge; says what became of it.
    fn tell(&self, (outcome, revoked): (Reload, Revoked), why: &str) -> Reload {
        match &outcome {
            Reload::Adopted(snapshot) => {
                let count = revoked.len();
                let (running, revoked) = (Arc::clone(&self.running), Arc::new(revoked));
                // What a busy worker gets when it has room is in force then, so that a configuration that waited never
                // follows a newer one.
                self.workers.order(move || Command::Adopt(running.current(), Arc::clone(&revoked)));
                match (&self.edge, &snapshot.settings.edge) {
                    (Some(edge), Some(policy)) => edge.update(with_ports(policy.clone(), &self.listeners)),
                    (None, None) => {}
                    _ => tracing::warn!("`gateway.edge` appears or disappears only with a restart"),
                }
                if snapshot.settings.fleet != self.fleet {
                    tracing::warn!("`gateway.edge.fleet` changes only with a restart");
                }
                if snapshot.settings.issued_keys != self.issued_keys {
                    tracing::warn!("`gateway.issued_keys` changes only with a restart");
                }
                tracing::info!(why, hash = %snapshot.hash, revoked = count, "configuration reloaded");
                for warning in self.running.warnings().lines() {
                    tracing::warn!("{warning}");
                }
            }
            Reload::Same => tracing::debug!(why, "configuration is the same"),
            Reload::Refused(refused) => {
                tracing::error!(why, "configuration refused, the old one stays:\n{}", refused.text);
            }
        }
        outcome
    }

    /// Gathers what the workers counted.
    async fn gather(&self) {
        for (id, worker) in self.workers.0.iter().enumerate() {
            let (answer, counted) = oneshot::channel();
            if worker.try_send(Command::Flush(answer)).is_ok()
                && let Ok(Ok(local)) = tokio::time::timeout(Duration::from_millis(500), counted).await
            {
                self.registry.absorb(id, local);
            }
        }
    }
}

impl Control for App {
    fn running(&self) -> &Running {
        &self.running
    }

    async fn replace(&self, bundle: Bundle) -> Reload {
        self.take(|running| running.replace(bundle), "POST /config").await
    }

    fn revoke(&self, credentials: Revoked) {
        let revoked = Arc::new(credentials);
        self.workers.order(move || Command::Revoke(Arc::clone(&revoked)));
    }

    fn node(&self) -> &str {
        &self.node
    }

    fn keyring(&self) -> &Arc<Keyring> {
        &self.shared.keyring
    }

    fn edge(&self) -> Option<&Arc<Edge>> {
        self.edge.as_ref()
    }

    fn identities_of(&self, consumer: &str) -> Option<(u128, Vec<Identity>)> {
        use std::hash::BuildHasher as _;
        let snapshot = self.running.current();
        let index = snapshot.identities.consumer_named(consumer)?;
        let number = snapshot.identities.consumer(index)?.number();
        let credentials = snapshot.identities.credentials_of(index).into_iter();
        Some((number, credentials.map(|id| Identity::Credential(self.shared.hash_keys.hash_one(&*id))).collect()))
    }

    async fn status(&self) -> serde_json::Value {
        self.gather().await;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": self.started.elapsed().as_secs(),
            "config": self.running.status(),
            "workers": self.workers.0.len(),
            "listeners": self.listeners.iter().map(|(a, port)| json!({ "address": a.to_string(), "tls": port.tls, "stream": port.stream, "proxy_protocol": port.proxy_protocol })).collect::<Vec<_>>(),
            "server": { "connections_active": self.registry.connections(), "total_requests": self.registry.requests() },
            "memory": { "rss_kib": process::rss_kib() },
            "limits": { "counters": self.shared.windows.len() },
            "log_lines_dropped": self.shared.writer.dropped(),
            "edge": self.edge.as_ref().map_or(json!("off"), |e| e.status()["mode"]["in_force"].clone()),
        })
    }

    async fn metrics(&self) -> String {
        use std::fmt::Write;
        self.gather().await;
        let snapshot = self.running.current();
        let measured = snapshot.routes.iter().any(|r| r.chain.metrics.is_some());
        let mut out = self.registry.render(measured.then_some(self.node.as_str()));
        metrics::head(&mut out, "gateway_log_lines_dropped_total", "counter", "Log lines dropped.");
        let _ = writeln!(out, "gateway_log_lines_dropped_total {}", self.shared.writer.dropped());
        metrics::head(
            &mut out,
            "gateway_memory_pressure",
            "gauge",
            "0 calm, 1 sheds requests, 2 takes no connections.",
        );
        let _ = writeln!(out, "gateway_memory_pressure {}", self.shared.pressure.level() as u8);
        metrics::head(&mut out, "gateway_limit_counters", "gauge", "Live rate-limit counters.");
        let _ = writeln!(out, "gateway_limit_counters {}", self.shared.windows.len());
        self.shared.fleet.render(&mut out);
        if snapshot.routes.iter().any(|r| r.chain.metrics.is_some_and(|m| m.upstream_health)) {
            metrics::head(&mut out, "kong_upstream_target_health", "gauge", "Health of the targets of upstreams.");
            for group in snapshot.groups.iter() {
                let upstream = metrics::escape(&group.name);
                for (target, state, has) in group.states() {
                    let labels =
                        format!("upstream=\"{upstream}\",target=\"{target}\",address=\"{target}\",state=\"{state}\"");
                    let value = u8::from(has);
                    let _ = writeln!(out, "kong_upstream_target_health{{{labels},subsystem=\"http\"}} {value}");
                }
            }
        }
        let mut last = "";
        for m in self.edge.iter().flat_map(|e| e.metrics()) {
            if m.name != last {
                let kind = if m.name.ends_with("_total") { "counter" } else { "gauge" };
                metrics::head(&mut out, m.name, kind, m.help);
                last = m.name;
            }
            let labels: Vec<String> = m.labels.iter().map(|(k, v)| format!("{k}=\"{}\"", metrics::escape(v))).collect();
            let _ = writeln!(out, "{}{{{}}} {}", m.name, labels.join(","), m.value);
        }
        out
    }
}
