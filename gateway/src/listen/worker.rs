//! A worker thread: its own runtime, its own sockets, its own everything. Commands come from the control plane.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::connection::{self, Party};
use super::datagram;
use super::introduced::{Fault, Introduced, introduce};
use super::socket::{Listening, Port};
use super::stream;
use super::wire;
use crate::clock;
use crate::config::Snapshot;
use crate::drain::Drained;
use crate::edge::{Admission, Standings};
use crate::identity::Revoked;
use crate::limits::Level;
use crate::proxy::presence::Patience;
use crate::proxy::worker::{Seat, Worker};
use crate::telemetry::metrics;

/// What the control plane asks of a worker.
pub enum Command {
    /// Serve new requests by this configuration, and close what lives by credentials that it has no more.
    Adopt(Arc<Snapshot>, Arc<Revoked>),
    /// Close what lives by these credentials.
    Revoke(Arc<Revoked>),
    /// Hand over what was counted.
    Flush(oneshot::Sender<metrics::Local>),
}

/// A running worker.
pub struct Thread {
    /// For commands.
    pub commands: mpsc::Sender<Command>,
    /// Ends when the worker has drained.
    pub join: JoinHandle<()>,
}

/// The inboxes of all workers.
pub struct Workers(pub Vec<mpsc::Sender<Command>>);

impl Workers {
    /// Sends each what `command` makes, as soon as it has room for it. Returns at once.
    pub fn order(&self, command: impl Fn() -> Command + Clone + Send + 'static) {
        for worker in &self.0 {
            if worker.try_send(command()).is_ok() {
                continue;
            }
            let (worker, command) = (worker.clone(), command.clone());
            tokio::spawn(async move {
                match worker.reserve().await {
                    Ok(place) => place.send(command()),
                    Err(_) => tracing::error!("a worker is gone and takes no orders"),
                }
            });
        }
    }
}

/// How often a worker sweeps its pool and hands over its log.
const TICK: Duration = Duration::from_millis(200);
/// How long it waits when descriptors have run out, so that a full table does not spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Between two looks at all connections, for those that are cut.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often it says so.
const TELL_AGAIN_NS: u64 = 1_000_000_000;
/// How long a worker that ends waits until Redis was told what was counted.
const TELL_MAX: Duration = Duration::from_secs(2);

/// Starts worker `id` on its sockets, each with what is spoken on it. `make` builds the worker on its own thread.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    id: usize,
    sockets: Vec<(Listening, Port)>,
    drained: Drained,
    make: impl FnOnce() -> Worker + Send + 'static,
) -> std::io::Result<Thread> {
    let (commands, inbox) = mpsc::channel(16);
    let join = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(run(Rc::new(make()), sockets, inbox, drained)),
            Err(error) => tracing::error!(%error, worker = id, "no runtime"),
        }
    })?;
    Ok(Thread { commands, join })
}

async fn run(
    worker: Rc<Worker>,
    sockets: Vec<(Listening, Port)>,
    mut inbox: mpsc::Receiver<Command>,
    mut drained: Drained,
) {
    let sessions = Rc::default();
    for (socket, port) in sockets {
        let (worker, drained) = (Rc::clone(&worker), drained.clone());
        match socket {
            Listening::Connections(socket) => tokio::task::spawn_local(accept(worker, socket, port, drained)),
            Listening::Datagrams(socket) => {
                tokio::task::spawn_local(datagram::serve(worker, socket, Rc::clone(&sessions), drained))
            }
        };
    }
    let mut tick = tokio::time::interval(TICK);
    let mut finishing = false;
    let mut some_rested = false;
    let mut severances = Severances::of(worker.edge.as_ref().map(|edge| &*edge.standings));
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Adopt(snapshot, revoked)) => {
                    worker.adopt(snapshot);
                    worker.revoke(&revoked);
                }
                Some(Command::Revoke(revoked)) => worker.revoke(&revoked),
                Some(Command::Flush(answer)) => { let _ = answer.send(counted(&worker)); }
                None => break,
            },
            _ = tick.tick() => {
                worker.renew_wall_clock();
                worker.flush_log();
                let now_ns = clock::monotonic_ns();
                if some_rested || worker.shared.pressure.level() >= Level::Shed {
                    stir_allocator();
                }
                worker.pool.sweep(now_ns);
                worker.streams.sweep(now_ns);
                let tell = |reason| worker.count_ended(reason);
                some_rested = worker.registry.sweep(now_ns, &patience(&worker), tell);
                if finishing && worker.connections.get() == 0 {
                    break;
                }
            }
            () = severances.due() => {
                severances.looked();
                worker.sever(clock::monotonic_ns());
            }
            () = drained.wait(), if !finishing => {
                finishing = true;
                worker.registry.finish();
                worker.shared.fleet.close();
            }
        }
    }
    worker.flush_log();
    worker.shared.fleet.told(TELL_MAX).await;
}

/// When to look at open connections because the edge has cut some: at once, but not more often than `LOOK_AGAIN`, so that a
/// run of cuts does not cost a look each.
struct Severances {
    changes: Option<watch::Receiver<u64>>,
    looked: Instant,
    is_due: bool,
}

