//! The attacks: floods of frames over several connections that come back as soon as they are ended, and the tools'. Each is
//! bounded by its pieces, its connections and its time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use gateway_tests::floods::{self, Fate, Flood};
use gateway_tests::h2frames::{Frames, Outcome};

use super::scene::{self, Endings};
use super::tools;

/// Connections at a time, and in all, of one flood.
const FLOODERS: usize = 4;
const CONNECTIONS_MAX: usize = 100;
/// How long a flood goes on.
const FLOOD: Duration = Duration::from_secs(5);
/// How long a connection is waited for that must be ended: what was sent waits in buffers.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// How many connections ended in which way.
pub type Counts = BTreeMap<String, u32>;

/// A connection that the server has not ended.
const ABSORBED: &str = "absorbed";

/// Runs the attacks whose name has `word` in it.
pub fn run(word: &str) -> Result<()> {
    for flood in floods::all().iter().filter(|flood| flood.what.contains(word)) {
        scene::under(flood.what, |scene| Ok(endings(flood.fate, &flooded(scene.gateway.proxy(), flood, FLOOD))))?;
    }
    for tool in tools::ALL.iter().filter(|tool| tool.what.contains(word)) {
        if let Some(reason) = tool.absent() {
            gateway_tests::skip(tool.what, reason);
            continue;
        }
        scene::under(tool.what, |scene| tool.run(&scene.gateway, tools::SECONDS))?;
    }
    Ok(())
}

/// Floods from all flooders for as long; how the connections ended.
pub fn flooded(to: SocketAddr, flood: &Flood, time: Duration) -> Counts {
    let end = Instant::now() + time;
    thread::scope(|scope| {
        let flooders: Vec<_> = (0..FLOODERS).map(|_| scope.spawn(|| flooder(to, flood, end))).collect();
        let mut all = Counts::new();
        for flooder in flooders {
            for (ending, count) in flooder.join().expect("a flooder does not panic") {
                *all.entry(ending).or_default() += count;
            }
        }
        all
    })
}

fn flooder(to: SocketAddr, flood: &Flood, end: Instant) -> Counts {
    let mut counts = Counts::new();
    for _ in 0..CONNECTIONS_MAX / FLOODERS {
        if Instant::now() >= end {
            break;
        }
        let ending = connection(to, flood, end).unwrap_or_else(|error| format!("not connected: {}", error.kind()));
        *counts.entry(ending).or_default() += 1;
    }
    counts
}

/// One connection of a flood; how it ended.
fn connection(to: SocketAddr, flood: &Flood, end: Instant) -> std::io::Result<String> {
    let mut frames = Frames::connect(to)?;
    let ear = frames.listen_aside()?;
    let mut cut = false;
    for at in 0..flood.pieces {
        cut = flood.send(&mut frames, at).is_err();
        if cut || Instant::now() >= end {
            break;
        }
    }
    let until = match (flood.hold, cut || flood.fate == Fate::Ended) {
        (true, _) => end,
        (false, true) => Instant::now() + ENDED_WITHIN,
        (false, false) => Instant::now(),
    };
    while !ear.is_finished() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    let ended = ear.is_finished();
    frames.hang_up();
    let outcome = ear.join().expect("the ear does not panic");
    Ok(match outcome {
        _ if !ended => ABSORBED.to_owned(),
        Outcome::GoAway(code) => format!("GOAWAY {code}"),
        _ => "closed".to_owned(),
    })
}

fn endings(fate: Fate, counts: &Counts) -> Endings {
    let words: Vec<String> = counts.iter().map(|(ending, count)| format!("{ending} × {count}")).collect();
    let good = !counts.is_empty() && counts.keys().all(|ending| ending != ABSORBED && ending != "GOAWAY 0");
    Endings { words: words.join(", "), good: (fate == Fate::Ended).then_some(good) }
}
