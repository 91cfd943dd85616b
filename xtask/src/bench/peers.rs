//! The proxies under measurement and the upstream behind them: their configurations, as equal as their languages
//! allow, and their processes. One worker each, keep-alive on both sides, one prefix route, no access log.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{process, shell};

const STARTED_WITHIN: Duration = Duration::from_secs(10);
const UPSTREAM_CONNECTIONS: u32 = 64;

/// A pinned process that serves an address.
pub struct Server {
    pub name: &'static str,
    pub version: String,
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// CPU time of all its processes so far.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::family(self.child.id()).into_iter().map(process::cpu_time).sum()
    }

    /// Resident memory of all its processes.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        process::family(self.child.id()).into_iter().map(process::resident_kib).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A master ends its workers on SIGTERM, not on SIGKILL.
        let ended = i32::try_from(self.child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        let deadline = Instant::now() + Duration::from_secs(5);
        while ended && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Where and on which core to start.
pub struct Place<'a> {
    pub folder: &'a Path,
    pub core: usize,
}

/// nginx answering a tiny body.
///
/// # Errors
/// It did not start.
pub fn upstream(place: &Place<'_>) -> Result<Server> {
    let address = free()?;
    let http = format!(
        "server {{ listen {address} reuseport; keepalive_requests 100000000; \
         location / {{ default_type text/plain; return 200 \"hello\"; }} }}"
    );
    nginx("upstream", place, address, &http)
}

/// nginx as a proxy.
///
/// # Errors
/// It did not start.
pub fn nginx_proxy(place: &Place<'_>, upstream: SocketAddr) -> Result<Server> {
    let address = free()?;
    let http = format!(
        "upstream up {{ server {upstream}; keepalive {UPSTREAM_CONNECTIONS}; keepalive_requests 100000000; }}\n\
         server {{ listen {address}; keepalive_requests 100000000;\n\
         location /api/ {{ proxy_pass http://up/; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}"
    );
    nginx("nginx", place, address, &http)
}

fn nginx(name: &'static str, place: &Place<'_>, address: SocketAddr, http: &str) -> Result<Server> {
    let folder = place.folder.join(name);
    std::fs::create_dir_all(&folder)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let text = format!(
        "worker_processes 1;\ndaemon off;\npid {0}/pid;\nerror_log {0}/error.log;\n\
         events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n{temporary}{http}\n}}\n",
        folder.display()
    );
    let file = write(&folder, "nginx.conf", &text)?;
    let mut command = pinned("nginx", place)?;
    command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(&folder).arg("-c").arg(file);
    start(name, version("nginx", "-v", "nginx/"), address, command, &folder)
}

/// haproxy.
///
/// # Errors
/// It did not start.
pub fn haproxy(place: &Place<'_>, upstream: SocketAddr) -> Result<Server> {
    let address = free()?;
    let folder = place.folder.join("haproxy");
    std::fs::create_dir_all(&folder)?;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
         frontend front\n  bind {address}\n  use_backend up if {{ path_beg /api/ }}\n\
         backend up\n  http-request replace-path /api/(.*) /\\1\n  server one {upstream} pool-max-conn {UPSTREAM_CONNECTIONS}\n"
    );
    let file = write(&folder, "haproxy.cfg", &text)?;
    let mut command = pinned("haproxy", place)?;
    command.arg("-db").arg("-f").arg(file);
    start("haproxy", version("haproxy", "-v", "version "), address, command, &folder)
}

/// This gateway, in its `dist` build.
///
/// # Errors
/// It did not start.
pub fn gateway(place: &Place<'_>, binary: &Path, upstream: SocketAddr) -> Result<Server> {
    let services =
        format!("services:\n- name: up\n  url: http://{upstream}/\n  routes:\n  - name: api\n    paths: [/api/]\n");
    gateway_of(place, binary, &services)
}

/// This gateway with entities of the caller's.
///
/// # Errors
/// It did not start.
pub fn gateway_of(place: &Place<'_>, binary: &Path, entities: &str) -> Result<Server> {
    let address = free()?;
    let folder = place.folder.join("gateway");
    std::fs::create_dir_all(&folder)?;
    let text = format!(
        "_format_version: \"3.0\"\n\
         gateway:\n  listen: [\"{address}\"]\n  admin: \"127.0.0.1:0\"\n  workers: 1\n  access_log: off\n{entities}"
    );
    let file = write(&folder, "kong.yml", &text)?;
    let mut command = pinned(binary, place)?;
    command.arg("run").arg("-c").arg(file);
    let version = shell::output(shell::program(binary).arg("--version")).unwrap_or_default();
    start("gateway", version.trim().to_owned(), address, command, &folder)
}

fn pinned(program: impl AsRef<std::ffi::OsStr>, place: &Place<'_>) -> Result<Command> {
    let mut command = shell::program("taskset");
    let program = program.as_ref();
    let path = if Path::new(program).is_absolute() {
        PathBuf::from(program)
    } else {
        let name = program.to_string_lossy();
        shell::find(&name).with_context(|| format!("`{name}` is missing: run `cargo xtask setup --bench`"))?
    };
    command.args(["-c", &place.core.to_string()]).arg(path);
    Ok(command)
}

fn start(
    name: &'static str,
    version: String,
    address: SocketAddr,
    mut command: Command,
    folder: &Path,
) -> Result<Server> {
    let log = folder.join("output.log");
    let output = std::fs::File::create(&log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let mut server = Server { name, version, address, child };
    let deadline = Instant::now() + STARTED_WITHIN;
    while TcpStream::connect(address).is_err() {
        let ended = server.child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            bail!("{name} does not serve {address}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    std::fs::write(&file, text)?;
    Ok(file)
}

/// What follows `marker` in the program's version text.
fn version(program: &str, flag: &str, marker: &str) -> String {
    let path = shell::find(program).unwrap_or_else(|| program.into());
    let text = shell::output(shell::program(path).arg(flag)).unwrap_or_default();
    let rest = text.split_once(marker).map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// An address on which nothing listens now.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
