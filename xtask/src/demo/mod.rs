//! `cargo xtask demo`: an honest and an abusive client at one gateway, first with the decisions taken in user space,
//! then by the program in the kernel. It measures what it shows, and fails when that did not hold. Everything happens
//! in network namespaces of its own and ends with this process.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{build, shell};
use load::{Load, Manner, Seen};
use stage::{ABUSER, Gateway, Stage};
use view::View;

mod load;
mod patterns;
mod stage;
mod view;

const EXAMPLE: &str = "examples/demo.kong.yml";
const GOOD_PERCENT_MIN: f64 = 99.0;
const SERVED_AGAIN_WITHIN: Duration = Duration::from_secs(15);

#[derive(clap::Args)]
pub struct Options {
    /// Length of each of the four phases, in seconds
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=20))]
    seconds: u64,
    /// Use a development build of the gateway
    #[arg(long)]
    debug: bool,
}

/// Runs the demo; exit code 0 if everything that it shows held.
///
/// # Errors
/// Not root, the gateway did not build or start, or the system refused a namespace.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !shell::is_root() {
        bail!(
            "the demo needs root: it makes network namespaces and loads a program into the kernel.\n  \
             sudo -E env \"PATH=$PATH\" cargo xtask demo"
        );
    }
    for program in ["ip", "setpriv"] {
        shell::find(program).with_context(|| format!("`{program}` is missing: run `cargo xtask setup`"))?;
    }
    let binary = build::gateway(if options.debug { build::Profile::Debug } else { build::Profile::Release })?;
    let enforced = std::fs::read_to_string(shell::root().join(EXAMPLE))?;
    let switch = "mode: enforce";
    if enforced.matches(switch).count() != 1 {
        bail!("{EXAMPLE} does not hold `{switch}` once");
    }
    let stage = Stage::build()?;
    let phase = Duration::from_secs(options.seconds);
    let mut verdict = Verdict::default();

    println!("1. The six patterns of {EXAMPLE}");
    let gateway = stage.start(&binary, &enforced.replace(switch, "mode: \"off\""))?;
    for pattern in patterns::play(&stage, &gateway)? {
        println!("   {} {:<17} {}", mark(pattern.holds), pattern.name, pattern.seen);
        verdict.expect(pattern.holds, || format!("{} did not hold", pattern.name));
    }

    let before = play(&stage, &gateway, "2. Before: the honest client alone, edge off", false, phase)?;
    let off = play(&stage, &gateway, "3. Abuse, edge off: the gateway decides in user space", true, phase)?;
    gateway.stop()?;

    let gateway = stage.start(&binary, &enforced)?;
    let on = play(&stage, &gateway, "4. Abuse, edge on: the gateway decides, the kernel drops", true, phase)?;
    let after = play(&stage, &gateway, "5. After: the abuser has stopped", false, phase)?;
    let again = served_again(&stage, &gateway)?;
    gateway.stop()?;

    summary(&[("before", &before), ("abuse, edge off", &off), ("abuse, edge on", &on), ("after", &after)]);
    judge(&mut verdict, &[&before, &off, &on, &after], &on, again);
    Ok(verdict.end())
}

/// What one phase came to.
struct Act {
    seconds: f64,
    honest: Seen,
    abusive: Seen,
    cpu_percent: f64,
    drops: u64,
    in_force: String,
    rung_max: u64,
}

/// Plays one phase, a line a second.
fn play(stage: &Stage, gateway: &Gateway, title: &str, abuse: bool, length: Duration) -> Result<Act> {
    println!("\n{title}");
    println!(
        "   {:>3}  {:>8} {:>6} {:>7}  | {:>8} {:>5} {:>5} {:>5} {:>8} {:>8}  | {:>4} {:>8} {:>5}",
        "s",
        "honest/s",
        "good%",
        "p99 ms",
        "abuser/s",
        "200",
        "401",
        "429",
        "refused",
        "timeouts",
        "rung",
        "drops",
        "CPU%"
    );
    let honest = honest(stage, gateway)?;
    let abusive = abuse.then(|| abusive(stage, gateway)).transpose()?;
    let (start, cpu_start) = (Instant::now(), gateway.cpu_time()?);
    let drops_start = look(stage, gateway)?.drops;
    let mut act = Act {
        seconds: 0.0,
        honest: Seen::default(),
        abusive: Seen::default(),
        cpu_percent: 0.0,
        drops: 0,
        in_force: String::new(),
        rung_max: 0,
    };
    let (mut rung, mut cpu_last, mut drops_last) = (0, cpu_start, drops_start);
    for second in 1..=length.as_secs() {
        std::thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        let (seen, abuse) = (honest.take(), abusive.as_ref().map(Load::take).unwrap_or_default());
        let (view, cpu) = (look(stage, gateway)?, gateway.cpu_time()?);
        if view.rung != rung {
            println!("        rung {rung} -> {}  {}", view.rung, view.cause);
        }
        print_second(
            second,
            &seen,
            &abuse,
            &view,
            view.drops - drops_last.min(view.drops),
            cpu.saturating_sub(cpu_last),
        );
        rung = view.rung;
        (cpu_last, drops_last) = (cpu, view.drops);
        act.rung_max = act.rung_max.max(view.rung);
        act.in_force = view.in_force;
        act.honest.add(&seen);
        act.abusive.add(&abuse);
    }
    act.seconds = start.elapsed().as_secs_f64();
    act.cpu_percent = (cpu_last - cpu_start).as_secs_f64() * 100.0 / act.seconds;
    act.drops = drops_last.saturating_sub(drops_start);
    Ok(act)
}

