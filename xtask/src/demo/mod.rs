//! `cargo xtask demo`: an honest and an abusive client at one gateway, first without an edge, then with its decisions
//! carried out in user space, then by the program in the kernel. It measures what it shows, and fails when that did not hold. Everything happens
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
    /// Length of each of the five phases, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(4..=20))]
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
    let variants = Variants::of(&std::fs::read_to_string(shell::root().join(EXAMPLE))?)
        .with_context(|| format!("{EXAMPLE} has another shape"))?;
    let stage = Stage::build()?;
    let phase = Duration::from_secs(options.seconds);
    let mut verdict = Verdict::default();

    println!("1. The six patterns of {EXAMPLE}");
    let gateway = stage.start(&binary, &variants.without_edge)?;
    for pattern in patterns::play(&stage, &gateway)? {
        println!("   {} {:<17} {}", mark(pattern.holds), pattern.name, pattern.seen);
        verdict.expect(pattern.holds, || format!("{} did not hold", pattern.name));
    }
    let before = play(&stage, &gateway, "2. Before: the honest client alone", false, phase)?;
    let without = play(&stage, &gateway, "3. Abuse, no edge: every request is answered", true, phase)?;
    gateway.stop()?;

    let gateway = stage.start(&binary, &variants.user_space)?;
    let user = play(&stage, &gateway, "4. Abuse, edge in user space: connections are refused at accept", true, phase)?;
    gateway.stop()?;

    let gateway = stage.start(&binary, &variants.kernel)?;
    let kernel = play(&stage, &gateway, "5. Abuse, edge in the kernel: packets are dropped by XDP", true, phase)?;
    let after = play(&stage, &gateway, "6. After: the abuser has stopped", false, phase)?;
    let again = served_again(&stage, &gateway)?;
    gateway.stop()?;

    summary(&[
        ("before", &before),
        ("abuse, no edge", &without),
        ("abuse, user space", &user),
        ("abuse, kernel", &kernel),
        ("after", &after),
    ]);
    for act in [&before, &without, &user, &kernel, &after] {
        let good = act.honest.good_percent();
        verdict.expect(good >= GOOD_PERCENT_MIN, || format!("only {good:.2}% of the honest requests were good"));
    }
    verdict.expect(user.refused > 0, || format!("nothing was refused in user space ({})", user.in_force));
    verdict.expect(kernel.drops > 0, || format!("the kernel dropped nothing ({})", kernel.in_force));
    verdict.expect(kernel.rung_max >= 4, || format!("the abuser only reached rung {}", kernel.rung_max));
    verdict.expect(again, || format!("the abuser's address was not served again within {SERVED_AGAIN_WITHIN:?}"));
    Ok(verdict.end())
}

/// The example's three forms: as it stands, with no interface to attach to, and without its edge.
struct Variants {
    kernel: String,
    user_space: String,
    without_edge: String,
}

impl Variants {
    fn of(example: &str) -> Option<Self> {
        let (before, rest) = example.split_once("  edge:\n")?;
        let (edge, after) = rest.split_once("\n\n")?;
        let (head, tail) = edge.split_once("interfaces: [legit0, abuse0]")?;
        Some(Self {
            kernel: example.to_owned(),
            user_space: format!("{before}  edge:\n{head}interfaces: []{tail}\n\n{after}"),
            without_edge: format!("{before}\n{after}"),
        })
    }
}

