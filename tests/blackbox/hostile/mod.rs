//! Hostile traffic by class: what may become of each message is said beside its bytes, and everything that reached the
//! upstream is judged by the strict reader. The classes are those of RFC 9110, 9112 and 9113 and of published attacks.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gateway_tests::deadline::say;
use gateway_tests::upstream::Seen;
use gateway_tests::{Gateway, Request, Upstream};

mod admin;
mod answers;
mod credentials;
mod desync;
mod evasion;
mod faults;
mod floods;
mod framing;
mod headers;
mod http2;
mod limits;
mod mutants;
mod paths;
mod signatures;
mod slow;
mod syntax;
mod tls;
mod upgrades;
mod vanished;

/// `/pub` is open, `/admin` wants a key that nobody has.
const CONFIG: &str = r#"
_format_version: "3.0"
services:
- url: @UP@
  read_timeout: 3000
  write_timeout: 3000
  routes:
  - { paths: [/pub], strip_path: false }
  - { paths: [/admin], strip_path: false, plugins: [{ name: key-auth }] }
gateway:
  timeouts: { header: 3s, idle: 3s }
"#;

/// Host, and the field by which the upstream knows a case.
const H: &str = "Host: gw.test\r\nX-Case: MARK\r\n";

/// What a smuggler wants to be read as a request.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// What may happen to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Refused; the upstream sees nothing of it.
    Refused,
    /// Refused, or its head was forwarded and the body never completed.
    Cut,
    /// Refused, or forwarded as one request that reads only one way.
    Safe,
    /// Forwarded: the refusals beside it would prove nothing otherwise.
    Served,
}
use Fate::{Cut, Refused, Safe, Served};

type Check = Box<dyn Fn(&Seen) -> bool + Send + Sync>;

/// Bytes with `MARK` in them, and what may become of them.
struct Case {
    what: String,
    fate: Fate,
    bytes: Vec<u8>,
    /// What must hold for a request that was forwarded.
    check: Option<Check>,
}

fn case(what: impl Into<String>, fate: Fate, bytes: impl AsRef<[u8]>) -> Case {
    Case { what: what.into(), fate, bytes: bytes.as_ref().to_vec(), check: None }
}

impl Case {
    fn check(mut self, check: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Self {
        self.check = Some(Box::new(check));
        self
    }
}

/// A GET with more fields.
fn get(fields: &str) -> String {
    format!("GET /pub/x HTTP/1.1\r\n{H}{fields}\r\n")
}

/// A POST with more fields and a body.
fn post(fields: &str, body: &str) -> String {
    format!("POST /pub/x HTTP/1.1\r\n{H}{fields}\r\n{body}")
}

/// Bytes that are not text.
fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// How a case went.
struct Went {
    answers: Vec<u16>,
    closed: bool,
}

/// The statuses of the final answers in `bytes`.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let all = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    all.filter(|status| *status >= 200).collect()
}

fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) || matches!(status, 501 | 502 | 503 | 505)
}

fn send(gateway: &Gateway, bytes: &[u8]) -> Went {
    let mut client = gateway.connect();
    // A refusal may come before all is written.
    let _ = client.write(bytes);
    client.patience(Duration::from_secs(5));
    // The first answer has its time; a second one would follow at once.
    let first = client.await_byte();
    let (answer, closed) = client.drain(Duration::from_millis(if first { 250 } else { 1 }));
    Went { answers: statuses(&answer), closed }
}

/// Runs the cases of a class, many at a time, and fails with all that went wrong.
fn run(class: &str, cases: Vec<Case>) {
    run_with(class, CONFIG, cases);
}

fn run_with(class: &str, config: &str, cases: Vec<Case>) {
    let upstream = Upstream::echo();
    let mut gateway = Gateway::start(&upstream.fill(config));
    let pid = gateway.pid();
    let next = AtomicUsize::new(0);
    let went: Mutex<Vec<(usize, Went)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    let Some(case) = cases.get(at) else { return };
                    let one = send(&gateway, &marked(&case.bytes, at));
                    went.lock().unwrap().push((at, one));
                }
            });
        }
    });
    let went = went.into_inner().unwrap();
    let seen = upstream.seen();
    let mut wrong: Vec<String> = went.iter().filter_map(|(at, went)| judge(&cases[*at], *at, went, &seen)).collect();
    let known: BTreeSet<String> = (0..cases.len()).map(mark).collect();
    let strange = seen.iter().filter(|seen| !seen.header("x-case").is_some_and(|case| known.contains(case)));
    wrong.extend(strange.map(|seen| format!("of no case: {:?}", String::from_utf8_lossy(&seen.head))));
    gateway.send(&Request::get("/pub/after")).expect(200);
    assert!(gateway.runs() && gateway.pid() == pid, "the gateway is still there");
    assert_eq!(went.len(), cases.len());
    assert!(wrong.is_empty(), "{class}: {} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    say(&format!("CASES {class}: {}", cases.len()));
}

fn mark(at: usize) -> String {
    format!("case-{at}")
}

/// `bytes` with every `MARK` replaced by the case's own.
fn marked(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(found) = gateway_tests::wire::find(rest, b"MARK") {
        out.extend_from_slice(&rest[..found]);
        out.extend_from_slice(mark(at).as_bytes());
        rest = &rest[found + 4..];
    }
    out.extend_from_slice(rest);
    out
}

/// What is wrong, if anything.
fn judge(case: &Case, at: usize, went: &Went, all: &[Seen]) -> Option<String> {
    let mark = mark(at);
    let seen: Vec<&Seen> = all.iter().filter(|seen| seen.header("x-case") == Some(&mark)).collect();
    let complete = seen.iter().filter(|seen| seen.complete).count();
    let faults: Vec<&String> = seen.iter().filter(|seen| seen.complete).flat_map(|seen| &seen.faults).collect();
    let refused = went.answers.first().map_or(went.closed, |status| is_refusal(*status));
    let served = complete == 1 && seen.len() == 1 && faults.is_empty() && went.answers == [200];
    let fits = match case.fate {
        Refused => refused && seen.is_empty(),
        Cut => complete == 0 && went.answers.first().is_none_or(|status| is_refusal(*status)),
        Safe => (refused && complete == 0) || served,
        Served => served,
    };
    let checked = case.check.as_ref().is_none_or(|check| seen.iter().all(|seen| check(seen)));
    if fits && checked && went.answers.len() <= 1 {
        return None;
    }
    let heads: Vec<_> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.head).into_owned()).collect();
    Some(format!(
        "{} ({:?}): answers {:?}, closed {}, {complete} complete, faults {faults:?}, upstream {heads:?}: {:?}",
        case.what,
        case.fate,
        went.answers,
        went.closed,
        String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(200)]),
    ))
}
