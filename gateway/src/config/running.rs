//! The configuration that runs: replaced as a whole by a good one, kept when a bad one comes, and the last error remembered.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::{Environment, Snapshot, compile};
use crate::clock;
use crate::identity::digest;
use crate::plugins::Shared;

/// Bytes of a configuration at most.
pub const TEXT_MAX: u64 = 64 << 20;

/// What became of a reload.
#[derive(Debug)]
pub enum Reload {
    /// The new configuration is in force.
    Adopted(Arc<Snapshot>),
    /// The text is the same as before.
    Same,
    /// It cannot run; the old one stays. The text lists every error.
    Refused(String),
}

/// The configuration that runs.
pub struct Running {
    path: PathBuf,
    allow_unsupported: bool,
    env: Environment,
    shared: Arc<Shared>,
    current: ArcSwap<Snapshot>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    last_error: Option<String>,
    warnings: String,
    loaded_unix_s: u64,
    reloads: u64,
    /// Digest of what the file held when it was read last.
    file: [u8; 32],
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Reads a configuration file.
///
/// # Errors
/// The system's words, with the path.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    use anyhow::Context;
    let shown = path.display();
    let length = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    anyhow::ensure!(length <= TEXT_MAX, "{shown} is larger than {} MiB", TEXT_MAX >> 20);
    std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))
}

impl Running {
    /// Compiles the first configuration.
    ///
    /// # Errors
    /// The list of everything that is wrong.
    pub fn start(path: &Path, allow_unsupported: bool, env: Environment, shared: Arc<Shared>) -> Result<Self, String> {
        let text = read_text(path).map_err(|e| format!("{e:#}\n"))?;
        let compiled = compile(&text, &path.display().to_string(), allow_unsupported, &env, &shared);
        let Some(snapshot) = compiled.snapshot else { return Err(compiled.report.to_string()) };
        let state = State {
            warnings: compiled.report.to_string(),
            loaded_unix_s: now_s(),
            file: digest(text.as_bytes()),
            ..State::default()
        };
        Ok(Running {
            path: path.to_owned(),
            allow_unsupported,
            env,
            shared,
            current: ArcSwap::from_pointee(snapshot),
            state: Mutex::new(state),
        })
    }

    /// The configuration in force.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The file it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is worth mending in the configuration in force.
    #[must_use]
    pub fn warnings(&self) -> String {
        self.state.lock().map(|s| s.warnings.clone()).unwrap_or_default()
    }

    /// Reads the file again.
    pub fn reload(&self) -> Reload {
        self.read_file(true)
    }

    /// Reads the file again, something having happened in its folder. If it holds what it held, a configuration that came
    /// another way since stays.
    pub fn reload_if_changed(&self) -> Reload {
        self.read_file(false)
    }

    fn read_file(&self, even_if_same: bool) -> Reload {
        let text = match read_text(&self.path) {
            Ok(text) => text,
            Err(error) => {
                if let Ok(mut state) = self.state.lock() {
                    state.file = [0; 32];
                }
                return self.refuse(format!("{error:#}\n"));
            }
        };
        let file = digest(text.as_bytes());
        let before = self.state.lock().map(|mut s| std::mem::replace(&mut s.file, file)).unwrap_or_default();
        if before == file && !even_if_same {
            return Reload::Same;
        }
        self.replace(&text, &self.path.display().to_string())
    }

    /// Takes a new text, which `source` names in errors.
    pub fn replace(&self, text: &str, source: &str) -> Reload {
        if self.current.load().text == text {
            if let Ok(mut state) = self.state.lock() {
                state.last_error = None;
            }
            return Reload::Same;
        }
        let compiled = compile(text, source, self.allow_unsupported, &self.env, &self.shared);
        let Some(snapshot) = compiled.snapshot else { return self.refuse(compiled.report.to_string()) };
        let snapshot = Arc::new(snapshot);
        self.current.store(Arc::clone(&snapshot));
        if let Ok(mut state) = self.state.lock() {
            state.last_error = None;
            state.warnings = compiled.report.to_string();
            state.loaded_unix_s = now_s();
            state.reloads += 1;
        }
        Reload::Adopted(snapshot)
    }

    fn refuse(&self, error: String) -> Reload {
        if let Ok(mut state) = self.state.lock() {
            state.last_error = Some(error.clone());
        }
        Reload::Refused(error)
    }

    /// For `/status`.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let snapshot = self.current.load();
        let state = self.state.lock().map(|s| s.clone()).unwrap_or_default();
        let c = snapshot.counts;
        serde_json::json!({
            "file": self.path, "hash": snapshot.hash, "loaded_at": state.loaded_unix_s, "reloads": state.reloads,
            "last_error": state.last_error,
            "warnings": state.warnings.lines().collect::<Vec<_>>(),
            "services": c.services, "routes": c.routes, "consumers": c.consumers, "plugins": c.plugins, "upstreams": c.upstreams,
        })
    }
}

fn now_s() -> u64 {
    clock::unix_ns() / 1_000_000_000
}
