//! A Redis server of a test's own: on a free port of loopback, without persistence, ended with the value. It can be
//! killed, paused and started again on its port, and asked what it holds.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::deadline::eventually;
use crate::process;
use crate::tls::Pair;

/// A server.
pub struct Redis {
    arguments: Vec<String>,
    port: u16,
    /// Where the words below are said; with TLS a second port in the clear.
    plain: SocketAddr,
    password: Option<String>,
    child: Option<Child>,
    folder: TempDir,
}

impl Redis {
    /// A server without a password.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A server with more arguments.
    #[track_caller]
    pub fn with(arguments: &[&str]) -> Self {
        let port = free_port();
        Self::launch(port, port, arguments.iter().map(|&word| word.to_owned()).collect())
    }

    /// A server with TLS that shows `pair`, and a port in the clear for [`Redis::say`].
    #[track_caller]
    pub fn tls(pair: &Pair) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, &pair.certificate_pem).expect("writable");
        std::fs::write(&key, &pair.key_pem).expect("writable");
        let (port, plain) = (free_port(), free_port());
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let arguments = ["--tls-port", &port.to_string(), "--tls-auth-clients", "no", "--tls-cert-file", &text(&cert)];
        let more = ["--tls-key-file", &text(&key), "--tls-ca-cert-file", &text(&cert)];
        let arguments = arguments.iter().chain(&more).map(|&word| word.to_owned()).collect();
        let mut server = Self::launch(port, plain, arguments);
        server.folder = folder;
        server
    }

    #[track_caller]
    fn launch(port: u16, plain: u16, arguments: Vec<String>) -> Self {
        let password = arguments.iter().position(|word| word == "--requirepass").map(|at| arguments[at + 1].clone());
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let plain = SocketAddr::from(([127, 0, 0, 1], plain));
        let mut server = Redis { arguments, port, plain, password, child: None, folder };
        server.restart();
        server
    }

    /// The port that clients use.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that clients use.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it, empty, on its port.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &self.plain.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(self.folder.path()).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed"));
        eventually("Redis answers", || self.try_say(&["PING"]).is_some());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It accepts connections and answers nothing any more.
    pub fn pause(&self) {
        process::pause(self.child.as_ref().expect("it runs"));
    }

    /// It goes on.
    pub fn resume(&self) {
        process::resume(self.child.as_ref().expect("it runs"));
    }

    /// What it answers to a command, one line a value; an array's head is left out.
    #[track_caller]
    pub fn say(&self, words: &[&str]) -> Vec<String> {
        self.try_say(words).unwrap_or_else(|| panic!("Redis does not answer {words:?}"))
    }

    fn try_say(&self, words: &[&str]) -> Option<Vec<String>> {
        let mut stream = TcpStream::connect(self.plain).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        if let Some(password) = &self.password {
            stream.write_all(&encoded(&["AUTH", password])).ok()?;
            answer(&mut reader)?;
        }
        stream.write_all(&encoded(words)).ok()?;
        answer(&mut reader)
    }

    /// Commands of that name so far, as `INFO commandstats` counts them.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.say(&["INFO", "commandstats"]).join("\n");
        let line = stats
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that is free now. Another process may take it before Redis does; then the test says so.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("the listener is bound").port()
}

fn encoded(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

fn answer(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let (kind, rest) = line.trim_end().split_at_checked(1)?;
    match kind {
        "$" => {
            let length: i64 = rest.parse().ok()?;
            let mut bytes = vec![0; usize::try_from(length).map_or(0, |length| length + 2)];
            reader.read_exact(&mut bytes).ok()?;
            bytes.truncate(bytes.len().saturating_sub(2));
            Some(vec![String::from_utf8_lossy(&bytes).into_owned()])
        }
        "*" => {
            let mut values = Vec::new();
            for _ in 0..rest.parse::<i64>().ok()?.max(0) {
                values.extend(answer(reader)?);
            }
            Some(values)
        }
        _ => Some(vec![rest.to_owned()]),
    }
}
