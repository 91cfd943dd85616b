//! Runs h2load and reads what it prints. It must not know what stands behind the address.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Load, Run, milliseconds};
use crate::shell;

const CONNECTIONS: u32 = 8;
const STREAMS: u32 = 8;

/// Loads `target` from one thread on one core.
///
/// # Errors
/// h2load failed, or printed something else.
pub fn run(load: &Load<'_>, target: SocketAddr, seconds: u64) -> Result<Run> {
    let mut command = shell::program("taskset");
    command.args(["-c", &load.core.to_string(), "h2load", "-t1"]);
    command.args([format!("-c{CONNECTIONS}"), format!("-m{STREAMS}"), format!("-D{seconds}"), load.url(target)]);
    for header in load.headers() {
        command.args(["-H", &header]);
    }
    let text = shell::output(&mut command).context("h2load failed")?;
    read(&text).with_context(|| format!("h2load printed something else:\n{text}"))
}

fn read(text: &str) -> Result<Run> {
    let after = |word: &str| text.lines().find_map(|line| line.trim().strip_prefix(word));
    let number = |list: &str, word: &str| -> Option<u64> {
        let item = list.split(',').find(|item| item.trim().ends_with(word))?;
        item.split_whitespace().next()?.parse().ok()
    };
    let finished = after("finished in ").context("no time")?;
    let mut finished = finished.split(',').map(str::trim);
    let seconds = milliseconds(finished.next().unwrap_or_default())? / 1000.0;
    let per_second = finished.next().and_then(|rate| rate.split(' ').next()).context("no rate")?.parse()?;
    let requests = after("requests: ").context("no requests")?;
    let codes = after("status codes: ").context("no status codes")?;
    // min, max, mean, standard deviation.
    let times = after("time for request:").context("no times")?;
    let mean = times.split_whitespace().nth(2).context("no mean")?;
    Ok(Run {
        requests: number(requests, "done").context("none done")?,
        seconds,
        per_second,
        p50_ms: milliseconds(mean)?,
        p99_ms: f64::NAN,
        refused: number(codes, "4xx").unwrap_or(0) + number(codes, "5xx").unwrap_or(0),
        errors: number(requests, "errored").unwrap_or(0) + number(requests, "timeout").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "starting benchmark...
finished in 5.01s, 50123.40 req/s, 2.10MB/s
requests: 250617 total, 250681 started, 250617 done, 250600 succeeded, 17 failed, 3 errored, 1 timeout
status codes: 250600 2xx, 0 3xx, 10 4xx, 4 5xx
traffic: 10.50MB (11010048) total, 2.00MB (2097152) headers (space savings 90.00%), 5.00MB (5242880) data
                     min         max         mean         sd        +/- sd
time for request:      200us     10.00ms      1.27ms       300us    80.00%
time for connect:        0us         0us         0us         0us     0.00%
";

    #[test]
    fn the_output_of_h2load_is_read() {
        let run = read(OUTPUT).unwrap();
        assert_eq!((run.requests, run.refused, run.errors), (250_617, 14, 4));
        assert!((run.per_second - 50_123.4).abs() < 1e-9 && (run.p50_ms - 1.27).abs() < 1e-9);
        assert!((run.seconds - 5.01).abs() < 1e-9);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(read("h2load: command not found").is_err());
    }
}
