//! Floods of frames (CVE-2023-44487, 2024-27316, 2025-8671, 2019-95xx, 2016-6581): ended or absorbed, memory bounded, and
//! other clients are served in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::deadline::say;
use gateway_tests::floods::{self, Fate, Flood};
use gateway_tests::h2frames::Frames;
use gateway_tests::process::resident_kib;
use gateway_tests::{Gateway, Upstream};

/// Sends the pieces as long as the gateway takes them, while another client asks in a loop.
fn flood(gateway: &Gateway, flood: &Flood) {
    let Flood { what, pieces, .. } = *flood;
    let before = resident_kib(gateway.pid());
    let stop = AtomicBool::new(false);
    let (mut taken, mut peak, mut worst) = (0, before, Duration::ZERO);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            loop {
                let begun = Instant::now();
                gateway.get("/pub/other").expect(200);
                worst = worst.max(begun.elapsed());
                // At least once, however soon the flood is over.
                if stop.load(Ordering::SeqCst) {
                    return worst;
                }
            }
        });
        let mut frames = Frames::connect(gateway.proxy()).unwrap();
        let ear = frames.listen_aside().unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        for at in 0..pieces {
            if flood.send(&mut frames, at).is_err() || Instant::now() > end {
                break;
            }
            taken = at + 1;
            if at % 500 == 0 {
                peak = peak.max(resident_kib(gateway.pid()));
            }
        }
        peak = peak.max(resident_kib(gateway.pid()));
        if flood.fate == Fate::Ended {
            // Whatever is said on this side, the other one has ended it.
            let outcome = ear.join().unwrap();
            assert!(outcome.is_refusal(), "{what}: {outcome:?}");
        } else {
            frames.hang_up();
        }
        gateway.get("/pub/other").expect(200);
        stop.store(true, Ordering::SeqCst);
        worst = others.join().unwrap();
    });
    let more = peak - before;
    assert!(more < 64 << 10, "{what}: {more} KiB more");
    assert!(worst < Duration::from_secs(2), "{what}: another waited {worst:?}");
    say(&format!("FIGURE {what}: {taken} of {pieces} taken, {more} KiB more, others at most {} ms", worst.as_millis()));
}

#[test]
fn floods_are_ended_or_absorbed() {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(super::CONFIG));
    gateway.get("/pub/x").expect(200);
    let all = floods::all();
    for one in &all {
        flood(&gateway, one);
    }
    assert!(gateway.runs());
    gateway.get("/pub/after").expect(200);
    say(&format!("CASES floods: {}", all.len()));
}
