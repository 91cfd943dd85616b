//! Attacks by programs that others made: slowhttptest's four modes, and h2load as a mere flood of requests. What they print
//! is read for how their connections ended.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::scene::Endings;

/// How long each goes on; longer than every time limit of the scene.
pub const SECONDS: u64 = 12;

/// One attack.
pub struct Tool {
    pub what: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    path: &'static str,
    /// Its connections must all be ended by the gateway within the time.
    ends: bool,
}

const SLOW: [&str; 8] = ["-c", "500", "-r", "250", "-i", "1", "-p", "2"];

pub const ALL: &[Tool] = &[
    Tool {
        what: "slowhttptest: slow headers",
        program: "slowhttptest",
        arguments: &["-H"],
        path: "/pub/x",
        ends: true,
    },
    Tool {
        what: "slowhttptest: slow body",
        program: "slowhttptest",
        arguments: &["-B", "-s", "8192", "-x", "8"],
        path: "/pub/x",
        ends: true,
    },
    Tool {
        what: "slowhttptest: range",
        program: "slowhttptest",
        arguments: &["-R", "-a", "10", "-b", "3000"],
        path: "/pub/x",
        ends: false,
    },
    Tool {
        what: "slowhttptest: slow read",
        program: "slowhttptest",
        arguments: &["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "1"],
        path: "/pub/large",
        ends: false,
    },
    Tool {
        what: "h2load: 100 connections, 100 streams",
        program: "h2load",
        arguments: &["-t1", "-c100", "-m100"],
        path: "/pub/x",
        ends: false,
    },
    Tool {
        what: "h2load: 500 connections, HTTP/1.1",
        program: "h2load",
        arguments: &["-t1", "-c500", "--h1"],
        path: "/pub/x",
        ends: false,
    },
];

impl Tool {
    /// Why it cannot run here.
    pub fn absent(&self) -> Option<&'static str> {
        let there = Command::new(self.program).arg("-h").output().is_ok();
        (!there).then_some(match self.program {
            "h2load" => "the program h2load (package nghttp2-client) is missing",
            _ => "the program slowhttptest (package slowhttptest) is missing",
        })
    }

    /// Runs it to its end.
    pub fn run(&self, to: SocketAddr, seconds: u64) -> Result<Endings> {
        let url = format!("http://{to}{}", self.path);
        let mut command = Command::new(self.program);
        command.args(self.arguments);
        if self.program == "h2load" {
            command.args([format!("-D{seconds}"), url]);
        } else {
            command.args(SLOW).args(["-l", &seconds.to_string(), "-u", &url]);
        }
        let output = command.output().with_context(|| format!("cannot start {}", self.program))?;
        let text = plain(&String::from_utf8_lossy(&output.stdout));
        if self.program == "h2load" {
            ensure!(output.status.success(), "h2load failed:\n{text}");
            let line = |word: &str| text.lines().find(|line| line.starts_with(word)).unwrap_or_default().to_owned();
            return Ok(Endings { words: line("requests: ").replace("requests: ", ""), good: None });
        }
        let ended = slow(&text).with_context(|| format!("slowhttptest printed something else:\n{text}"))?;
        let words =
            format!("{} closed, {} left, {} errors", ended.closed, ended.connected + ended.pending, ended.errors);
        Ok(Endings { words, good: self.ends.then_some(ended.connected + ended.pending == 0 && ended.closed > 0) })
    }
}

/// What slowhttptest counts at its end.
#[derive(Debug, PartialEq, Eq)]
struct Slow {
    pending: u64,
    connected: u64,
    errors: u64,
    closed: u64,
}

fn slow(text: &str) -> Option<Slow> {
    let last = |word: &str| -> Option<u64> {
        let line = text.lines().rev().find_map(|line| line.trim().strip_prefix(word))?;
        line.trim().parse().ok()
    };
    Some(Slow {
        pending: last("pending:")?,
        connected: last("connected:")?,
        errors: last("error:")?,
        closed: last("closed:")?,
    })
}

/// The text without what colours it.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' {
            // Up to the letter that ends the sequence.
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            out.push(letter);
        }
    }
    out
}