fn print_second(second: u64, honest: &Seen, abusive: &Seen, view: &View, drops: u64, cpu: Duration) {
    println!(
        "   {second:>3}  {:>8} {:>6.1} {:>7.1}  | {:>8} {:>5} {:>5} {:>5} {:>8} {:>8}  | {:>4} {drops:>8} {:>5.1}",
        honest.all(),
        honest.good_percent(),
        honest.p99_ms(),
        abusive.all(),
        abusive.of(200),
        abusive.of(401),
        abusive.of(429),
        abusive.refused,
        abusive.timed_out,
        view.rung,
        cpu.as_secs_f64() * 100.0
    );
}

/// 200 requests a second over four connections, each renewed after 20 requests: keep-alive and new connections both.
fn honest(stage: &Stage, gateway: &Gateway) -> Result<Load> {
    let manner = Manner {
        target: gateway.for_legit(),
        path: "/orders/7",
        keys: &[Some("shop-key")],
        threads: 4,
        per_second: 50,
        per_connection: 20,
        connect_within: Duration::from_secs(1),
        answer_within: Duration::from_secs(2),
    };
    load::start(&stage.legit, manner)
}

/// Up to 4,000 tries a second without a key or beyond the trial key's quota, whatever the answer.
fn abusive(stage: &Stage, gateway: &Gateway) -> Result<Load> {
    let manner = Manner {
        target: gateway.for_abuser(),
        path: "/orders",
        keys: &[None, Some("trial-key"), None],
        threads: 16,
        per_second: 250,
        per_connection: 100,
        connect_within: Duration::from_millis(5),
        answer_within: Duration::from_millis(500),
    };
    load::start(&stage.abuser, manner)
}

fn look(stage: &Stage, gateway: &Gateway) -> Result<View> {
    let edge = stage.admin(gateway, "/edge")?;
    let why = stage.admin(gateway, &format!("/edge/why?ip={ABUSER}"))?;
    Ok(View::new(&edge, &why))
}

/// How long after the abuse an honest request from the abuser's address takes to be answered.
fn served_again(stage: &Stage, gateway: &Gateway) -> Result<Option<Duration>> {
    let since = Instant::now();
    while since.elapsed() < SERVED_AGAIN_WITHIN {
        let asked = stage.ask(&stage.abuser, gateway.for_abuser(), "/orders", &[("apikey", "shop-key")]);
        if asked.is_ok_and(|answer| answer.status == 200) {
            println!("\n   The abuser's address is served again {:.1} s later.", since.elapsed().as_secs_f64());
            return Ok(Some(since.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(None)
}

fn summary(acts: &[(&str, &Act)]) {
    println!(
        "\n   {:<16} {:>8} {:>7} {:>7}  | {:>8} {:>12} {:>5}  decided by",
        "", "honest/s", "good%", "p99 ms", "abuser/s", "kernel drops", "CPU%"
    );
    for (name, act) in acts {
        println!(
            "   {name:<16} {:>8.0} {:>7.2} {:>7.1}  | {:>8.0} {:>12} {:>5.1}  {}",
            act.honest.all() as f64 / act.seconds,
            act.honest.good_percent(),
            act.honest.p99_ms(),
            act.abusive.all() as f64 / act.seconds,
            act.drops,
            act.cpu_percent,
            act.in_force
        );
    }
    println!("   CPU% is the gateway's process, of one core; a drop happens before it and is not in it.\n");
}

fn judge(verdict: &mut Verdict, acts: &[&Act], enforced: &Act, served_again: Option<Duration>) {
    for act in acts {
        let good = act.honest.good_percent();
        verdict.expect(good >= GOOD_PERCENT_MIN, || format!("only {good:.2}% of the honest requests were good"));
    }
    verdict.expect(enforced.drops > 0, || format!("the kernel dropped nothing (the edge says: {})", enforced.in_force));
    verdict.expect(enforced.rung_max >= 4, || format!("the abuser only reached rung {}", enforced.rung_max));
    verdict.expect(served_again.is_some(), || {
        format!("the abuser's address was not served again within {SERVED_AGAIN_WITHIN:?}")
    });
}

/// What did not hold.
#[derive(Default)]
struct Verdict(Vec<String>);

impl Verdict {
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    fn end(&self) -> ExitCode {
        for fault in &self.0 {
            println!("FAILED: {fault}");
        }
        if self.0.is_empty() {
            println!("Everything shown above held.");
            return ExitCode::SUCCESS;
        }
        ExitCode::FAILURE
    }
}

const fn mark(holds: bool) -> &'static str {
    if holds { "ok    " } else { "FAILED" }
}
