//! Kong's `file-log`: one JSON object a line for each request, written by the log thread, never by a worker.

use std::path::PathBuf;
use std::sync::Arc;

use crate::document::{Fields, Value};
use crate::plugins::{Kind, Plugin, Setup, Shared};
use crate::telemetry::record::Record;
use crate::telemetry::writer::Sink;

/// The kind.
pub const KIND: Kind = Kind { name: "file-log", priority: 9, consumer_scope: true, compile };

struct FileLog {
    sink: Sink,
    shared: Arc<Shared>,
}

impl Plugin for FileLog {
    fn logs(&self) -> bool {
        true
    }

    fn on_log(&self, record: &Record<'_>) {
        let mut line = record.to_json().to_string().into_bytes();
        line.push(b'\n');
        self.shared.writer.write(&self.sink, line);
    }
}

fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let reopen = fields.boolean("reopen").unwrap_or(false);
    if let Some(node) = fields.node("custom_fields_by_lua")
        && !matches!(&node.value, Value::Map(entries) if entries.is_empty())
    {
        fields.report.unsupported(fields.place_of("custom_fields_by_lua"), "file-log `custom_fields_by_lua`", None);
    }
    let path = fields.required_string("path")?;
    if !sound(&path) {
        fields.report.mismatch(fields.place_of("path"), "`path` names no file", "the path of a file");
        return None;
    }
    let sink = match path.as_str() {
        // What is redirected to a socket cannot be opened by these names.
        "/dev/stdout" => Sink::Stdout,
        "/dev/stderr" => Sink::Stderr,
        _ => Sink::File { path: PathBuf::from(path), reopen },
    };
    Some(Arc::new(FileLog { sink, shared: Arc::clone(setup.shared) }))
}

/// Kong's rule for file names, and no directory.
fn sound(path: &str) -> bool {
    !path.is_empty() && !path.ends_with('/') && !path.contains(['*', '&', '%', '`', '\0', '\n'])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::plugins::fixture::{bad, compile as build, good, shared};
    use crate::proxy::exchange::Exchange;

    fn record(exchange: &Exchange, on: impl FnOnce(&Record<'_>)) {
        on(&Record {
            exchange,
            status: 200,
            response_headers: &http::HeaderMap::new(),
            response_bytes: 2,
            request_bytes: 0,
            upstream_status: Some(200),
            reason: None,
            consumer: None,
            tries: &[],
            total_ns: 5_000_000,
            upstream_ns: Some(3_000_000),
            receive_ns: 0,
            aborted: false,
        });
    }

    #[test]
    fn each_request_is_one_line_without_secrets() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("requests.log");
        let plugin = good(&KIND, &format!("{{path: '{}', reopen: true}}", path.display()));
        assert!(plugin.logs());
        let ex = Exchange::for_test("GET", "/a?x=%0A", &[("authorization", "Bearer secret"), ("x-a", "1")]);
        record(&ex, |r| plugin.on_log(r));
        record(&ex, |r| plugin.on_log(r));
        let deadline = Instant::now() + Duration::from_secs(10);
        let text = loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() == 2 || Instant::now() > deadline {
                break text;
            }
            std::thread::yield_now();
        };
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains("secret"));
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(object["request"]["querystring"]["x"], "\n");
            assert_eq!(object["latencies"]["proxy"], 3);
            assert_eq!(object["request"]["headers"]["authorization"], "REDACTED");
        }
    }

    #[test]
    fn faults_are_told() {
        assert!(bad(&KIND, "{}").contains("required field `path`"));
        assert!(bad(&KIND, "{path: '/tmp/'}").contains("names no file"));
        assert!(bad(&KIND, "{path: '/tmp/a*'}").contains("names no file"));
        assert!(bad(&KIND, "{path: /tmp/a, custom_fields_by_lua: {a: 'return 1'}}").contains("custom_fields_by_lua"));
        let (plugin, report) = build(&KIND, "{path: /dev/stdout, custom_fields_by_lua: {}}", false, &shared());
        assert!(plugin.is_some() && report.is_empty(), "{report}");
    }
}
