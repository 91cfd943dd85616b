//! Floods of frames (CVE-2023-44487, 2024-27316, 2025-8671, 2019-95xx, 2016-6581): ended or absorbed, memory bounded, and
//! other clients are served in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gateway_tests::deadline::say;
use gateway_tests::h2frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, SETTINGS, block,
};
use gateway_tests::{Gateway, Upstream};

use super::slow::resident_kib;

const FIELDS: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/pub/x"), (b":authority", b"a")];
const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

type Send<'a> = &'a mut dyn FnMut(&mut Frames, u32) -> std::io::Result<()>;

/// Sends up to `pieces` as long as the gateway takes them, while another client asks in a loop.
fn flood(gateway: &Gateway, what: &str, pieces: u32, send: Send<'_>) {
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
        let end = Instant::now() + Duration::from_secs(10);
        for at in 0..pieces {
            if send(&mut frames, at).is_err() || Instant::now() > end {
                break;
            }
            taken = at + 1;
            if at % 500 == 0 {
                peak = peak.max(resident_kib(gateway.pid()));
            }
        }
        peak = peak.max(resident_kib(gateway.pid()));
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
    let request = block(&FIELDS);
    let open = END_HEADERS | END_STREAM;
    flood(&gateway, "rapid reset", 10_000, &mut |frames, at| {
        frames.send(HEADERS, open, at * 2 + 1, &request)?;
        frames.send(RST_STREAM, 0, at * 2 + 1, &8u32.to_be_bytes())
    });
    flood(&gateway, "made you reset", 10_000, &mut |frames, at| {
        frames.send(HEADERS, END_HEADERS, at * 2 + 1, &request)?;
        // A window of zero is an error of the stream, so that the gateway resets it.
        frames.send(WINDOW_UPDATE, 0, at * 2 + 1, &0u32.to_be_bytes())
    });
    let field = [0, 1, b'x', 1, b'y'].repeat(2_000);
    flood(&gateway, "continuation", 3_000, &mut |frames, at| match at {
        0 => frames.send(HEADERS, END_STREAM, 1, &request),
        _ => frames.send(CONTINUATION, 0, 1, &field),
    });
    flood(&gateway, "empty continuation", 50_000, &mut |frames, at| match at {
        0 => frames.send(HEADERS, END_STREAM, 1, &request),
        _ => frames.send(CONTINUATION, 0, 1, &[]),
    });
    flood(&gateway, "settings", 50_000, &mut |frames, _| frames.send(SETTINGS, 0, 0, &[]));
    flood(&gateway, "ping", 50_000, &mut |frames, _| frames.send(PING, 0, 0, &[0; 8]));
    flood(&gateway, "priority", 50_000, &mut |frames, at| frames.send(PRIORITY, 0, at * 2 + 1, &[0, 0, 0, 0, 1]));
    flood(&gateway, "empty data", 50_000, &mut |frames, at| match at {
        0 => frames.send(HEADERS, END_HEADERS, 1, &request),
        _ => frames.send(DATA, 0, 1, &[]),
    });
    flood(&gateway, "window updates", 50_000, &mut |frames, at| match at {
        0 => frames.send(HEADERS, END_HEADERS, 1, &request),
        _ => frames.send(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
    });
    // A field of 4 KB in the dynamic table, then thousands of references of one byte.
    let mut bomb = request.clone();
    bomb.extend([0x40, 1, b'x', 127, 0x81, 0x1e]);
    bomb.extend([b'a'; 4_000]);
    let references = [request.clone(), vec![0xbe; 16_000]].concat();
    flood(&gateway, "header bomb", 20, &mut |frames, at| match at {
        0 => frames.send(HEADERS, open, 1, &bomb),
        _ => frames.send(HEADERS, open, at * 2 + 1, &references),
    });
    flood(&gateway, "streams without end", 10_000, &mut |frames, at| {
        frames.send(HEADERS, END_HEADERS, at * 2 + 1, &request)
    });
    assert!(gateway.runs());
    gateway.get("/pub/after").expect(200);
    say("CASES floods: 11");
}
