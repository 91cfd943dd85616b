//! `cargo xtask bench instructions`: instructions of user space a request, in ten ways through the gateway, as valgrind's
//! callgrind counts them. A count hardly depends on the machine or on what else it does, so that CI can hold it: where it
//! is more than it was by three hundredths, somebody has to say why.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::server::{Server, free, write};
use super::tokens;
use crate::upstream::Upstream;
use crate::{build, http, setup, shell};

/// Requests that bring buffers and caches into their usual state.
const WARM: u32 = 200;
/// Requests that are counted at once, and how often: of the counts the least is taken, for what else the process does comes
/// on top.
const COUNTED: u32 = 200;
const TIMES: u32 = 10;
/// Between two requests: whether the next one is there already when the gateway looks for it makes a twentieth.
const PAUSE: Duration = Duration::from_millis(2);
/// How much a count may be above the recorded one.
const TOLERANCE: f64 = 0.03;
/// The recorded counts.
const RECORD: &str = "bench/instructions.json";
const EACH: Duration = Duration::from_secs(20);
const SECRET: &str = "a secret of more than thirty-two bytes";

#[derive(clap::Args)]
pub struct Options {
    /// Write the counts down as those that are right
    #[arg(long)]
    pub record: bool,
}

/// One way through the gateway.
struct Way {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    header: Option<(&'static str, String)>,
    body: &'static [u8],
    status: u16,
}

fn ways() -> Result<Vec<Way>> {
    let way = |name, path, header, status| Way { name, method: "GET", path, header, body: &[], status };
    let bearer = format!("Bearer {}", tokens::hs256("hmac", SECRET)?);
    let way_of_body = Way { method: "POST", body: &[b'x'; 2048], ..way("body of 2 kB", "/plain/x", None, 200) };
    Ok(vec![
        way("proxied", "/plain/x", None, 200),
        way_of_body,
        way("no route", "/nowhere", None, 404),
        way("answered by request-termination", "/ended/x", None, 200),
        way("key-auth and acl", "/keys/x", Some(("apikey", "some-key".into())), 200),
        way("key-auth refused", "/keys/x", None, 401),
        way("jwt HS256", "/tokens/x", Some(("authorization", bearer)), 200),
        way("rate-limiting", "/limited/x", None, 200),
        way("rate-limiting refused", "/spent/x", None, 429),
        way("both transformers", "/changed/x", Some(("x-old", "1".into())), 200),
    ])
}

fn config(upstream: &str, address: &str) -> Value {
    let service = |name: &str, plugins: Value| {
        json!({"name": name, "url": format!("http://{upstream}/"), "plugins": plugins,
            "routes": [{"name": name, "paths": [format!("/{name}/")]}]})
    };
    let limit = |minute: u64| json!({"name": "rate-limiting", "config": {"minute": minute, "limit_by": "ip"}});
    json!({
        "_format_version": "3.0",
        "gateway": {"listen": [address], "admin": "127.0.0.1:0", "workers": 1, "access_log": "off"},
        "services": [
            service("plain", json!([])),
            service("ended", json!([{"name": "request-termination", "config": {"status_code": 200, "message": "ok"}}])),
            service("keys", json!([{"name": "key-auth"}, {"name": "acl", "config": {"allow": ["measured"]}}])),
            service("tokens", json!([{"name": "jwt"}])),
            service("limited", json!([limit(1_000_000_000)])),
            service("spent", json!([limit(1)])),
            service("changed", json!([
                {"name": "request-transformer", "config":
                    {"add": {"headers": ["X-New: 1"]}, "rename": {"headers": ["x-old:x-older"]}}},
                {"name": "response-transformer", "config": {"add": {"headers": ["X-Seen: 1"]}}},
            ])),
        ],
        "consumers": [{"username": "measured", "acls": [{"group": "measured"}],
            "keyauth_credentials": [{"key": "some-key"}],
            "jwt_secrets": [{"key": "hmac", "secret": SECRET}]}],
    })
}

/// Counts, prints, and compares with the record or makes it.
///
/// # Errors
/// Something is missing, or a count is more than it was.
pub fn run(options: &Options) -> Result<()> {
    if let (false, Some(reason)) = (options.record, incomparable()?) {
        println!("SKIP instructions: {reason}");
        return Ok(());
    }
    let counts = count()?;
    let file = shell::root().join(RECORD);
    if options.record {
        let text = serde_json::to_string_pretty(&json!({"compiler": compiler(), "instructions": counts}))?;
        std::fs::write(&file, text + "\n")?;
        println!("recorded in {RECORD}");
        return Ok(());
    }
    let record = record()?;
    let mut wrong = Vec::new();
    println!("{:<34} {:>12} {:>12} {:>8}", "instructions a request", "recorded", "counted", "");
    for (name, counted) in &counts {
        let recorded = record["instructions"][name].as_u64().unwrap_or(0);
        let change = change(recorded, *counted);
        println!("{name:<34} {recorded:>12} {counted:>12} {:>+7.1}%", change * 100.0);
        if change > TOLERANCE {
            wrong.push(name.as_str());
        } else if change < -TOLERANCE {
            println!("{name} costs less than it did: record it");
        }
    }
    if !wrong.is_empty() {
        bail!(
            "more than {}% above the record: {}; where that is meant, run `cargo xtask bench instructions --record`",
            TOLERANCE * 100.0,
            wrong.join(", ")
        );
    }
    Ok(())
}

fn record() -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(shell::root().join(RECORD))?)?)
}

