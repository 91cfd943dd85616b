//! The gateway as a process: started on free ports with a configuration text, waited for by its
//! ready file, ended on drop. If the test fails, what the process said is printed.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Request, send};
use crate::deadline::{PATIENCE, eventually, holds_within};
use crate::listeners::with_listeners;
use crate::message::Reply;
use crate::process::{Exit, Output, wait};

/// Where the binary is: `GATEWAY_BIN`, or the debug build of this workspace.
#[track_caller]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("GATEWAY_BIN") {
        return PathBuf::from(path);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = target.unwrap_or_else(|| workspace.join("target")).join("debug/gateway");
    assert!(
        path.exists(),
        "there is no gateway at {}: run `cargo build -p gateway`, or set GATEWAY_BIN",
        path.display()
    );
    path
}

/// Runs the binary to its end with `arguments`; ends it after [`PATIENCE`].
#[track_caller]
pub fn command(arguments: &[&str]) -> Exit {
    let mut child = bare(arguments).spawn().expect("the binary can be started");
    let output = Output::of(&mut child);
    let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
        // It is ours and it hangs.
        let _ = child.kill();
        panic!("{arguments:?} does not end: {}", output.stderr())
    });
    output.exit(status)
}

/// The binary with none of the caller's settings.
fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("KONG_") || (text.starts_with("GATEWAY_") && text != "GATEWAY_BIN") {
            command.env_remove(&name);
        }
    }
    command
}

/// `program words… command`.
fn wrapped(program: &str, words: &[String], command: &Command) -> Command {
    let mut outer = Command::new(program);
    outer.args(words).arg(command.get_program()).args(command.get_args());
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// What is needed to start a gateway.
pub struct Setup {
    text: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    by_environment: bool,
    through: Vec<String>,
}

impl Setup {
    /// A gateway with this configuration. Listeners on free ports of loopback are added to it
    /// unless its `gateway:` block has them; a TLS listener if the text has certificates.
    pub fn new(text: &str) -> Self {
        Self {
            text: with_listeners(text),
            arguments: Vec::new(),
            environment: Vec::new(),
            by_environment: false,
            through: Vec::new(),
        }
    }

    /// A gateway with exactly this file, told by `KONG_DECLARATIVE_CONFIG` instead of an argument.
    pub fn by_environment(text: &str) -> Self {
        Self { text: text.to_owned(), by_environment: true, ..Self::new("") }
            .env("KONG_DATABASE", "off")
            .env("KONG_PROXY_LISTEN", "127.0.0.1:0")
            .env("KONG_ADMIN_LISTEN", "127.0.0.1:0")
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts the binary through another program, which may end as another user: the folder is everybody's.
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Gateway {
        match self.launch() {
            Ok(gateway) => gateway,
            Err(exit) => panic!("the gateway does not start: {:?}\n{}", exit.code, exit.stderr),
        }
    }

    /// Starts it where the refusal is the expected outcome.
    #[track_caller]
    pub fn refuse(self) -> Exit {
        match self.launch() {
            Ok(_) => panic!("the gateway starts with a configuration that it should refuse"),
            Err(exit) => exit,
        }
    }

    /// Starts it, or says how it ended instead.
    #[track_caller]
    pub fn launch(self) -> Result<Gateway, Exit> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("kong.yml");
        fs::write(&file, &self.text).expect("the temporary folder is writable");
        let ready = folder.path().join("ready.json");
        let mut command = bare(&["run"]);
        if let Some((program, words)) = self.through.split_first() {
            let everybody = fs::Permissions::from_mode(0o777);
            fs::set_permissions(folder.path(), everybody).expect("the temporary folder is ours");
            command = wrapped(program, words, &command);
        }
        if !self.by_environment {
            command.arg("-c").arg(&file);
        } else {
            command.env("KONG_DECLARATIVE_CONFIG", &file);
        }
        command.arg("--ready-file").arg(&ready).args(&self.arguments).envs(self.environment);
        let mut child = command.spawn().expect("the binary can be started");
        let output = Output::of(&mut child);
        let mut ended = None;
        let served = holds_within(PATIENCE, || {
            ended = child.try_wait().expect("the child is ours");
            ended.is_some() || ready.exists()
        });
        if let Some(status) = ended {
            return Err(output.exit(status));
        }
        if !served {
            // It is ours and it hangs.
            let _ = child.kill();
            panic!("no ready file within {PATIENCE:?}: {}", output.stderr());
        }
        let ready: Value = fs::read_to_string(&ready)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_str(&text)?))
            .expect("the ready file is written as a whole");
        Ok(Gateway::new(child, output, folder, file, &ready))
    }
}

