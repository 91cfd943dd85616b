//! The edge's bars that are figures; without an argument all of them. `--cost`: nanoseconds a packet of the kernel program,
//! exit by exit, beside a program that only drops (R1: BPF_PROG_TEST_RUN in interleaved rounds, medians), exactness of cells
//! (R5), what a flood of sources does to the tables (R4; `--sources 10000000` for all of it). `--tax`: CPU and system calls a
//! request (R3). `--flood`: good traffic under floods (R2), in namespaces. Root only. It must not attach anything to the
//! machine's own interfaces.
#![allow(clippy::print_stdout)] // The figures are its purpose.

use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_common::gcra::Ceiling;
use gateway_common::map::{Cut, Gate, HAS_GATE, HAS_NEIGHBOURHOODS, PULSE_PRESSURE, Verdict, name, rung};

#[allow(dead_code)]
#[path = "../../../blackbox/kernel/frames.rs"]
mod frames;
#[allow(dead_code)]
#[path = "../../../blackbox/kernel/loaded.rs"]
mod loaded;

#[allow(dead_code)]
#[path = "../../../blackbox/kernel/bare.rs"]
mod bare;
mod bars;
mod flood;
mod generator;
mod load;
mod tax;

use frames::{L4, PORT, V4};
use gateway_tests::bar;
use loaded::Loaded;

const ROUNDS: usize = 7;
const REPEAT: u32 = 1_000_000;
const CELLS: u32 = 65_536;
/// Sources that take turns, one packet each, in the rows that say so.
const SOURCES: u32 = 16_384;
/// Of those under a verdict.
const JUDGED: usize = 1_024;

/// Exits that have a bar.
const VERDICT_DROP: &str = "drop: verdict, everything";
const FULL_PASS: &str = "pass: all ceilings, packet of a connection";

/// One exit of the program: its name, the program prepared for it, and the frames that take it.
struct Exit {
    name: &'static str,
    /// The reason's word that every one of its packets has to be counted under.
    reason: &'static str,
    program: Loaded,
    frame: Vec<u8>,
    nanoseconds: Vec<f64>,
}

fn main() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "loading a program needs root");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = arguments.is_empty();
    if let Some(sources) = value(&arguments, "--sources") {
        // All of R4: ten millions take some minutes.
        return tables(sources.parse()?).map(drop);
    }
    if all || asked("--cost") {
        cost()?;
    }
    if all || asked("--tax") {
        tax::run()?;
    }
    if all || asked("--flood") {
        floods(&arguments)?;
    }
    Ok(())
}

/// R1, R4, R5.
fn cost() -> Result<()> {
    let empty = bare::Program::load(bare::DROP)?;
    let mut exits = exits();
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(nanoseconds(empty.run(&frames::v4(V4, L4::Ack(PORT)), REPEAT)?));
        for exit in &mut exits {
            let round = measure(exit)?;
            exit.nanoseconds.push(round);
        }
    }
    let bare = median(bare);
    println!("one source, {REPEAT} packets a round, medians of {ROUNDS} interleaved rounds");
    println!("{:<44} {:>8} {:>10}", "exit", "ns", "/ empty");
    println!("{:<44} {bare:>8.0} {:>10.2}", "empty program: XDP_DROP", 1.0);
    for exit in &exits {
        let own = median(exit.nanoseconds.clone());
        println!("{:<44} {own:>8.0} {:>10.2}", exit.name, own / bare);
        for (name, limit) in [(VERDICT_DROP, 4.0), (FULL_PASS, 6.0)] {
            if exit.name == name {
                let words = format!("{name}, one source, warm, beside an empty program ({own:.0} / {bare:.0} ns)");
                bar::at_most("R1", &words, own / bare, limit, "×");
            }
        }
    }
    let in_turn = in_turn(&empty)?;
    println!();
    bars::exactness()?;
    let random = tables(1_000_000)?;
    let words = format!("1,000,000 random sources beside {SOURCES} in turn ({random:.0} / {in_turn:.0} ns)");
    bar::at_most("R1", &words, random / in_turn, 3.0, "×");
    Ok(())
}

