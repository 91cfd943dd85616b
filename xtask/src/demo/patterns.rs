//! The first act: each of the six patterns is tried from the honest client's namespace and has to hold, so that what
//! follows is measured on a gateway that does its whole work.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::stage::{Gateway, Stage};
use crate::http::Answer;

type Headers = &'static [(&'static str, &'static str)];

const KEY: Headers = &[("apikey", "shop-key")];
const TRIAL: Headers = &[("apikey", "trial-key")];
const RECOVERS_WITHIN: Duration = Duration::from_secs(5);

/// One pattern, and what was seen of it.
pub struct Pattern {
    pub name: &'static str,
    pub holds: bool,
    pub seen: String,
}

/// Tries each pattern.
///
/// # Errors
/// The gateway did not answer.
pub fn play(stage: &Stage, gateway: &Gateway) -> Result<Vec<Pattern>> {
    let probe = Probe { stage, gateway };
    Ok(vec![
        probe.routing()?,
        probe.authentication()?,
        probe.transformation()?,
        probe.rate_limiting()?,
        probe.circuit_breaking()?,
        probe.observability()?,
    ])
}

struct Probe<'a> {
    stage: &'a Stage,
    gateway: &'a Gateway,
}

impl Probe<'_> {
    fn get(&self, path: &str, headers: Headers) -> Result<Answer> {
        self.stage.ask(&self.stage.legit, self.gateway.for_legit(), path, headers)
    }

    fn routing(&self) -> Result<Pattern> {
        let routed = self.get("/orders/1", KEY)?;
        let lost = self.get("/nowhere", &[])?;
        let path = echo(&routed)["path"].as_str().unwrap_or("nothing").to_owned();
        Ok(Pattern {
            name: "routing",
            holds: routed.status == 200 && path == "/api/orders/1" && lost.status == 404,
            seen: format!("/orders/1 reached the upstream as {path}; /nowhere: {}", lost.status),
        })
    }

    fn authentication(&self) -> Result<Pattern> {
        let without = self.get("/orders", &[])?;
        let wrong = self.get("/orders", &[("apikey", "guess")])?;
        let with = self.get("/orders", KEY)?;
        let hidden = echo(&with)["headers"]["apikey"].is_null();
        Ok(Pattern {
            name: "authentication",
            holds: (without.status, wrong.status, with.status, hidden) == (401, 401, 200, true),
            seen: format!(
                "no key: {}; a wrong key: {}; the key: {}, and the upstream {} it",
                without.status,
                wrong.status,
                with.status,
                if hidden { "did not see" } else { "saw" }
            ),
        })
    }

    fn transformation(&self) -> Result<Pattern> {
        let answer = self.get("/orders?debug=1&page=2", KEY)?;
        let echo = echo(&answer);
        let tenant = echo["headers"]["x-tenant"].as_str().unwrap_or("nothing");
        let path = echo["path"].as_str().unwrap_or("nothing");
        let served_by = answer.header("x-served-by").unwrap_or("nothing");
        Ok(Pattern {
            name: "transformation",
            holds: (tenant, path, served_by) == ("shop", "/api/orders?page=2", "orders"),
            seen: format!("upstream: X-Tenant: {tenant}, {path}; client: X-Served-By: {served_by}"),
        })
    }

    fn rate_limiting(&self) -> Result<Pattern> {
        // A minute may end in between; twice the quota is the most that two minutes let through.
        let mut served = 0;
        for _ in 0..=120 {
            let answer = self.get("/orders", TRIAL)?;
            if answer.status == 429 {
                let after = answer.header("retry-after").unwrap_or("nothing");
                return Ok(Pattern {
                    name: "rate limiting",
                    holds: served >= 60 && after.parse::<u32>().is_ok_and(|seconds| seconds <= 60),
                    seen: format!("{served} requests of 60 a minute, then 429 with Retry-After: {after}"),
                });
            }
            served += u32::from(answer.status == 200);
        }
        Ok(Pattern { name: "rate limiting", holds: false, seen: format!("{served} requests and no 429") })
    }

    fn circuit_breaking(&self) -> Result<Pattern> {
        let upstream = &self.stage.upstream;
        upstream.fail(true);
        let mut tries = 0;
        let open = loop {
            let answer = self.get("/flaky", &[])?;
            tries += 1;
            if answer.header("x-circuit-breaker") == Some("open") || tries == 50 {
                break answer;
            }
        };
        let before = upstream.requests();
        let spared = self.get("/flaky", &[])?.status == 503 && upstream.requests() == before;
        upstream.fail(false);
        let since = Instant::now();
        let mut closed = false;
        while !closed && since.elapsed() < RECOVERS_WITHIN {
            closed = self.get("/flaky", &[])?.status == 200;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Pattern {
            name: "circuit breaking",
            holds: open.status == 503 && open.header("retry-after").is_some() && spared && closed,
            seen: format!(
                "failing upstream: open at request {tries}, {} without asking it: {}; mended: {}",
                open.status,
                if spared { "yes" } else { "no" },
                if closed {
                    format!("closed after {:.1} s", since.elapsed().as_secs_f64())
                } else {
                    "still open".into()
                }
            ),
        })
    }

    fn observability(&self) -> Result<Pattern> {
        let answer = self.get("/orders", KEY)?;
        let id = answer.header("x-kong-request-id").unwrap_or("no request id").to_owned();
        let correlated = answer.header("x-correlation-id").is_some();
        let metrics = self.stage.ask(&self.stage.gateway, self.gateway.admin, "/metrics", &[])?;
        let counted = metrics.text().lines().any(|line| !line.starts_with('#') && line.contains("orders"));
        let since = Instant::now();
        let mut logged = false;
        while !logged && since.elapsed() < RECOVERS_WITHIN {
            let log = self.gateway.access_log();
            logged = log.lines().any(|line| {
                line.contains(&id) && serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())
            });
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Pattern {
            name: "observability",
            holds: correlated && counted && logged,
            seen: format!(
                "request {id}: {} in the access log; X-Correlation-ID {}; /metrics {} the route",
                if logged { "a JSON line" } else { "nothing" },
                if correlated { "sent" } else { "missing" },
                if counted { "counts" } else { "does not count" }
            ),
        })
    }
}

/// What the upstream says it got; null when the answer is not the upstream's.
fn echo(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
}
