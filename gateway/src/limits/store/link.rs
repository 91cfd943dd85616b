//! A worker's one connection to a Redis server: calls share it, none waits for another's answer. It is opened in the
//! background, and while it is down calls fail at once instead of waiting.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError, ScriptInvocation, Value};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Fault, Server};

/// Calls of one worker under way at a time, to one server.
const CALLS_MAX: u32 = 4096;
/// Pauses between attempts to connect: the first, doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// Bytes of a server's words at most, in the log.
const WORDS_MAX: usize = 200;
/// A server that nobody has asked for so long is left alone.
const UNUSED_MAX: Duration = Duration::from_secs(60);

thread_local! {
    static LINKS: RefCell<FxHashMap<Arc<Server>, Rc<Link>>> = RefCell::default();
}

struct Link {
    server: Arc<Server>,
    state: RefCell<State>,
    /// Counts connections, so that a late failure of one does not end the next.
    turn: Cell<u64>,
    calls: Cell<u32>,
    used: Cell<Instant>,
    /// Wakes those who wait for the first connection.
    opened: Notify,
}

enum State {
    /// Being opened for the first time: calls wait for it.
    First,
    /// Lost, or never reached; attempts go on in the background.
    Down,
    Up(MultiplexedConnection),
}

/// Runs a script on `server` over this worker's connection, within the server's time.
///
/// # Errors
/// Why there is no answer.
pub async fn call(server: &Arc<Server>, script: &ScriptInvocation<'_>) -> Result<Value, Fault> {
    let link = Link::of(server);
    let _call = Call::begin(&link)?;
    let turn = link.turn.get();
    match tokio::time::timeout(server.timeout, link.run(script)).await {
        Ok(answer) => answer,
        Err(_) => {
            // It hangs: whoever asks next must not wait as long.
            link.lose(turn.max(1), &Fault::Slow);
            Err(Fault::Slow)
        }
    }
}

/// One of the calls under way.
struct Call<'a>(&'a Link);

impl<'a> Call<'a> {
    fn begin(link: &'a Link) -> Result<Self, Fault> {
        if link.calls.get() >= CALLS_MAX {
            return Err(Fault::Full);
        }
        link.calls.set(link.calls.get() + 1);
        link.used.set(Instant::now());
        Ok(Call(link))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.calls.set(self.0.calls.get() - 1);
    }
}

impl Link {
    /// This worker's link to `server`; the first use begins to open it.
    fn of(server: &Arc<Server>) -> Rc<Self> {
        LINKS.with_borrow_mut(|links| {
            if let Some(link) = links.get(server) {
                return Rc::clone(link);
            }
            links.retain(|_, link| link.calls.get() > 0 || link.used.get().elapsed() < UNUSED_MAX);
            let link = Rc::new(Link {
                server: Arc::clone(server),
                state: State::First.into(),
                turn: Cell::new(0),
                calls: Cell::new(0),
                used: Cell::new(Instant::now()),
                opened: Notify::new(),
            });
            links.insert(Arc::clone(server), Rc::clone(&link));
            tokio::task::spawn_local(Rc::clone(&link).open(Duration::ZERO));
            link
        })
    }