/// A flood of so many sources, without pressure and with it; nanoseconds a packet without.
fn tables(sources: u32) -> Result<f64> {
    let calm = bars::flood_of_sources(sources, false)?;
    bars::flood_of_sources(sources, true)?;
    Ok(calm)
}

fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// `--flood [--mpps 0.5,1,2] [--seconds 5] [--filter NAME]`.
fn floods(arguments: &[String]) -> Result<()> {
    let value = |name| value(arguments, name);
    let rates = value("--mpps").unwrap_or("0.5,1,2").split(',').map(|rate| Ok((rate.parse::<f64>()? * 1e6) as u64));
    let rates = rates.collect::<Result<Vec<u64>>>()?;
    let seconds = value("--seconds").unwrap_or("5").parse()?;
    let wanted = value("--filter").unwrap_or("");
    let filters: Vec<_> = flood::Filter::ALL.into_iter().filter(|filter| filter.name().contains(wanted)).collect();
    flood::table(&rates, &filters, seconds)
}

/// Programs that differ only in what their maps hold.
fn exits() -> Vec<Exit> {
    let plain = |_: &mut Loaded| {};
    let limited = |loaded: &mut Loaded| {
        loaded.settings.packets = Ceiling::new(1_000_000_000, 1_000_000_000);
        loaded.settings.bytes = Ceiling::new(1_000_000_000, 1_000_000_000);
        loaded.settings.connections = Ceiling::new(1_000_000_000, 1_000_000_000);
        loaded.apply();
    };
    let gated = |loaded: &mut Loaded| {
        loaded.settings.lists |= HAS_GATE | HAS_NEIGHBOURHOODS;
        loaded.settings.neighbourhood.packets = Ceiling::new(1_000_000_000, 1_000_000_000);
        let much = Ceiling::new(1_000_000_000, 1_000_000_000);
        loaded.settings.gate =
            Gate { enter: much, stay: much, hold_ns: 1, syns: Ceiling::new(1, 1), packets: Ceiling::new(1, 1) };
        loaded.apply();
    };
    let tight = |loaded: &mut Loaded| {
        loaded.settings.packets = Ceiling::new(1, 1);
        loaded.apply();
    };
    let ack = frames::v4(V4, L4::Ack(PORT));
    let syn = frames::v4(V4, L4::Syn(PORT));
    vec![
        exit("pass: another port", "other_port", frames::v4(V4, L4::Ack(PORT + 1)), plain),
        exit("pass: never-drop list", "never_drop", ack.clone(), |l| l.list(name::NEVER_DROP, "192.0.2.7", 128)),
        exit("pass: no ceiling", "clean", ack.clone(), plain),
        exit(FULL_PASS, "clean", ack.clone(), limited),
        exit("pass: all ceilings, new connection", "clean", syn.clone(), limited),
        exit(VERDICT_DROP, "drop", ack.clone(), |l| l.judge("192.0.2.7", verdict(rung::DROPPED))),
        exit("drop: verdict, new connection (1 in 64 passes)", "gate", syn.clone(), |l| {
            l.judge("192.0.2.7", verdict(rung::GATED))
        }),
        exit("drop: deny list", "deny", ack.clone(), |l| l.list(name::DENY, "192.0.2.0", 120)),
        exit("drop: above the ceiling of packets", "packets", ack.clone(), tight),
        exit("drop: cut connection", "flow", ack.clone(), |l| {
            l.cut("192.0.2.7", 40_000, PORT, Cut { expiry_ns: u64::MAX, decision: 1 });
        }),
        exit("pass: ceilings, neighbourhood, gate open", "clean", ack.clone(), |l| {
            limited(l);
            gated(l);
        }),
        exit("pass: the same, new connection", "clean", syn.clone(), |l| {
            limited(l);
            gated(l);
        }),
        exit("pass: the same, gate closed, verified source", "clean", ack, |l| {
            limited(l);
            gated(l);
            l.verify("192.0.2.7");
            l.pulse(PULSE_PRESSURE, u64::MAX);
        }),
        exit("drop: gate closed, stranger's SYN", "strangers", syn, |l| {
            limited(l);
            gated(l);
            l.pulse(PULSE_PRESSURE, u64::MAX);
        }),
    ]
}

