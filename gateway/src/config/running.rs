//! The configuration that runs: replaced as a whole by a good one, kept when a bad one comes, and the last error remembered.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::compile::Load;
use super::{Bundle, Snapshot, compile, flatten, sources};
use crate::clock;
use crate::plugins::Shared;

/// What became of a reload.
#[derive(Debug)]
pub enum Reload {
    /// The new configuration is in force.
    Adopted(Arc<Snapshot>),
    /// The texts are the same as before.
    Same,
    /// It cannot run; the old one stays.
    Refused(Refused),
}

/// Why a configuration cannot run.
#[derive(Debug, Default)]
pub struct Refused {
    /// Every error, a line or more each.
    pub text: String,
    /// The errors by entity.
    pub entities: serde_json::Value,
}

impl Refused {
    /// The compilation ended without a result.
    #[must_use]
    pub fn broken_off() -> Self {
        Refused { text: "the compilation broke off\n".to_owned(), ..Refused::default() }
    }
}

/// The configuration that runs.
pub struct Running {
    paths: Vec<PathBuf>,
    load: Arc<Load>,
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
    took_ms: u64,
    /// Hash of what the files held when they were read last.
    read: String,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Running {
    /// Compiles the first configuration, from files and folders.
    ///
    /// # Errors
    /// The list of everything that is wrong.
    pub fn start(paths: &[PathBuf], load: Load, shared: Arc<Shared>) -> Result<Self, String> {
        let begun_ns = clock::monotonic_ns();
        let bundle = sources::read(paths).map_err(|e| format!("{e:#}\n"))?;
        let load = Arc::new(load);
        let compiled = compile(&bundle, &load, &shared);
        let Some(snapshot) = compiled.snapshot else { return Err(compiled.report.to_string()) };
        let state = State {
            warnings: compiled.report.to_string(),
            loaded_unix_s: now_s(),
            took_ms: since_ms(begun_ns),
            read: bundle.hash(),
            ..State::default()
        };
        Ok(Running {
            paths: paths.to_owned(),
            load,
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

    /// The files and folders it came from.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What is worth mending in the configuration in force.
    #[must_use]
    pub fn warnings(&self) -> String {
        self.state.lock().map(|s| s.warnings.clone()).unwrap_or_default()
    }

    /// Reads the files again. Takes as long as a large file needs: not for the thread of a runtime. One at a time.
    pub fn reload(&self) -> Reload {
        self.read_files(true)
    }

    /// Reads the files again, something having happened in their folders. If they hold what they held, a configuration
    /// that came another way since stays.
    pub fn reload_if_changed(&self) -> Reload {
        self.read_files(false)
    }

    fn read_files(&self, even_if_same: bool) -> Reload {
        let bundle = match sources::read(&self.paths) {
            Ok(bundle) => bundle,
            Err(error) => {
                if let Ok(mut state) = self.state.lock() {
                    state.read.clear();
                }
                return self.refuse(Refused { text: format!("{error:#}\n"), ..Refused::default() });
            }
        };
        let read = bundle.hash();
        let before = self.state.lock().map(|mut s| std::mem::replace(&mut s.read, read.clone())).unwrap_or_default();
        if before == read && !even_if_same {
            return Reload::Same;
        }
        self.replace(bundle)
    }

    /// Takes new texts. As `reload`, not for the thread of a runtime, and one at a time.
    pub fn replace(&self, bundle: Bundle) -> Reload {
        let begun_ns = clock::monotonic_ns();
        if self.is(&bundle) {
            if let Ok(mut state) = self.state.lock() {
                state.last_error = None;
            }
            return Reload::Same;
        }
        let compiled = compile(&bundle, &self.load, &self.shared);
        let Some(snapshot) = compiled.snapshot else {
            let entities = compiled.faulty.map(|tree| flatten(&tree, &compiled.report)).unwrap_or_default();
            return self.refuse(Refused { text: compiled.report.to_string(), entities });
        };
        let snapshot = Arc::new(snapshot);
        self.current.store(Arc::clone(&snapshot));
        if let Ok(mut state) = self.state.lock() {
            state.last_error = None;
            state.warnings = compiled.report.to_string();
            state.loaded_unix_s = now_s();
            state.took_ms = since_ms(begun_ns);
            state.reloads += 1;
        }
        Reload::Adopted(snapshot)
    }

    /// Whether these are the texts in force; of a single one the name does not matter.
    fn is(&self, bundle: &Bundle) -> bool {
        let current = self.current.load();
        match (current.bundle.0.as_slice(), bundle.0.as_slice()) {
            ([known], [given]) => known.text == given.text,
            (known, given) => known == given,
        }
    }

    fn refuse(&self, refused: Refused) -> Reload {
        if let Ok(mut state) = self.state.lock() {
            state.last_error = Some(refused.text.clone());
        }
        Reload::Refused(refused)
    }

    /// For `/status`.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let snapshot = self.current.load();
        let state = self.state.lock().map(|s| s.clone()).unwrap_or_default();
        let c = snapshot.counts;
        serde_json::json!({
            "file": self.paths.first(), "files": self.paths, "hash": snapshot.hash, "loaded_at": state.loaded_unix_s,
            "load_ms": state.took_ms, "reloads": state.reloads, "last_error": state.last_error,
            "warnings": state.warnings.lines().collect::<Vec<_>>(),
            "services": c.services, "routes": c.routes, "consumers": c.consumers, "plugins": c.plugins, "upstreams": c.upstreams,
        })
    }

    /// When the configuration in force was taken, in seconds since 1970.
    #[must_use]
    pub fn loaded_unix_s(&self) -> u64 {
        self.state.lock().map(|s| s.loaded_unix_s).unwrap_or_default()
    }
}

fn now_s() -> u64 {
    clock::unix_ns() / 1_000_000_000
}

fn since_ms(begun_ns: u64) -> u64 {
    clock::monotonic_ns().saturating_sub(begun_ns) / 1_000_000
}
