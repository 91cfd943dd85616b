//! Bars that are no times: what a flood of sources does to the tables (R4), and how exact the cells are (R5).

use std::{
    fs,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    TestRun as _,
    maps::{HashMap, Map, MapData},
    programs::{TestRunOptions, Xdp},
};
use gateway_common::{
    Ceiling, Source,
    map::{HAS_GATE, HAS_NEIGHBOURHOODS, PULSE_PRESSURE, Verdict, name, rung},
};

use gateway_tests::bar;

use crate::{
    frames::{self, L4, PORT, V4},
    loaded::{Loaded, now_ns},
    nanoseconds,
};

const CELLS: u32 = 65_536;
const VERDICTS: u32 = 1_000;
const SECOND: u64 = 1_000_000_000;

/// A new source with every packet; the nanoseconds that one took.
///
/// # Errors
/// The kernel refused.
pub fn flood_of_sources(sources: u32, pressed: bool) -> Result<f64> {
    let mut loaded = Loaded::new(CELLS, PORT);
    loaded.settings.stale_ns = 0;
    loaded.settings.connections = Ceiling::new(100, 100);
    loaded.settings.packets = Ceiling::new(10_000, 10_000);
    loaded.settings.lists |= HAS_GATE | HAS_NEIGHBOURHOODS;
    loaded.settings.gate.syns = Ceiling::new(1_000, 100);
    loaded.settings.gate.hold_ns = SECOND;
    loaded.settings.neighbourhood.packets = Ceiling::new(1_000_000, 1_000_000);
    for n in 0..VERDICTS {
        let verdict = Verdict {
            expiry_ns: u64::MAX,
            decision: u64::from(n) + 1,
            rung: rung::DROPPED,
            spare: 0,
            packets: Ceiling::UNLIMITED,
        };
        loaded.judge(&format!("10.200.{}.{}", n >> 8, n & 255), verdict);
    }
    loaded.apply();
    loaded.verify("192.0.2.7");
    if pressed {
        loaded.pulse(PULSE_PRESSURE, u64::MAX);
    }
    let before = memory(&loaded)?;
    let (mut first, mut all) = (Duration::ZERO, Duration::ZERO);
    let few = sources / 64;
    let mut frame = frames::v4(V4, L4::Syn(PORT));
    for n in 0..sources {
        // Spread as forged sources are; the checksums are nobody's business here.
        let source = n.wrapping_mul(0x9e37_79b1) | 0x4000_0000;
        frame[26..30].copy_from_slice(&source.to_be_bytes());
        let took = loaded.run(&frame, 1).1;
        all += took;
        if n < few {
            first += took;
        }
    }
    let grown = memory(&loaded)? as i64 - before as i64;
    let kept = verdicts(&loaded)?;
    let state = if pressed { "under pressure" } else { "no pressure" };
    println!(
        "R4 {sources} sources, {state}: {grown} bytes of growth, {kept} of {VERDICTS} verdicts kept, verified source \
         {}; {:.0} ns a packet, the first {few} {:.0}",
        if loaded.is_verified("192.0.2.7") { "kept" } else { "LOST" },
        nanoseconds(all) / f64::from(sources),
        nanoseconds(first) / f64::from(few)
    );
    let words = |what: &str| format!("{sources} forged sources, {state}: {what}");
    bar::at_most("R4", &words("bytes of growth"), grown as f64, 0.0, "");
    let held = kept == VERDICTS as usize && loaded.is_verified("192.0.2.7");
    bar::holds("R4", &words("verdicts and verified source kept"), "all", format!("{kept} of {VERDICTS}"), held);
    ensure!(grown == 0 && kept == VERDICTS as usize, "the tables gave way");
    Ok(nanoseconds(all) / f64::from(sources))
}

/// What the kernel has taken for the maps.
fn memory(loaded: &Loaded) -> Result<u64> {
    let mut sum = 0;
    for (_, map) in loaded.ebpf.maps() {
        let Some(data) = data(map) else { continue };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&data.fd().as_fd());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("a map says what it takes")?;
        sum += line.trim().parse::<u64>()?;
    }
    Ok(sum)
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => Some(data),
        Map::PerCpuArray(data) | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

fn verdicts(loaded: &Loaded) -> Result<usize> {
    let map = loaded.ebpf.map(name::VERDICTS).context("the map exists")?;
    let map = HashMap::<_, Source, Verdict>::try_from(map)?;
    Ok(map.keys().filter(Result::is_ok).count())
}

/// Packets admitted beside what the ceiling allows, with one CPU and with all.
///
/// # Errors
/// The kernel refused.
pub fn exactness() -> Result<()> {
    const RATE: u64 = 200_000;
    /// Half a second's worth: a thread that the scheduler keeps waiting that long loses nothing.
    const BURST: u64 = RATE / 2;
    let cpus = std::thread::available_parallelism()?.get();
    for threads in [1, cpus] {
        let mut loaded = Loaded::new(1_024, PORT);
        loaded.settings.stale_ns = 0;
        loaded.settings.packets = Ceiling::new(RATE, BURST);
        loaded.apply();
        let frame = frames::v4(V4, L4::Udp(PORT));
        let program: &Xdp = loaded.ebpf.program(name::PROGRAM).context("the program is there")?.try_into()?;
        let (start, until) = (now_ns(), Instant::now() + Duration::from_secs(3));
        std::thread::scope(|scope| {
            let hammer = || {
                while Instant::now() < until {
                    let options = TestRunOptions { data_in: Some(&frame), repeat: 100_000, ..Default::default() };
                    if program.test_run(options).is_err() {
                        return;
                    }
                }
            };
            for _ in 0..threads {
                scope.spawn(hammer);
            }
        });
        let allowed = BURST + (now_ns() - start) * RATE / SECOND;
        let (clean, unbilled) = (loaded.packets("clean"), loaded.packets("contention"));
        println!(
            "R5 {threads} CPU(s): {clean} admitted of {allowed} allowed: {:.4}; {unbilled} more passed unbilled ({:.4})",
            clean as f64 / allowed as f64,
            (clean + unbilled) as f64 / allowed as f64
        );
        let share = clean as f64 / allowed as f64;
        let bar = "0.98 to 1.02, never above burst + rate · t + CPUs";
        let good = (0.98..=1.02).contains(&share) && clean <= allowed + cpus as u64;
        bar::holds("R5", &format!("admitted of allowed, {threads} CPU(s)"), bar, format!("{share:.4}"), good);
    }
    Ok(())
}