/// Why counts of this toolchain cannot be compared with those that are recorded.
///
/// # Errors
/// The record cannot be read.
pub fn incomparable() -> Result<Option<String>> {
    let (recorded, here) = (record()?["compiler"].clone(), compiler());
    Ok((recorded != here.as_str()).then(|| format!("recorded with {recorded}, and here is {here}")))
}

fn change(recorded: u64, counted: u64) -> f64 {
    counted as f64 / recorded as f64 - 1.0
}

fn compiler() -> String {
    shell::output(shell::program("rustc").arg("--version")).unwrap_or_default().trim().to_owned()
}

fn count() -> Result<BTreeMap<String, u64>> {
    setup::run(&setup::Options { instructions: true, ..setup::Options::default() })?;
    let binary = build::gateway(build::Profile::Release)?;
    let folder = tempfile::tempdir()?;
    let upstream = Upstream::start("127.0.0.1:0")?;
    let address = free()?;
    let file =
        write(folder.path(), "kong.json", &config(&upstream.address.to_string(), &address.to_string()).to_string())?;
    let mut command = shell::program("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", folder.path().join("counts").display()));
    command.arg(binary).arg("run").arg("-c").arg(file);
    let server = Server::start(address, &mut command, folder.path())?;
    let mut dumps = Dumps { folder: folder.path(), process: server.id(), taken: 0 };
    let mut counts = BTreeMap::new();
    for way in ways()? {
        send(&server, &way, WARM)?;
        dumps.take()?;
        let mut least = u64::MAX;
        for _ in 0..TIMES {
            send(&server, &way, COUNTED)?;
            least = least.min(dumps.take()?);
        }
        let each = least / u64::from(COUNTED);
        eprintln!("{:<34} {each:>12}", way.name);
        counts.insert(way.name.to_owned(), each);
    }
    Ok(counts)
}

/// One connection, one request at a time: nothing depends on what comes together.
fn send(server: &Server, way: &Way, count: u32) -> Result<()> {
    let mut client = http::Client::connect(server.address, EACH, EACH)?;
    let headers: Vec<(&str, &str)> = way.header.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for number in 0..count {
        std::thread::sleep(PAUSE);
        let answer = client.send(way.method, way.path, &headers, way.body)?;
        // Of a limit that refuses the first request is still within it.
        let right = answer.status == way.status || way.status == 429 && number == 0 && answer.status == 200;
        ensure!(right, "{}: answered {} and not {}", way.name, answer.status, way.status);
    }
    Ok(())
}

/// What callgrind wrote down so far.
struct Dumps<'a> {
    folder: &'a Path,
    process: u32,
    taken: u32,
}

impl Dumps<'_> {
    /// Instructions since the last time.
    fn take(&mut self) -> Result<u64> {
        shell::output(shell::program("callgrind_control").args(["--dump", &self.process.to_string()]))
            .context("callgrind_control failed")?;
        self.taken += 1;
        let file: PathBuf = self.folder.join(format!("counts.{}", self.taken));
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        total(&text).with_context(|| format!("{} has no total", file.display()))
    }
}

fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_dump_is_read() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 5\n\ntotals: 1234567\n"), Some(1_234_567));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn a_change_is_a_part_of_what_was() {
        assert!((change(1_000, 1_031) - 0.031).abs() < 1e-9);
        assert!(change(0, 5).is_infinite(), "what was never recorded is no match");
    }
}
