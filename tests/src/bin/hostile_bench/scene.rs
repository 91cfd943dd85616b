//! A gateway to attack, with steady clients beside the attack and a look at its memory. It knows no attack.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use gateway_tests::lean::Lean;
use gateway_tests::load::{Load, Went};
use gateway_tests::process::resident_kib;
use gateway_tests::{Gateway, bar, deadline, eventually};
use serde_json::json;

/// Times short enough for each to end within an attack.
pub const CONFIG: &str = r#"
_format_version: "3.0"
services:
- { url: @SMALL@, read_timeout: 5000, write_timeout: 5000, routes: [{ paths: [/pub], strip_path: false }] }
- { url: @LARGE@, read_timeout: 5000, write_timeout: 5000, routes: [{ paths: [/pub/large], strip_path: false }] }
"#;
/// Other clients, and their pause between two requests.
const OTHERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(20);

/// Bars of every attack.
const MEMORY_MIB_MAX: f64 = 64.0;
const SLOWEST_S_MAX: f64 = 2.0;

/// Two of them, so that whoever gets a small answer does not wait for one thread to hand out large ones.
pub struct Upstreams {
    small: Lean,
    large: Lean,
}

/// A gateway on all cores with small upstreams.
pub struct Scene {
    pub gateway: Gateway,
    pub upstreams: Upstreams,
    pub idle_kib: u64,
}

/// The whole text of a configuration.
pub fn text(upstreams: &Upstreams) -> String {
    let filled = CONFIG.replace("@SMALL@", &upstreams.small.url()).replace("@LARGE@", &upstreams.large.url());
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{filled}\ngateway:\n  workers: {cores}\n  access_log: off\n  \
         timeouts: {{ header: 3s, idle: 5s, body: 3s, request: 8s, write: 4s }}\n",
    )
}

impl Scene {
    /// Starts it, and has it serve for a second: pools and buffers are made once.
    pub fn start() -> Result<Self> {
        let upstreams = Upstreams { small: Lean::start()?, large: Lean::start()? };
        let gateway = Gateway::start(&text(&upstreams));
        let load = Load::start(gateway.proxy(), "/pub/x", OTHERS);
        thread::sleep(Duration::from_secs(1));
        load.finish();
        let idle_kib = resident_kib(gateway.pid());
        Ok(Self { gateway, upstreams, idle_kib })
    }

    /// The steady clients.
    pub fn others(&self) -> Load {
        Load::paced(self.gateway.proxy(), "/pub/other", OTHERS, PAUSE)
    }
}

/// The largest memory of a process until it is asked.
pub struct Peak {
    stop: Arc<AtomicBool>,
    kib: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Peak {
    pub fn of(pid: u32) -> Self {
        let (stop, kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, kib) = (Arc::clone(&stop), Arc::clone(&kib));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    kib.fetch_max(resident_kib(pid), Ordering::SeqCst);
                    thread::sleep(LOOK);
                }
            }
        });
        Self { stop, kib, thread }
    }

    pub fn kib(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the looking thread does not panic");
        self.kib.load(Ordering::SeqCst)
    }
}

/// How the connections of an attack ended, in words, and whether that is what must be.
pub struct Endings {
    pub words: String,
    /// Nothing when there is no bar.
    pub good: Option<bool>,
}

/// Runs one attack on a gateway of its own and tells its rows.
pub fn under(what: &str, attack: impl FnOnce(&Scene) -> Result<Endings>) -> Result<()> {
    let mut scene = Scene::start()?;
    let (peak, others) = (Peak::of(scene.gateway.pid()), scene.others());
    let endings = attack(&scene);
    let (kib, went) = (peak.kib(), others.finish());
    eventually("it serves after the attack", || scene.gateway.get("/pub/after").status == 200);
    let endings = endings?;
    let alive = scene.gateway.runs();
    let more_mib = kib.saturating_sub(scene.idle_kib) as f64 / 1024.0;
    told(what, more_mib, &went, &endings, alive);
    Ok(())
}

fn told(what: &str, more_mib: f64, went: &Went, endings: &Endings, alive: bool) {
    let slowest_s = went.slowest().as_secs_f64();
    let all = went.served + went.wrong.len() as u64;
    println!("{what}: +{more_mib:.1} MiB, {} of {all}, slowest {slowest_s:.3} s; {}", went.served, endings.words);
    for wrong in went.wrong.iter().take(3) {
        println!("  another client got: {wrong}");
    }
    bar::at_most("S1", what, more_mib, MEMORY_MIB_MAX, " MiB");
    let good = went.wrong.is_empty() && went.served > 0 && alive;
    bar::holds("S2", what, "all 200", format!("{} of {all}", went.served), good);
    bar::at_most("S3", what, slowest_s, SLOWEST_S_MAX, " s");
    if let Some(good) = endings.good {
        bar::holds("S4", what, "all ended", &endings.words, good);
    }
    raw(&json!({
        "attack": what, "rss_mib_above_idle": more_mib, "others_served": went.served, "others_failed": went.wrong.len(),
        "others_slowest_s": slowest_s, "endings": endings.words,
    }));
}

/// A raw row, for the file that the command keeps.
pub fn raw(row: &serde_json::Value) {
    deadline::say(&format!("RAW\t{row}"));
}
