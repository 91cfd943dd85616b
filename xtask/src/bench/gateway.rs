//! A gateway of its own for a measurement: all cores, free ports, an admin API to reload by. It ends with the value.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{http, process};

/// How long a configuration may take to be loaded.
#[derive(Clone, Copy)]
pub enum Wait {
    /// A small one.
    Short,
    /// A large one.
    Long,
}

/// A running gateway.
pub struct Gateway {
    child: Child,
    /// Where it serves.
    pub proxy: SocketAddr,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts `binary` with the entities in `text`, without an access log.
    ///
    /// # Errors
    /// It does not serve in time.
    pub fn start(binary: &Path, text: &str, wait: Wait) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (file, ready) = (folder.path().join("kong.yml"), folder.path().join("ready.json"));
        std::fs::write(&file, whole(text))?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(&file).arg("--ready-file").arg(&ready);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let limit = match wait {
            Wait::Short => Duration::from_secs(10),
            Wait::Long => Duration::from_secs(60),
        };
        let deadline = Instant::now() + limit;
        while !ready.exists() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                // Ended already is as good.
                let _ended = child.kill();
                bail!("no gateway: {}", std::fs::read_to_string(folder.path().join("log")).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let told: Value = serde_json::from_str(&std::fs::read_to_string(&ready)?)?;
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).context("an address");
        let (proxy, admin) = (address(&told["proxy"][0])?, address(&told["admin"])?);
        Ok(Gateway { child, proxy, admin, _folder: folder })
    }

    /// Gives it another configuration and waits until it is in force.
    ///
    /// # Errors
    /// It was refused.
    pub fn replace(&self, text: &str) -> Result<()> {
        let mut client = http::Client::connect(self.admin, Duration::from_secs(2), Duration::from_secs(60))?;
        let headers = [("Content-Type", "application/yaml")];
        let answer = client.send("POST", "/config", &headers, whole(text).as_bytes())?;
        if answer.status != 201 {
            bail!("POST /config was answered {}: {}", answer.status, answer.text());
        }
        Ok(())
    }

    /// `/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&http::once(self.admin, "GET", "/status", &[])?.text())?)
    }

    /// Memory that it holds.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        process::resident_kib(self.child.id())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn whole(text: &str) -> String {
    format!(
        "_format_version: \"3.0\"\n\
         gateway:\n  listen: [\"127.0.0.1:0\"]\n  admin: \"127.0.0.1:0\"\n  access_log: off\n{text}"
    )
}