    async fn run(self: &Rc<Self>, script: &ScriptInvocation<'_>) -> Result<Value, Fault> {
        let mut connection = self.connection().await?;
        let turn = self.turn.get();
        script.invoke_async(&mut connection).await.map_err(|error| {
            let fault = fault_of(&self.server, &error);
            if fault == Fault::Broken {
                self.lose(turn, &fault);
            }
            fault
        })
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Fault> {
        loop {
            let opened = self.opened.notified();
            match &*self.state.borrow() {
                State::Up(connection) => return Ok(connection.clone()),
                State::Down => return Err(Fault::Down),
                State::First => {}
            }
            opened.await;
        }
    }

    /// Gives up the connection of `turn`, unless there is a newer one, and begins to open another.
    fn lose(self: &Rc<Self>, turn: u64, why: &Fault) {
        if self.turn.get() != turn || !matches!(&*self.state.borrow(), State::Up(_)) {
            return;
        }
        tracing::warn!(server = %self.server, %why, "Redis is lost");
        *self.state.borrow_mut() = State::Down;
        tokio::task::spawn_local(Rc::clone(self).open(PAUSE_FIRST));
    }

    /// Notices the end of the connection that `driver` serves, whether or not anybody asks then.
    fn watch(self: &Rc<Self>, driver: JoinHandle<()>) {
        // A link that is given up ends its connection, and is not kept for it.
        let (link, turn) = (Rc::downgrade(self), self.turn.get());
        tokio::task::spawn_local(async move {
            // However it ended, it has.
            let _ = driver.await;
            if let Some(link) = link.upgrade() {
                link.lose(turn, &Fault::Broken);
            }
        });
    }

    /// Tries to connect until it succeeds, with growing pauses, or nobody has asked for long.
    async fn open(self: Rc<Self>, mut pause: Duration) {
        loop {
            if self.used.get().elapsed() > UNUSED_MAX {
                LINKS.with_borrow_mut(|links| links.remove(&self.server));
                return;
            }
            tokio::time::sleep(pause).await;
            let fault = match tokio::time::timeout(self.server.timeout, connect(&self.server)).await {
                Ok(Ok((connection, driver))) => {
                    self.turn.set(self.turn.get() + 1);
                    self.watch(driver);
                    tracing::info!(server = %self.server, "Redis is reached");
                    *self.state.borrow_mut() = State::Up(connection);
                    self.opened.notify_waiters();
                    return;
                }
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Slow,
            };
            if matches!(&*self.state.borrow(), State::First) {
                tracing::warn!(server = %self.server, why = %fault, "Redis cannot be reached");
                *self.state.borrow_mut() = State::Down;
                self.opened.notify_waiters();
            }
            pause = (pause * 2).clamp(PAUSE_FIRST, PAUSE_LAST);
        }
    }
}

/// A connection on which the server has answered, and the task that serves it until it ends.
async fn connect(server: &Server) -> Result<(MultiplexedConnection, JoinHandle<()>), Fault> {
    let stream = server.open().await.map_err(|error| refused(server, &error))?;
    let mut identity = RedisConnectionInfo::default().set_db(server.database);
    if let Some(username) = &server.username {
        identity = identity.set_username(username);
    }
    if let Some(password) = &server.password {
        identity = identity.set_password(password);
    }
    // Every call has a limit of its own.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&identity, stream, config).await.map_err(|e| fault_of(server, &e))?;
    let driver = tokio::task::spawn_local(driver);
    let _: Value = redis::cmd("PING").query_async(&mut connection).await.map_err(|e| fault_of(server, &e))?;
    Ok((connection, driver))
}

fn fault_of(server: &Server, error: &RedisError) -> Fault {
    if error.is_timeout() {
        Fault::Slow
    } else if error.is_io_error() || error.is_connection_dropped() {
        Fault::Broken
    } else {
        refused(server, error)
    }
}

/// A server's no, fit for the log: its first words, and never the password.
pub(super) fn refused(server: &Server, error: &dyn Display) -> Fault {
    let mut words = error.to_string();
    if let Some(password) = &server.password {
        words = words.replace(&**password, "***");
    }
    words.truncate(words.floor_char_boundary(WORDS_MAX));
    Fault::Refused(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_cut_and_never_shows_the_password() {
        let server = Server {
            host: "h".to_owned(),
            port: 1,
            database: 0,
            username: None,
            password: Some("s3cret".to_owned()),
            tls: None,
            timeout: Duration::from_secs(1),
        };
        assert_eq!(refused(&server, &"ERR s3cret is wrong"), Fault::Refused("ERR *** is wrong".to_owned()));
        let long = format!("{}é{}", "x".repeat(WORDS_MAX - 1), "s3cret".repeat(100));
        assert_eq!(refused(&server, &long), Fault::Refused("x".repeat(WORDS_MAX - 1)));
    }
}
