//! A child process whose output is read as it comes, and its end. What the
//! kernel says of any process. It knows nothing of what the process is.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::deadline::holds_within;

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The child keeps its sockets and does nothing any more.
pub fn pause(child: &Child) {
    kill(pid(child), Signal::SIGSTOP).expect("the child is ours");
    // Until it has stopped it may still answer.
    waitpid(pid(child), Some(WaitPidFlag::WUNTRACED)).expect("the child is ours");
}

/// It goes on.
pub fn resume(child: &Child) {
    kill(pid(child), Signal::SIGCONT).expect("the child is ours");
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids fit"))
}

/// What a process said so far, read by threads so that it never waits for a reader.
pub struct Output {
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Output {
    pub fn of(child: &mut Child) -> Self {
        let stdout = Arc::new(Mutex::new(String::new()));
        let stderr = Arc::new(Mutex::new(String::new()));
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        let readers = vec![follow(out, &stdout), follow(err, &stderr)];
        Self { stdout, stderr, readers: Mutex::new(readers) }
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads to the end of an ended process.
    pub fn exit(&self, status: ExitStatus) -> Exit {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for reader in readers.drain(..) {
            reader.join().expect("the reader does not panic");
        }
        Exit { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

fn follow<R: Read + Send + 'static>(from: R, to: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let to = Arc::clone(to);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while let Ok(count @ 1..) = from.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line[..count]).into_owned();
            to.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            line.clear();
        }
    })
}

/// Waits for the end of a process; `None` if it still runs after `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    holds_within(limit, || {
        status = child.try_wait().unwrap_or_else(|error: io::Error| panic!("wait: {error}"));
        status.is_some()
    });
    status
}

/// Resident memory of a process, KiB; 0 if it is gone.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Open descriptors of a process; 0 if it is gone.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Processor time of a process, ticks of 10 ms; 0 if it is gone.
pub fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let time = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    time(11) + time(12)
}