fn exit(name: &'static str, reason: &'static str, frame: Vec<u8>, prepare: impl Fn(&mut Loaded)) -> Exit {
    let mut program = Loaded::new(CELLS, PORT);
    // Held for ever: the rounds last longer than a heartbeat does.
    program.settings.stale_ns = 0;
    program.apply();
    prepare(&mut program);
    Exit { name, reason, program, frame, nanoseconds: Vec::new() }
}

fn verdict(rung: u32) -> Verdict {
    Verdict { expiry_ns: u64::MAX, decision: 1, rung, spare: 0, packets: Ceiling::UNLIMITED }
}

/// One round of one exit; the packets must have left where they were meant to.
fn measure(exit: &mut Exit) -> Result<f64> {
    let before = exit.program.packets(exit.reason);
    let (_, duration) = exit.program.run(&exit.frame, REPEAT);
    let there = exit.program.packets(exit.reason) - before;
    ensure!(there >= u64::from(REPEAT) / 10 * 9, "{}: {there} of {REPEAT} packets left as {}", exit.name, exit.reason);
    Ok(nanoseconds(duration))
}

/// Many sources in turn, one packet a run: the caches are cold, and the timer's own cost is in both figures. Nanoseconds of
/// a packet that passes.
fn in_turn(empty: &bare::Program) -> Result<f64> {
    let mut full = Loaded::new(CELLS, PORT);
    full.settings.stale_ns = 0;
    full.settings.packets = Ceiling::new(1_000_000, 1_000_000);
    full.settings.bytes = Ceiling::new(1_000_000_000, 1_000_000_000);
    full.apply();
    let sources: Vec<Vec<u8>> =
        (0..SOURCES).map(|number| frames::v4([10, 1, (number >> 8) as u8, number as u8], L4::Ack(PORT))).collect();
    // As many verdicts as the measuring map holds.
    let judged = &sources[..JUDGED];
    let mut judging = Loaded::new(CELLS, PORT);
    judging.settings.stale_ns = 0;
    for number in 0..JUDGED {
        judging.judge(&format!("10.1.{}.{}", number >> 8, number & 255), verdict(rung::DROPPED));
    }
    let (mut bare, mut passed, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut of_empty, mut of_full) = (0.0, 0.0);
        for frame in &sources {
            of_empty += nanoseconds(empty.run(frame, 1)?);
            of_full += nanoseconds(full.run(frame, 1).1);
        }
        bare.push(of_empty / f64::from(SOURCES));
        passed.push(of_full / f64::from(SOURCES));
        let of_judged: f64 = judged.iter().map(|frame| nanoseconds(judging.run(frame, 1).1)).sum();
        dropped.push(of_judged / JUDGED as f64);
    }
    ensure!(judging.packets("drop") == (ROUNDS * JUDGED) as u64, "not all were dropped");
    let (bare, passed, dropped) = (median(bare), median(passed), median(dropped));
    println!("\n{SOURCES} sources in turn, one packet a run (cold caches, the timer's cost included)");
    println!("{:<44} {bare:>8.0} {:>10.2}", "empty program: XDP_DROP", 1.0);
    println!("{:<44} {passed:>8.0} {:>10.2}", "pass: ceilings of packets and bytes", passed / bare);
    println!("{:<44} {dropped:>8.0} {:>10.2}", "drop: verdict", dropped / bare);
    let words =
        |what: &str, own: f64| format!("{what} in turn, cold, beside an empty program ({own:.0} / {bare:.0} ns)");
    bar::at_most("R1", &words(&format!("drop by a verdict, {JUDGED} sources"), dropped), dropped / bare, 4.0, "×");
    bar::at_most("R1", &words(&format!("pass with ceilings, {SOURCES} sources"), passed), passed / bare, 6.0, "×");
    Ok(passed)
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
