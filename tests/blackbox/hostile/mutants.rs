//! Mutation of good requests by a seed, against the real binary: nothing that reaches the upstream may read two ways, and
//! no connection may get more answers than it sent requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::deadline::say;
use gateway_tests::{Gateway, Upstream};

use super::{CONFIG, H, HIDDEN, statuses};

/// Mutants of an ordinary run; `GATEWAY_MUTANTS` asks for more, `GATEWAY_SEED` for others.
const ORDINARY: u64 = 3_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end.max(1) as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let hidden = HIDDEN.len();
    [
        format!("GET /pub/x?a=b HTTP/1.1\r\n{H}\r\n"),
        format!("GET http://gw.test/pub/x HTTP/1.1\r\n{H}\r\n"),
        format!("HEAD /pub/x HTTP/1.1\r\n{H}Connection: close, X-A\r\nX-A: b\r\n\r\n"),
        format!("POST /pub/x HTTP/1.1\r\n{H}Content-Length: 5\r\n\r\nhello"),
        format!("POST /pub/x HTTP/1.1\r\n{H}Content-Length: {hidden}\r\n\r\n{HIDDEN}"),
        format!("POST /pub/x HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: a\r\n\r\n"),
        format!("POST /pub/x HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n{hidden:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        format!("POST /pub/x HTTP/1.1\r\n{H}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"),
        format!("GET /pub/x HTTP/1.1\r\n{H}Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
        format!("GET /pub/x HTTP/1.0\r\n{H}Connection: keep-alive\r\nCookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"),
        format!("OPTIONS /pub/a/./b/../c;d=e/%41%2f HTTP/1.1\r\n{H}Content-Length: 0\r\n\r\n"),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// Pieces that parsers trip over.
const GADGETS: [&[u8]; 44] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\xa0",
    b"\xe2\x84\xaa",
    b":",
    b";",
    b",",
    b"\"",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: cow\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"transfer_encoding: chunked\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content_Length: 3\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Host: evil.test\r\n",
    b"Host:\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: Content-Length\r\n",
    b"Connection: Host\r\n",
    b"X_Consumer_Username: root\r\n",
    b"X-Forwarded-For: 9.9.9.9\r\n",
    b" HTTP/1.1",
    b" HTTP/1.0",
    b" HTTP/2.0",
    b"0\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    b"/../",
    b"%2e%2e",
    b"%2f",
    b"%00",
    b"\\",
    b"#",
    b"@",
    b"\r\n ",
];

fn mutate(dice: &mut Dice, message: &mut Vec<u8>) {
    let at = dice.below(message.len() + 1);
    let insert = |message: &mut Vec<u8>, at: usize, bytes: &[u8]| drop(message.splice(at..at, bytes.iter().copied()));
    match dice.below(9) {
        0 => insert(message, at, &[u8::try_from(dice.below(256)).unwrap()]),
        1 if at < message.len() => message[at] = u8::try_from(dice.below(256)).unwrap(),
        2 if at < message.len() => drop(message.remove(at)),
        3 => {
            let end = (at + dice.below(20)).min(message.len());
            let piece = message[at..end].to_vec();
            insert(message, at, &piece);
        }
        4 => {
            let end = (at + dice.below(20)).min(message.len());
            message.drain(at..end);
        }
        5 | 6 => {
            // At the start of a line, where a gadget is a field.
            let starts: Vec<usize> =
                message.windows(2).enumerate().filter(|(_, two)| two == b"\r\n").map(|(at, _)| at + 2).collect();
            let at = if starts.is_empty() { at } else { starts[dice.below(starts.len())] };
            let gadget = dice.pick(&GADGETS);
            insert(message, at.min(message.len()), gadget);
        }
        7 if at < message.len() => message[at] ^= 0x20,
        _ => {
            let gadget = dice.pick(&GADGETS);
            insert(message, at, gadget);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_mutant_reads_two_ways() {
    let count = number("GATEWAY_MUTANTS", ORDINARY);
    let seed = number("GATEWAY_SEED", 7);
    let workers = 16;
    let begun = Instant::now();
    let forwarded = AtomicUsize::new(0);
    let mut wrong: Vec<String> = std::thread::scope(|scope| {
        let forwarded = &forwarded;
        let runs: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || run(seed.wrapping_mul(1_000_003) + worker, count.div_ceil(workers), forwarded))
            })
            .collect();
        runs.into_iter().flat_map(|run| run.join().unwrap()).collect()
    });
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    say(&format!(
        "FIGURE mutants: {count} by seed {seed}, {} requests forwarded, 0 ambiguous, {:.0} s",
        forwarded.load(Ordering::SeqCst),
        begun.elapsed().as_secs_f64()
    ));
}

/// Mutants one after another, with an upstream of their own, so that what arrives is known to be theirs.
fn run(seed: u64, count: u64, forwarded: &AtomicUsize) -> Vec<String> {
    let upstream = Upstream::echo();
    let text = CONFIG.replace("header: 3s, idle: 3s", "header: 1s, idle: 1s, body: 100ms");
    let mut gateway = Gateway::start(&upstream.fill(&text));
    let mut dice = Dice(seed);
    let seeds = seeds();
    let mut wrong = Vec::new();
    for _ in 0..count {
        let mut message = seeds[dice.below(seeds.len())].clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut dice, &mut message);
        }
        let from = upstream.count();
        // The end of the bytes ends the wait for more of them.
        let mut client = gateway.connect();
        let _ = client.write(&message);
        client.patience(Duration::from_millis(1500));
        let first = client.await_byte();
        let (read, _) = client.drain(Duration::from_millis(if first { 12 } else { 1 }));
        let seen = upstream.seen().split_off(from);
        forwarded.fetch_add(seen.iter().filter(|seen| seen.complete).count(), Ordering::SeqCst);
        let ambiguous = seen.iter().filter(|seen| seen.complete && !seen.faults.is_empty()).count();
        let spoofed = seen.iter().any(|seen| {
            seen.header("x_consumer_username").is_some() || seen.all("x-real-ip") != ["127.0.0.1"] && seen.complete
        });
        // A message that became two for every reader is two; what no reader sees as a request must not be one.
        let hidden = seen.iter().any(|seen| seen.target.starts_with("/admin"));
        if ambiguous > 0 || spoofed || hidden || statuses(&read).contains(&500) {
            let heads: Vec<_> = seen
                .iter()
                .map(|seen| (String::from_utf8_lossy(&seen.head).into_owned(), seen.faults.clone()))
                .collect();
            wrong.push(format!("{:?} -> {heads:?}, answers {:?}", String::from_utf8_lossy(&message), statuses(&read)));
        }
    }
    assert!(gateway.runs(), "the gateway is still there");
    gateway.get("/pub/after").expect(200);
    wrong
}