/// What one phase came to.
struct Act {
    seconds: f64,
    honest: Seen,
    abusive: Seen,
    cpu_percent: f64,
    drops: u64,
    refused: u64,
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
    let (start, cpu_start, view_start) = (Instant::now(), gateway.cpu_time()?, look(stage, gateway)?);
    let (mut cpu, mut view) = (cpu_start, view_start.clone());
    let (mut all_honest, mut all_abusive, mut rung_max) = (Seen::default(), Seen::default(), 0);
    for second in 1..=length.as_secs() {
        std::thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        let (seen, abuse) = (honest.take(), abusive.as_ref().map(Load::take).unwrap_or_default());
        let (view_now, cpu_now) = (look(stage, gateway)?, gateway.cpu_time()?);
        print_changes(&view, &view_now);
        let drops = view_now.drops.saturating_sub(view.drops);
        print_second(second, &seen, &abuse, view_now.rung, drops, cpu_now.saturating_sub(cpu));
        (cpu, view) = (cpu_now, view_now);
        rung_max = rung_max.max(view.rung);
        all_honest.add(&seen);
        all_abusive.add(&abuse);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Act {
        seconds,
        honest: all_honest,
        abusive: all_abusive,
        cpu_percent: (cpu - cpu_start).as_secs_f64() * 100.0 / seconds,
        drops: view.drops - view_start.drops,
        refused: view.refused - view_start.refused,
        in_force: view.in_force,
        rung_max,
    })
}

/// New decisions on the abuser's address, and the end of a verdict.
fn print_changes(before: &View, now: &View) {
    let known = before.decisions.last().map_or(0, |(id, _)| *id);
    for (_, text) in now.decisions.iter().filter(|(id, _)| *id > known) {
        println!("        {text}");
    }
    if now.rung < before.rung && now.rung < 2 {
        println!("        rung {}: the verdict has run out", now.rung);
    }
}

fn print_second(second: u64, honest: &Seen, abusive: &Seen, rung: u64, drops: u64, cpu: Duration) {
    println!(
        "   {second:>3}  {:>8} {:>6.1} {:>7.1}  | {:>8} {:>5} {:>5} {:>5} {:>8} {:>8}  | {rung:>4} {drops:>8} {:>5.1}",
        honest.all(),
        honest.good_percent(),
        honest.p99_ms(),
        abusive.all(),
        abusive.of(200),
        abusive.of(401),
        abusive.of(429),
        abusive.refused,
        abusive.timed_out,
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
    let Some(edge) = stage.admin(gateway, "/edge")? else {
        return Ok(View { in_force: "no edge".to_owned(), ..View::default() });
    };
    let why = stage.admin(gateway, &format!("/edge/why?ip={ABUSER}"))?;
    Ok(View::new(&edge, &why.unwrap_or_default()))
}

/// Whether an honest request from the abuser's address is answered again, soon enough after the abuse.
fn served_again(stage: &Stage, gateway: &Gateway) -> Result<bool> {
    let since = Instant::now();
    while since.elapsed() < SERVED_AGAIN_WITHIN {
        let asked = stage.ask(&stage.abuser, gateway.for_abuser(), "/orders", &[("apikey", "shop-key")]);
        if asked.is_ok_and(|answer| answer.status == 200) {
            println!("\n   The abuser's address, now honest, is served again.");
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

fn summary(acts: &[(&str, &Act)]) {
    println!(
        "\n   {:<18} {:>8} {:>7} {:>7}  | {:>8} {:>8} {:>8}  | {:>6}  carried out by",
        "", "honest/s", "good%", "p99 ms", "abuser/s", "refused", "dropped", "CPU%"
    );
    for (name, act) in acts {
        println!(
            "   {name:<18} {:>8.0} {:>7.2} {:>7.1}  | {:>8.0} {:>8} {:>8}  | {:>6.1}  {}",
            act.honest.all() as f64 / act.seconds,
            act.honest.good_percent(),
            act.honest.p99_ms(),
            act.abusive.all() as f64 / act.seconds,
            act.refused,
            act.drops,
            act.cpu_percent,
            act.in_force
        );
    }
    println!("   refused: connections, by the gateway; dropped: packets, by the kernel;");
    println!("   CPU%: of one core, the gateway's process (a drop costs it nothing, and the host some nanoseconds).\n");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_its_three_forms() {
        let example = std::fs::read_to_string(shell::root().join(EXAMPLE)).unwrap();
        let variants = Variants::of(&example).unwrap();
        assert!(variants.user_space.contains("interfaces: []") && variants.user_space.contains("mode: enforce"));
        assert!(!variants.without_edge.contains("edge:") && variants.without_edge.contains("\nservices:"));
    }
}
