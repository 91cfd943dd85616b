//! Carries what gateways of a fleet tell each other over a channel of Redis, there and back, on a thread of its own. It must
//! not decide what is told or obeyed: that is the edge's business.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};

use crate::edge::{Edge, FleetPolicy, Notice};
use crate::limits::store::Server;
use crate::privileges;

/// Pauses between attempts to connect: the first, doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// How often it is asked whether the listening connection is alive.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Bytes of an error at most, in the log.
const WORDS_MAX: usize = 200;

/// Where the fleet meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The Redis server.
    pub server: Arc<Server>,
    /// The channel.
    pub channel: String,
    /// What is taken from others.
    pub bounds: FleetPolicy,
}

/// The thread that carries.
pub struct Carrier {
    stop: watch::Sender<bool>,
    join: std::thread::JoinHandle<()>,
}

impl Carrier {
    /// Begins.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: Settings, edge: Arc<Edge>) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let join = std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
            privileges::of_worker();
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime.block_on(run(settings, edge, stopped)),
                Err(error) => tracing::error!(%error, "no runtime for the fleet"),
            }
        })?;
        Ok(Carrier { stop, join })
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // A panic in it was told already.
        let _ = self.join.join();
    }
}

async fn run(settings: Settings, edge: Arc<Edge>, mut stopped: watch::Receiver<bool>) {
    let mut notices = edge.join(settings.bounds.clone());
    let mut pause = PAUSE_FIRST;
    let mut complained = false;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = session(&settings, &edge, &mut notices) => ended,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        edge.link(false);
        if begun.elapsed() > PAUSE_LAST {
            (pause, complained) = (PAUSE_FIRST, false);
        }
        if !std::mem::replace(&mut complained, true) {
            tracing::warn!(server = %settings.server, why = words(&settings.server, &ended), "the fleet cannot be reached");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

/// One time of being connected; why it ended.
async fn session(settings: &Settings, edge: &Arc<Edge>, notices: &mut mpsc::Receiver<Notice>) -> String {
    match carry(settings, edge, notices).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn carry(
    settings: &Settings,
    edge: &Arc<Edge>,
    notices: &mut mpsc::Receiver<Notice>,
) -> Result<std::convert::Infallible, String> {
    let timeout = settings.server.timeout;
    let (mut talking, listening) = within(timeout, connect(&settings.server)).await?;
    let (mut sink, mut heard) = listening.split();
    within(timeout, async { sink.subscribe(&settings.channel).await.map_err(text) }).await?;
    // What waited is told anew.
    while notices.try_recv().is_ok() {}
    tracing::info!(server = %settings.server, channel = settings.channel, "the fleet is reached");
    edge.link(true);
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            notice = notices.recv() => {
                let Some(notice) = notice else { return Err("the edge has ended".to_owned()) };
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(&settings.channel).arg(notice.text());
                within(timeout, async { publish.query_async::<i64>(&mut talking).await.map_err(text) }).await?;
            }
            message = heard.next() => {
                let Some(message) = message else { return Err("the connection broke".to_owned()) };
                edge.hear_fleet(message.get_payload_bytes());
            }
            _ = ping.tick() => {
                within(timeout, async { sink.ping::<redis::Value>().await.map_err(text) }).await?;
            }
        }
    }
}

async fn connect(server: &Server) -> Result<(MultiplexedConnection, PubSub), String> {
    let mut identity = RedisConnectionInfo::default().set_db(server.database);
    if let Some(username) = &server.username {
        identity = identity.set_username(username);
    }
    if let Some(password) = &server.password {
        identity = identity.set_password(password);
    }
    let open = async || server.open().await.map_err(|error| error.to_string());
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let (talking, driver) =
        MultiplexedConnection::new_with_config(&identity, open().await?, config).await.map_err(text)?;
    tokio::task::spawn_local(driver);
    Ok((talking, PubSub::new(&identity, open().await?).await.map_err(text)?))
}

async fn within<T>(time: Duration, what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(time, what).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

fn text(error: RedisError) -> String {
    error.to_string()
}

/// A server's words, fit for the log: the first of them, and never the password.
fn words(server: &Server, words: &str) -> String {
    let mut words = match &server.password {
        Some(password) => words.replace(&**password, "***"),
        None => words.to_owned(),
    };
    words.truncate(words.floor_char_boundary(WORDS_MAX));
    words
}
