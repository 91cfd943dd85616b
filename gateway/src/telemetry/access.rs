//! The access log: one JSON object a line, written straight into the worker's buffer.

use std::io::Write;

use super::record::Record;

/// Appends the line of `record`.
pub fn write(out: &mut Vec<u8>, record: &Record<'_>) {
    let ex = record.exchange;
    let ms = |ns: u64| ns as f64 / 1e6;
    let started_ms = ex.started_unix_ns / 1_000_000;
    let _ = write!(
        out,
        "{{\"time_ms\":{started_ms},\"request_id\":\"{}\",\"client_ip\":\"{}\"",
        ex.request_id.as_str(),
        ex.client.ip
    );
    text(out, "method", ex.request.method.as_str().as_bytes());
    text(out, "host", ex.host.as_bytes());
    text(out, "uri", ex.raw_uri.as_bytes());
    let _ = write!(
        out,
        ",\"status\":{},\"bytes_in\":{},\"bytes_out\":{}",
        record.status, record.request_bytes, record.response_bytes
    );
    let _ = write!(out, ",\"duration_ms\":{:.3}", ms(record.total_ns));
    if let Some(ns) = record.upstream_ns {
        let _ = write!(out, ",\"upstream_ms\":{:.3}", ms(ns));
    }
    if let Some(attempt) = record.tries.last() {
        let _ = write!(out, ",\"upstream\":\"{}\",\"tries\":{}", attempt.address, record.tries.len());
    }
    if let Some(route) = &ex.route {
        text(out, "route", name_or(&route.name, &route.id));
        if let Some(service) = &route.service {
            text(out, "service", name_or(&service.name, &service.id));
        }
    }
    if let Some(consumer) = record.consumer {
        text(out, "consumer", consumer.username.as_deref().unwrap_or(&consumer.id).as_bytes());
    }
    if let Some(reason) = record.reason {
        text(out, "reason", reason.as_bytes());
    }
    if let Some(agent) = ex.request.headers.get(http::header::USER_AGENT) {
        text(out, "user_agent", agent.as_bytes());
    }
    if record.aborted {
        out.extend_from_slice(b",\"aborted\":true");
    }
    out.extend_from_slice(b"}\n");
}

fn name_or<'a>(name: &'a str, id: &'a str) -> &'a [u8] {
    if name.is_empty() { id.as_bytes() } else { name.as_bytes() }
}

/// `,"key":"value"` with everything escaped that could end the string or the line.
fn text(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let _ = write!(out, ",\"{key}\":\"");
    for &b in value {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            0x20..=0x7e => out.push(b),
            _ => {
                // A byte beyond ASCII is shown as the code point of the same number: always valid JSON, never ambiguous.
                let _ = write!(out, "\\u{:04x}", u32::from(b));
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #[test]
    fn hostile_text_stays_in_its_string() {
        let mut out = Vec::new();
        super::text(&mut out, "uri", b"/a\"\\\n\x00\xff");
        assert_eq!(out, br#","uri":"/a\"\\\u000a\u0000\u00ff""#);
    }
}