impl Severances {
    fn of(standings: Option<&Standings>) -> Self {
        Severances { changes: standings.map(Standings::severances), looked: Instant::now(), is_due: false }
    }

    /// Waits for a cut, and for its turn; for ever where there is no edge. A wait that is given up loses nothing.
    async fn due(&mut self) {
        if !self.is_due {
            let told = match &mut self.changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !told {
                return std::future::pending().await;
            }
            self.is_due = true;
        }
        tokio::time::sleep_until(self.looked + LOOK_AGAIN).await;
    }

    fn looked(&mut self) {
        (self.looked, self.is_due) = (Instant::now(), false);
    }
}

/// The allocator gives freed memory back to the system when it is asked for some, and a worker that sheds or rests asks for
/// little: without this what was freed would count as used for ever.
fn stir_allocator() {
    let blocks: Vec<Vec<u8>> = (12..=22).map(|bits| Vec::with_capacity(1 << bits)).collect();
    drop(std::hint::black_box(blocks));
}

fn counted(worker: &Worker) -> metrics::Local {
    let mut local = worker.take_metrics();
    local.connections = worker.connections.get();
    local.idle_upstream = (worker.pool.len() + worker.streams.idle()) as u64;
    local
}

async fn accept(worker: Rc<Worker>, socket: TcpListener, port: Port, mut drained: Drained) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept"),
    };
    // On an address of its own every connection has that one.
    let bound = listener.local_addr().ok().filter(|address| !address.ip().is_unspecified());
    let mut told_ns = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let seat = match admit(&worker, peer.ip().to_canonical(), Standings::admit_connection) {
                    Ok(seat) => seat,
                    Err(reason) => {
                        worker.count_refused(reason);
                        wire::reset_on_close(&tcp);
                        continue;
                    }
                };
                let Some(local) = bound.or_else(|| tcp.local_addr().ok()) else { continue };
                worker.count_accepted();
                let worker = Rc::clone(&worker);
                let party = Party { peer, local, told: false };
                if port.proxy_protocol {
                    tokio::task::spawn_local(introduced(worker, tcp, (party, seat), port, drained.clone()));
                } else {
                    tokio::task::spawn_local(serve(worker, tcp, party, port, seat));
                }
            }
            // The peer gave up in between: nothing to wait for.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                worker.count_refused("accept_error");
                let now_ns = clock::monotonic_ns();
                if now_ns.saturating_sub(told_ns) >= TELL_AGAIN_NS {
                    told_ns = now_ns;
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Serves a connection to its end; the seat is held until then.
async fn serve(worker: Rc<Worker>, tcp: TcpStream, party: Party, port: Port, _seat: Seat) {
    if port.stream {
        stream::serve(worker, tcp, (party.peer, party.local), port).await;
    } else {
        connection::serve(worker, tcp, party, port.tls).await;
    }
}

/// The same for a connection that a load balancer introduces.
async fn introduced(
    worker: Rc<Worker>,
    mut tcp: TcpStream,
    (party, seat): (Party, Seat),
    port: Port,
    mut drained: Drained,
) {
    let peer = SocketAddr::new(party.peer.ip().to_canonical(), party.peer.port());
    match introduce(&worker, &mut tcp, (peer, seat), port.stream, &mut drained).await {
        Ok(Introduced { source, told, seat }) => {
            serve(worker, tcp, Party { peer: source, told, ..party }, port, seat).await;
        }
        Err(Fault::Gone) => {}
        Err(Fault::Refused(reason)) => {
            worker.count_refused(reason);
            wire::reset_on_close(&tcp);
        }
    }
}

/// A seat for a connection from `ip`, or why it has none; `judge` asks the edge.
pub(super) fn admit(
    worker: &Rc<Worker>,
    ip: IpAddr,
    judge: impl Fn(&Standings, IpAddr, u64) -> Admission,
) -> Result<Seat, &'static str> {
    if let Some(edge) = &worker.edge
        && !matches!(judge(&edge.standings, ip, clock::monotonic_ns()), Admission::Admit)
    {
        return Err("edge");
    }
    if worker.shared.pressure.level() >= Level::Shut {
        return Err("memory");
    }
    let local = worker.local();
    let settings = &local.snapshot.settings;
    // The kernel spreads connections over the workers, so each holds its share.
    let share = |limit: u64| limit.div_ceil(settings.workers as u64);
    if worker.connections.get() >= share(settings.limits.connections) {
        return Err("connections");
    }
    let per_source = share(settings.limits.connections_per_source);
    if per_source > 0 && worker.seats_of(ip) >= per_source && !settings.is_trusted(ip) {
        return Err("connections_per_source");
    }
    Ok(Seat::new(worker, ip))
}

/// The time that clients have.
pub(super) fn patience(worker: &Worker) -> Patience {
    let timeouts = worker.local().snapshot.settings.timeouts;
    let hurry = worker.shared.pressure.level() >= Level::Shut;
    let timeouts = if hurry { timeouts.hurried() } else { timeouts };
    Patience { header: timeouts.header, idle: timeouts.idle, write: timeouts.write }
}
