//! Attacks by programs that others made: slowhttptest's four modes, and h2load as a mere flood of requests. How their
//! connections end is seen by what the gateway has left.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::Gateway;

use super::scene::Endings;

/// How long each goes on; longer than every time limit of the scene.
pub const SECONDS: u64 = 12;

/// Between two looks at what is left of an attack.
const LOOK: Duration = Duration::from_millis(200);
/// Connections of others that may be open meanwhile.
const OTHERS_MAX: u64 = 6;

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
        ends: true,
    },
    Tool {
        what: "slowhttptest: slow read",
        program: "slowhttptest",
        arguments: &["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "1"],
        path: "/pub/large",
        ends: true,
    },
    Tool {
        what: "h2load: 100 connections, 10 streams",
        program: "h2load",
        arguments: &["-t1", "-c100", "-m10"],
        path: "/pub/x",
        ends: false,
    },
    Tool {
        what: "h2load: 50 connections, 100 streams",
        program: "h2load",
        arguments: &["-t1", "-c50", "-m100"],
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
    pub fn run(&self, gateway: &Gateway, seconds: u64) -> Result<Endings> {
        let url = format!("http://{}{}", gateway.proxy(), self.path);
        let mut command = Command::new(self.program);
        command.args(self.arguments);
        if self.program == "h2load" {
            command.args([format!("-D{seconds}"), url]);
        } else {
            command.args(SLOW).args(["-l", &seconds.to_string(), "-u", &url]);
        }
        let printed = tempfile::tempfile()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program))?;
        // A slow client does not notice that its connection is gone before it reads: the gateway is asked.
        let mut left = 0;
        let status = loop {
            let open = gateway.status()["server"]["connections_active"].as_u64().unwrap_or(u64::MAX);
            if let Some(status) = child.try_wait()? {
                break status;
            }
            left = open;
            thread::sleep(LOOK);
        };
        let text = text_of(printed)?;
        if self.program == "h2load" {
            ensure!(status.success(), "h2load failed:\n{text}");
            let line = text.lines().find_map(|line| line.strip_prefix("requests: ")).unwrap_or_default();
            return Ok(Endings { words: line.to_owned(), good: None });
        }
        ensure!(text.contains("Exit status:"), "slowhttptest printed something else:\n{text}");
        // It ends before its time when there is nothing left.
        if text.contains("No open connections left") {
            left = 0;
        }
        let words = match left.checked_sub(OTHERS_MAX) {
            None | Some(0) => "all ended".to_owned(),
            Some(left) => format!("{left} left after {seconds} s"),
        };
        Ok(Endings { good: self.ends.then_some(left <= OTHERS_MAX), words })
    }
}

/// What was printed, without what colours it.
fn text_of(mut file: File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(plain(&String::from_utf8_lossy(&bytes)))
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
