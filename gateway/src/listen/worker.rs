//! A worker thread: its own runtime, its own sockets, its own everything. Commands come from the control plane.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use super::connection;
use super::registry::Registry;
use super::socket::Port;
use super::stream;
use crate::clock;
use crate::config::Snapshot;
use crate::drain::Drained;
use crate::edge::Admission;
use crate::proxy::worker::Worker;
use crate::telemetry::metrics;

/// What the control plane asks of a worker.
pub enum Command {
    /// Serve new requests by this configuration.
    Adopt(Arc<Snapshot>),
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

/// How often a worker sweeps its pool and hands over its log.
const TICK: Duration = Duration::from_millis(200);
/// How long it waits when descriptors have run out, so that a full table does not spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Starts worker `id` on its sockets, each with what is spoken on it. `make` builds the worker on its own thread.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    id: usize,
    sockets: Vec<(TcpListener, Port)>,
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
    sockets: Vec<(TcpListener, Port)>,
    mut inbox: mpsc::Receiver<Command>,
    mut drained: Drained,
) {
    let registry = Rc::new(Registry::default());
    for (socket, port) in sockets {
        tokio::task::spawn_local(accept(Rc::clone(&worker), socket, port, Rc::clone(&registry), drained.clone()));
    }
    let mut tick = tokio::time::interval(TICK);
    let mut finishing = false;
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Adopt(snapshot)) => worker.adopt(snapshot),
                Some(Command::Flush(answer)) => { let _ = answer.send(counted(&worker)); }
                None => break,
            },
            _ = tick.tick() => {
                worker.renew_wall_clock();
                worker.flush_log();
                let now_ns = clock::monotonic_ns();
                worker.pool.sweep(now_ns);
                registry.sweep(now_ns, worker.local().snapshot.settings.timeouts);
                if finishing && worker.connections.get() == 0 {
                    break;
                }
            }
            () = drained.wait(), if !finishing => {
                finishing = true;
                registry.finish();
            }
        }
    }
    worker.flush_log();
}

fn counted(worker: &Worker) -> metrics::Local {
    let mut local = worker.take_metrics();
    local.connections = worker.connections.get();
    local.idle_upstream = worker.pool.len() as u64;
    local
}

async fn accept(worker: Rc<Worker>, socket: TcpListener, port: Port, registry: Rc<Registry>, mut drained: Drained) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot accept"),
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                if !admitted(&worker, peer.ip()) {
                    // Closing with a reset keeps nothing in TIME_WAIT for a refused client.
                    let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                    continue;
                }
                let guard = Open::new(&worker);
                let registry = Rc::clone(&registry);
                tokio::task::spawn_local(async move {
                    if port.stream {
                        return stream::serve(Rc::clone(&guard.0), tcp, peer, port).await;
                    }
                    connection::serve(Rc::clone(&guard.0), tcp, peer, port.tls, registry).await;
                });
            }
            // The peer gave up in between: nothing to wait for.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn admitted(worker: &Worker, ip: std::net::IpAddr) -> bool {
    let Some(edge) = &worker.edge else { return true };
    matches!(edge.standings.admit_connection(ip.to_canonical(), clock::monotonic_ns()), Admission::Admit)
}

/// An open connection, counted.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.count_accepted();
        Open(Rc::clone(worker))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
