//! The demo's stage: three network namespaces, an upstream, and a gateway that can be started and stopped. All of it
//! ends with this process; nothing leaves the namespaces. It must not know the play.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::http::{self, Answer};
use crate::lab::{self, Namespace};
use crate::upstream::Upstream;
use crate::{process, shell};

/// The address of the client that abuses the gateway.
pub const ABUSER: &str = "10.80.2.2";
const UPSTREAM: &str = "127.0.0.1:3000";
const STARTED_WITHIN: Duration = Duration::from_secs(20);
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// The namespaces and what stands in them from the beginning.
pub struct Stage {
    pub gateway: Namespace,
    pub legit: Namespace,
    pub abuser: Namespace,
    pub upstream: Upstream,
    folder: Folder,
}

/// A folder of this process that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    /// Makes it, and removes those of runs that were killed: nothing else of them outlived their process.
    fn create() -> Result<Self> {
        let target = shell::target();
        for entry in std::fs::read_dir(&target)?.flatten() {
            let name = entry.file_name();
            let owner =
                name.to_str().and_then(|name| name.strip_prefix("demo-")).and_then(|pid| pid.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        let path = target.join(format!("demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Stage {
    /// # Errors
    /// Not root, or the kernel refused a namespace.
    pub fn build() -> Result<Self> {
        let gateway = Namespace::create("gw")?;
        let legit = Namespace::create("legit")?;
        let abuser = Namespace::create("abuser")?;
        gateway.join(("legit0", "10.80.1.1/24"), &legit, ("eth0", "10.80.1.2/24"))?;
        gateway.join(("abuse0", "10.80.2.1/24"), &abuser, ("eth0", "10.80.2.2/24"))?;
        let upstream = gateway.run(|| Upstream::start(UPSTREAM))??;
        Ok(Self { gateway, legit, abuser, upstream, folder: Folder::create()? })
    }

    /// Starts the gateway with a configuration and waits until it serves.
    ///
    /// # Errors
    /// It did not start; the message holds what it said.
    pub fn start(&self, binary: &Path, configuration: &str) -> Result<Gateway> {
        let file = |name: &str| self.folder.0.join(name);
        let (kong, ready, log, access) =
            (file("kong.yml"), file("ready.json"), file("gateway.log"), file("access.log"));
        std::fs::write(&kong, configuration)?;
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let mut command = lab::bound(binary)?;
        command.arg("run").arg("-c").arg(&kong).arg("--ready-file").arg(&ready);
        command.stdout(File::create(&access)?).stderr(File::create(&log)?);
        let child = self.gateway.spawn(command)?;
        let mut gateway = Gateway { child, admin: ([127, 0, 0, 1], 0).into(), port: 0, log, access };
        let ready = gateway.wait_ready(&ready)?;
        let address = |value: &Value| value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        gateway.admin = address(&ready["admin"]).context("the ready file names no admin address")?;
        gateway.port = address(&ready["proxy"][0]).context("the ready file names no proxy address")?.port();
        Ok(gateway)
    }

    /// Asks the gateway's admin interface; nothing when it has no such page.
    ///
    /// # Errors
    /// It did not answer, or not with JSON.
    pub fn admin(&self, gateway: &Gateway, path: &str) -> Result<Option<Value>> {
        let answer = self.ask(&self.gateway, gateway.admin, path, &[])?;
        match answer.status {
            404 => return Ok(None),
            200 => {}
            status => bail!("{path}: {status} {}", answer.text()),
        }
        serde_json::from_slice(&answer.body).map(Some).with_context(|| format!("{path} is not JSON: {}", answer.text()))
    }

    /// One GET from a namespace, on a connection of its own.
    ///
    /// # Errors
    /// No answer.
    pub fn ask(
        &self,
        from: &Namespace,
        to: SocketAddr,
        path: &str,
        headers: &'static [(&'static str, &'static str)],
    ) -> Result<Answer> {
        let owned = path.to_owned();
        from.run(move || http::once(to, "GET", &owned, headers))?
            .with_context(|| format!("GET {path} from namespace {}", from.name))
    }
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    pub admin: SocketAddr,
    port: u16,
    log: PathBuf,
    access: PathBuf,
}

impl Gateway {
    /// Where the honest client reaches it.
    #[must_use]
    pub fn for_legit(&self) -> SocketAddr {
        ([10, 80, 1, 1], self.port).into()
    }

    /// Where the abusive client reaches it.
    #[must_use]
    pub fn for_abuser(&self) -> SocketAddr {
        ([10, 80, 2, 1], self.port).into()
    }

    /// # Errors
    /// It has died.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.child.id())
    }

    /// The access log so far.
    #[must_use]
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(&self.access).unwrap_or_default()
    }

    /// The last lines of the operational log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends it as an operator would, by SIGTERM.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOPPED_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the gateway did not end within {STOPPED_WITHIN:?} of SIGTERM:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn wait_ready(&mut self, file: &Path) -> Result<Value> {
        let deadline = Instant::now() + STARTED_WITHIN;
        loop {
            if let Ok(text) = std::fs::read_to_string(file) {
                return serde_json::from_str(&text).context("the ready file is not JSON");
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the gateway ended at once ({status}):\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("the gateway did not start within {STARTED_WITHIN:?}:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
