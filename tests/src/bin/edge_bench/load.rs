//! Good traffic: clients that keep their connections, and strangers that each come once, from an address of their own.
//! What counts is what was answered.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Keep-alive connections, and requests a second over all of them.
const CONNECTIONS: u32 = 20;
pub const REQUESTS_PER_SECOND: u32 = 2_000;
/// Strangers a second.
pub const STRANGERS_PER_SECOND: u32 = 50;
/// A request that takes longer was not answered.
const PATIENCE: Duration = Duration::from_secs(1);
/// A stranger's kernel sends its SYN again after a second, and then after two more.
const STRANGER_PATIENCE: Duration = Duration::from_millis(3_500);

/// What was tried and answered since the counters were last taken.
#[derive(Default)]
pub struct Counts {
    /// Requests over kept connections.
    pub requests: AtomicU64,
    /// Strangers that came.
    pub strangers: AtomicU64,
    /// Strangers that were answered.
    pub welcomed: AtomicU64,
}

/// Runs until `stop`, in the calling thread's namespace; strangers come from 10.78.0.0/16, which must be local there.
pub fn run(to: SocketAddr, counts: &Arc<Counts>, stop: &Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    for _ in 0..CONNECTIONS {
        local.spawn_local(keep(to, counts.clone(), stop.clone()));
    }
    let strangers = strangers(to, counts.clone(), stop.clone());
    local.block_on(&runtime, strangers);
    Ok(())
}

async fn keep(to: SocketAddr, counts: Arc<Counts>, stop: Arc<AtomicBool>) {
    let mut pace = interval(Duration::from_secs(1) * CONNECTIONS / REQUESTS_PER_SECOND);
    // As a browser: what could not be asked in time is not asked at once later. A little is caught up.
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut stream = None;
    while !stop.load(Relaxed) {
        pace.tick().await;
        if stream.is_none() {
            stream = timeout(PATIENCE, TcpStream::connect(to)).await.ok().and_then(Result::ok);
            pace.reset();
        }
        let Some(open) = &mut stream else { continue };
        let began = Instant::now();
        match timeout(PATIENCE, ask(open)).await {
            Ok(Ok(())) => {
                counts.requests.fetch_add(1, Relaxed);
            }
            _ => stream = None,
        }
        if began.elapsed() > PATIENCE / 4 {
            pace.reset();
        }
    }
}

async fn strangers(to: SocketAddr, counts: Arc<Counts>, stop: Arc<AtomicBool>) {
    let mut pace = interval(Duration::from_secs(1) / STRANGERS_PER_SECOND);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u16;
    while !stop.load(Relaxed) {
        pace.tick().await;
        number = number.wrapping_add(1);
        let [high, low] = number.to_be_bytes();
        let from = Ipv4Addr::new(10, 78, high, low);
        let (counts, stop) = (counts.clone(), stop.clone());
        tokio::task::spawn_local(async move {
            counts.strangers.fetch_add(1, Relaxed);
            let welcome = async {
                let mut stream = connect_from(from, to).await?;
                ask(&mut stream).await
            };
            if matches!(timeout(STRANGER_PATIENCE, welcome).await, Ok(Ok(()))) && !stop.load(Relaxed) {
                counts.welcomed.fetch_add(1, Relaxed);
            }
        });
    }
}

async fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    Ok(socket.connect(to).await?)
}

/// One request, and its answer with a length.
async fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(1_024);
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed");
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        ensure!(head.starts_with("HTTP/1.1 200"), "refused");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if length.is_some_and(|length| body.len() >= length) {
            return Ok(());
        }
    }
}
