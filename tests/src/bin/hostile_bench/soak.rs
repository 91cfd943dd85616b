//! All attacks in a loop beside steady clients, with a reload now and then: what stays afterwards. Memory is looked at every
//! second, descriptors when an attack is over and its connections have had their time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use gateway_tests::deadline::holds_within;
use gateway_tests::floods;
use gateway_tests::process::{descriptors, resident_kib};
use gateway_tests::{Gateway, bar};
use serde_json::json;

use super::attacks::flooded;
use super::scene::{Scene, raw, text};
use super::tools;

/// How long each flood goes on; a tool has a little longer, and runs beside them.
const FLOOD: Duration = Duration::from_secs(2);
const TOOL_SECONDS: u64 = 8;
const SAMPLE: Duration = Duration::from_secs(1);
/// How long the gateway may take to let go of an attack's connections.
const LET_GO: Duration = Duration::from_secs(20);

/// Bars.
const SLOPE_MIB_MAX: f64 = 1.0;
const DESCRIPTORS_MAX: f64 = 10.0;

/// Attacks for as long, and tells the rows.
pub fn run(time: Duration) -> Result<()> {
    let scene = Scene::start()?;
    let (begun, end) = (Instant::now(), Instant::now() + time);
    let others = scene.others();
    let first = quiet_descriptors(&scene.gateway);
    let samples = thread::scope(|scope| {
        let looking = scope.spawn(|| samples(scene.gateway.pid(), begun, end));
        scope.spawn(|| by_tools(&scene.gateway, end));
        let all = floods::all();
        for (round, flood) in all.iter().cycle().take_while(|_| Instant::now() < end).enumerate() {
            flooded(scene.gateway.proxy(), flood, FLOOD);
            let extra = format!(
                "- {{ url: \"http://127.0.0.1:1\", routes: [{{ paths: [/r{round}], plugins: [{{ name: request-termination, \
                 config: {{ status_code: 200 }} }}] }}] }}\n"
            );
            let whole = text(&scene.upstreams).replacen("\ngateway:\n", &format!("{extra}\ngateway:\n"), 1);
            scene.gateway.reload(&whole, || scene.gateway.get(&format!("/r{round}")).status == 200);
        }
        looking.join().expect("the looking thread does not panic")
    });
    let went = others.finish();
    let last = quiet_descriptors(&scene.gateway);
    let half = samples.len() / 2;
    let slope = slope(&samples[half..]);
    let (second_minute, last_minute) = (
        went.p99_ms(begun + Duration::from_secs(60), begun + Duration::from_secs(120)),
        went.p99_ms(end - Duration::from_secs(60), end),
    );
    let what = format!("{} min of attacks and reloads", time.as_secs() / 60);
    let peak_mib = samples.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
    println!(
        "{what}: idle {:.1} MiB, at most {peak_mib:.1} MiB, p99 of others {second_minute:.1} ms in the second minute, \
         {last_minute:.1} ms in the last one",
        scene.idle_kib as f64 / 1024.0
    );
    bar::at_most("S11", &format!("{what}: memory a minute, second half"), slope, SLOPE_MIB_MAX, " MiB");
    let gained = last.abs_diff(first) as f64;
    bar::at_most("S11", &format!("{what}: descriptors, {first} before, {last} after"), gained, DESCRIPTORS_MAX, "");
    let all = went.served + went.wrong.len() as u64;
    let good = went.wrong.is_empty() && went.served > 0;
    bar::holds("S11", &format!("{what}: other clients"), "all 200", format!("{} of {all}", went.served), good);
    bar::at_most("S11", &format!("{what}: slowest answer"), went.slowest().as_secs_f64(), 2.0, " s");
    for wrong in went.wrong.iter().take(5) {
        println!("  another client got: {wrong}");
    }
    raw(&json!({
        "soak_s": time.as_secs(), "slope_mib_a_minute": slope, "descriptors": [first, last], "others_served": went.served,
        "others_failed": went.wrong.len(), "p99_ms": [second_minute, last_minute],
        "rss_mib": samples.iter().map(|(_, mib)| (mib * 10.0).round() / 10.0).collect::<Vec<_>>(),
    }));
    Ok(())
}

/// Minutes and MiB.
fn samples(pid: u32, begun: Instant, end: Instant) -> Vec<(f64, f64)> {
    let mut samples = Vec::new();
    while Instant::now() < end {
        samples.push((begun.elapsed().as_secs_f64() / 60.0, resident_kib(pid) as f64 / 1024.0));
        thread::sleep(SAMPLE);
    }
    samples
}

/// The tools, one after the other. What they count was told by the attacks alone.
fn by_tools(gateway: &Gateway, end: Instant) {
    let there = tools::ALL.iter().filter(|tool| tool.absent().is_none());
    for tool in there.cycle().take_while(|_| Instant::now() < end) {
        if let Err(error) = tool.run(gateway, TOOL_SECONDS) {
            println!("  {}: {error:#}", tool.what);
            thread::sleep(SAMPLE);
        }
    }
}

/// Descriptors when only the steady clients are left.
fn quiet_descriptors(gateway: &Gateway) -> usize {
    let connections = || gateway.status()["server"]["connections_active"].as_u64().unwrap_or(0);
    // Some are new each time.
    holds_within(LET_GO, || connections() <= 8);
    descriptors(gateway.pid())
}

/// The slope of the line that fits best (least squares).
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let both: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    let square: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    both / square
}