/// A running gateway.
pub struct Gateway {
    child: Child,
    output: Output,
    file: PathBuf,
    pid: u32,
    proxies: Vec<SocketAddr>,
    tls_proxies: Vec<SocketAddr>,
    streams: Vec<SocketAddr>,
    tls_streams: Vec<SocketAddr>,
    udp_streams: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    folder: TempDir,
}

impl Gateway {
    /// See [`Setup::new`].
    #[track_caller]
    pub fn start(text: &str) -> Self {
        Setup::new(text).start()
    }

    #[track_caller]
    fn new(child: Child, output: Output, folder: TempDir, file: PathBuf, ready: &Value) -> Self {
        let addresses = |name: &str| -> Vec<SocketAddr> {
            let listed = ready[name].as_array().cloned().unwrap_or_default();
            listed.iter().filter_map(|value| value.as_str()?.parse().ok()).collect()
        };
        let pid = ready["pid"].as_u64().unwrap_or_default();
        Self {
            child,
            output,
            file,
            pid: u32::try_from(pid).unwrap_or_default(),
            proxies: addresses("proxy"),
            tls_proxies: addresses("proxy_tls"),
            streams: addresses("stream"),
            tls_streams: addresses("stream_tls"),
            udp_streams: addresses("stream_udp"),
            admin: ready["admin"].as_str().and_then(|text| text.parse().ok()),
            folder,
        }
    }

    /// The first listener in the clear.
    #[track_caller]
    pub fn proxy(&self) -> SocketAddr {
        *self.proxies.first().expect("the ready file names a proxy listener")
    }

    /// The first listener with TLS.
    #[track_caller]
    pub fn proxy_tls(&self) -> SocketAddr {
        *self.tls_proxies.first().expect("the ready file names a TLS listener")
    }

    /// The first listener for streams in the clear.
    #[track_caller]
    pub fn stream(&self) -> SocketAddr {
        *self.streams.first().expect("the ready file names a stream listener")
    }

    /// The first listener for streams with TLS.
    #[track_caller]
    pub fn stream_tls(&self) -> SocketAddr {
        *self.tls_streams.first().expect("the ready file names a TLS stream listener")
    }

    /// The first listener for datagrams.
    #[track_caller]
    pub fn stream_udp(&self) -> SocketAddr {
        *self.udp_streams.first().expect("the ready file names a UDP stream listener")
    }

    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("the ready file names the admin listener")
    }

    /// False if the admin listener is switched off.
    pub fn has_admin(&self) -> bool {
        self.admin.is_some()
    }

    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin())
    }

    /// The process id that the ready file names.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A folder of this gateway's own, gone with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_file(&self) -> &Path {
        &self.file
    }

    /// A connection to the first listener in the clear.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.proxy())
    }

    /// A connection from another address of the loopback network.
    #[track_caller]
    pub fn connect_from(&self, from: [u8; 4]) -> Client {
        Client::connect_from(self.proxy(), Ipv4Addr::from(from))
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Reply {
        send(self.proxy(), request)
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Reply {
        self.send(&Request::get(target))
    }

    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Reply {
        send(self.admin(), &Request::get(target).host(&self.admin().to_string()))
    }

    #[track_caller]
    pub fn admin_post(&self, target: &str, kind: &str, body: &str) -> Reply {
        let request = Request::post(target, body).host(&self.admin().to_string());
        send(self.admin(), &request.header("Content-Type", kind))
    }

    /// `/status` as JSON.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.admin_get("/status").expect(200).json()
    }

    /// Replaces the configuration file in one step, as editors and orchestrators do.
    pub fn replace_file(&self, text: &str) {
        let next = self.folder.path().join("next.yml");
        fs::write(&next, with_listeners(text)).expect("the temporary folder is writable");
        fs::rename(&next, &self.file).expect("both are in one folder");
    }

    /// Replaces the file, sends SIGHUP and waits until `taken` holds.
    #[track_caller]
    pub fn reload(&self, text: &str, taken: impl FnMut() -> bool) {
        self.replace_file(text);
        self.signal(Signal::SIGHUP);
        eventually("the new configuration is taken", taken);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids fit");
        kill(Pid::from_raw(pid), signal).expect("the child is ours");
    }

    pub fn sigterm(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Waits for the end; `None` if it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, limit)
    }

    /// True while the process runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn stdout(&self) -> String {
        self.output.stdout()
    }

    pub fn stderr(&self) -> String {
        self.output.stderr()
    }

    /// The access log's records so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = self.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an access-log record for which `wanted` holds.
    #[track_caller]
    pub fn access_record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually("the access log has the record", || {
            found = self.access_log().into_iter().find(|record| wanted(record));
            found.is_some()
        });
        found.expect("it was found")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the gateway's stderr ---\n{}", self.output.stderr());
            let out = self.output.stdout();
            let tail = out.len().saturating_sub(1500);
            eprintln!("--- the end of its stdout ---\n{}", out.get(tail..).unwrap_or(&out));
        }
    }
}
