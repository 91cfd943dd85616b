//! Runs wrk and reads what it prints. It must not know what stands behind the address.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{CONNECTIONS, Load, Run, milliseconds};
use crate::shell;

/// Loads `target` from one thread on one core.
///
/// # Errors
/// wrk failed, or printed something else.
pub fn run(load: &Load<'_>, target: SocketAddr, seconds: u64) -> Result<Run> {
    let mut command = shell::program("taskset");
    command.args(["-c", &load.core.to_string(), "wrk", "--latency", "-t1"]);
    command.args([format!("-c{CONNECTIONS}"), format!("-d{seconds}s"), load.url(target)]);
    for header in load.headers() {
        command.args(["-H", &header]);
    }
    let text = shell::output(&mut command).context("wrk failed")?;
    read(&text).with_context(|| format!("wrk printed something else:\n{text}"))
}

fn read(text: &str) -> Result<Run> {
    let line = |word: &str| text.lines().map(str::trim).find(|line| line.contains(word));
    let after = |word: &str| text.lines().map(str::trim).find_map(|line| line.strip_prefix(word)).map(str::trim);
    let (requests, rest) = line(" requests in ").and_then(|line| line.split_once(' ')).context("no requests")?;
    let seconds = rest.trim_start_matches("requests in ").split(',').next().unwrap_or_default();
    let other = after("Non-2xx or 3xx responses:").map_or(Ok(0), str::parse)?;
    let sockets = after("Socket errors:").map_or(0, |rest| {
        rest.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok()).sum()
    });
    Ok(Run {
        requests: requests.parse()?,
        seconds: milliseconds(seconds)? / 1000.0,
        per_second: after("Requests/sec:").context("no rate")?.parse()?,
        p50_ms: milliseconds(after("50%").context("no median")?)?,
        p99_ms: milliseconds(after("99%").context("no 99th percentile")?)?,
        refused: other,
        errors: sockets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 5s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms  300.00us   9.00ms   90.00%
    Req/Sec    60.00k     1.00k   62.00k    80.00%
  Latency Distribution
     50%  980.00us
     75%    1.10ms
     90%    1.30ms
     99%    2.30ms
  301234 requests in 5.10s, 40.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 3
  Non-2xx or 3xx responses: 4
Requests/sec:  59065.49
Transfer/sec:      7.84MB
";

    #[test]
    fn the_output_of_wrk_is_read() {
        let run = read(OUTPUT).unwrap();
        assert_eq!((run.requests, run.refused, run.errors), (301_234, 4, 6));
        assert!((run.p50_ms - 0.98).abs() < 1e-9 && (run.p99_ms - 2.3).abs() < 1e-9);
        assert!((run.seconds - 5.1).abs() < 1e-9 && (run.per_second - 59_065.49).abs() < 1e-9);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(read("unable to connect").is_err());
    }
}
