//! A tiny upstream that tells what reached it: method, path and headers as JSON. `/status/N` answers N, and anything
//! under `/flaky` fails while [`Upstream::fail`] says so. A thread a connection; bounded.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::http;

const CONNECTIONS_MAX: usize = 512;
const IDLE: Duration = Duration::from_secs(60);

/// A running upstream; its threads end with the process.
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    failing: AtomicBool,
    requests: AtomicU64,
    connections: AtomicUsize,
}

impl Upstream {
    /// Listens and serves, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, &shared));
        Ok(Self { address, state })
    }

    /// Whether `/flaky` answers 500 from now on.
    pub fn fail(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::Relaxed);
    }

    /// How many requests reached it.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming().flatten() {
        if state.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            state.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            // An error ends this connection only: the peer went away or does not speak HTTP.
            let _ended = serve(stream, &state);
            state.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut stream = BufReader::new(stream);
    while let Some((first, headers)) = http::read_head(&mut stream)? {
        let body = http::read_body(&mut stream, &headers)?;
        state.requests.fetch_add(1, Ordering::Relaxed);
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, answer) = reply(state, method, path, &headers, &body);
        let mut bytes = format!(
            "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        )
        .into_bytes();
        if method != "HEAD" {
            bytes.extend_from_slice(answer.as_bytes());
        }
        stream.get_mut().write_all(&bytes)?;
    }
    Ok(())
}

fn reply(state: &State, method: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> (u16, String) {
    let asked =
        path.strip_prefix("/status/").and_then(|code| code.parse().ok()).filter(|code| (200..600).contains(code));
    let status = match asked {
        Some(code) => code,
        None if path.starts_with("/flaky") && state.failing.load(Ordering::Relaxed) => 500,
        None => 200,
    };
    let headers: serde_json::Map<String, serde_json::Value> =
        headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let echo = json!({ "method": method, "path": path, "headers": headers, "body": String::from_utf8_lossy(body) });
    (status, echo.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_echoes_and_fails_on_demand() {
        let upstream = Upstream::start("127.0.0.1:0").unwrap();
        let answer = http::once(upstream.address, "GET", "/a?b=1", &[("X-One", "1")]).unwrap();
        let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&echo["path"], &echo["headers"]["x-one"]), (&json!("/a?b=1"), &json!("1")));
        assert_eq!(http::once(upstream.address, "GET", "/flaky", &[]).unwrap().status, 200);
        upstream.fail(true);
        assert_eq!(http::once(upstream.address, "GET", "/flaky", &[]).unwrap().status, 500);
        assert_eq!(http::once(upstream.address, "GET", "/status/418", &[]).unwrap().status, 418);
        assert_eq!(upstream.requests(), 4);
    }
}
