//! The forms that an error's text can take: Kong's four templates, a user's own in their place, or a problem document
//! (RFC 9457). Which one a client gets is decided here too. Knows no status but the one it is told.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use serde_json::json;

/// A kind of text (Kong's `error_default_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Form {
    Json,
    Html,
    Xml,
    #[default]
    Plain,
}

/// Names of the forms as settings use them, and the media types that `error_default_type` takes.
pub const FORMS: [(&str, &str, Form); 4] = [
    ("json", "application/json", Form::Json),
    ("html", "text/html", Form::Html),
    ("xml", "application/xml", Form::Xml),
    ("plain", "text/plain", Form::Plain),
];

/// How this gateway words its errors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Style {
    /// Problem documents (RFC 9457) in place of Kong's templates.
    pub problem: bool,
    /// For failures of the proxy itself when the request says nothing (Kong `error_default_type`).
    pub default: Form,
    /// The user's own templates, by form.
    pub templates: Vec<(Form, String)>,
}

/// What there is to say.
pub struct Words<'a> {
    /// The HTTP status.
    pub status: u16,
    /// One word for the reason.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
    /// Names the request.
    pub request_id: &'a str,
}

impl Style {
    /// Content type and text of an error. `failure`: of the proxy itself, which looks beyond `Accept` (Kong).
    #[must_use]
    pub fn write(&self, words: &Words<'_>, request: &HeaderMap, failure: bool) -> (&'static str, String) {
        if self.problem {
            return ("application/problem+json", problem(words));
        }
        let text = |name| request.get(name).and_then(|value| value.to_str().ok());
        let form = match text(ACCEPT) {
            Some(accept) => Form::accepted(accept),
            None if failure => text(CONTENT_TYPE).map_or(self.default, Form::accepted),
            None => Form::Json,
        };
        let own = self.templates.iter().find(|(of, _)| *of == form);
        (form.content_type(), own.map_or_else(|| form.body(words), |(_, template)| form.fill(template, words)))
    }
}

/// RFC 9457 §3, with the reason and the request's id as members of their own.
fn problem(words: &Words<'_>) -> String {
    json!({
        "type": "about:blank",
        "title": super::default_message(words.status),
        "status": words.status,
        "detail": words.message,
        "reason": words.reason,
        "request_id": words.request_id,
    })
    .to_string()
}

impl Form {
    /// The first of the best-weighted media ranges decides (Kong `get_response_type`).
    fn accepted(accept: &str) -> Form {
        let mut best: Option<(f32, &str)> = None;
        for range in accept.split(',').take(32) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let weight = parts.find_map(|p| p.strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0_f32);
            if best.is_none_or(|(w, _)| weight > w) {
                best = Some((weight, media));
            }
        }
        match best.map_or("", |(_, media)| media).to_ascii_lowercase().as_str() {
            "text/html" | "application/xhtml+xml" => Form::Html,
            "application/xml" | "text/xml" => Form::Xml,
            "text/plain" => Form::Plain,
            _ => Form::Json,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Json => "application/json; charset=utf-8",
            Form::Html => "text/html; charset=utf-8",
            Form::Xml => "application/xml; charset=utf-8",
            Form::Plain => "text/plain; charset=utf-8",
        }
    }

    fn body(self, words: &Words<'_>) -> String {
        let (message, request_id) = (self.escaped(words.message), words.request_id);
        match self {
            Form::Json => format!("{{\n  \"message\":\"{message}\",\n  \"request_id\":\"{request_id}\"\n}}"),
            Form::Html => format!(
                "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  </head>\n  <body>\n    <h1>Error</h1>\n    <p>{message}.</p>\n    <p>request_id: {request_id}</p>\n  </body>\n</html>\n"
            ),
            Form::Xml => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>{message}</message>\n  <requestid>{request_id}</requestid>\n</error>"
            ),
            Form::Plain => format!("{message}\nrequest_id: {request_id}"),
        }
    }

    /// A user's template: Kong's `%s` are message and request id in this order; names stand in double braces.
    fn fill(self, template: &str, words: &Words<'_>) -> String {
        let mut out = String::with_capacity(template.len() + 64);
        let mut rest = template;
        let mut positions = [self.escaped(words.message), words.request_id.to_owned()].into_iter();
        while let Some(at) = rest.find(['%', '{']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let named = [
                ("{{message}}", self.escaped(words.message)),
                ("{{request_id}}", words.request_id.to_owned()),
                ("{{status}}", words.status.to_string()),
                ("{{reason}}", words.reason.to_owned()),
            ];
            if let Some(tail) = rest.strip_prefix("%s") {
                out.push_str(&positions.next().unwrap_or_default());
                rest = tail;
            } else if let Some((name, value)) = named.iter().find(|(name, _)| rest.starts_with(name)) {
                out.push_str(value);
                rest = &rest[name.len()..];
            } else {
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
        out + rest
    }

    /// The message so that it cannot end the text that it stands in.
    fn escaped(self, text: &str) -> String {
        match self {
            Form::Json => {
                let quoted = json!(text).to_string();
                quoted[1..quoted.len() - 1].to_owned()
            }
            Form::Html | Form::Xml => {
                text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
            }
            Form::Plain => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words<'_> = Words { status: 502, reason: "r", message: "a \"b\" <c>", request_id: "id" };

    fn request(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value"))).collect()
    }

    #[test]
    fn failures_look_beyond_accept() {
        let style = Style::default();
        let kind = |headers: &[(&'static str, &str)], failure| style.write(&WORDS, &request(headers), failure).0;
        assert!(kind(&[], true).starts_with("text/plain"));
        assert!(kind(&[], false).starts_with("application/json"));
        assert!(kind(&[("content-type", "text/html")], true).starts_with("text/html"));
        assert!(kind(&[("content-type", "text/html")], false).starts_with("application/json"));
        assert!(kind(&[("accept", "*/*"), ("content-type", "text/html")], true).starts_with("application/json"));
        let xml = Style { default: Form::Xml, ..Style::default() };
        assert!(xml.write(&WORDS, &request(&[]), true).0.starts_with("application/xml"));
    }

    #[test]
    fn own_templates_are_filled() {
        let templates = vec![
            (Form::Json, r#"{"e":"%s","i":"%s","x":"%s","s":{{status}},"r":"{{reason}}","p":"100%"}"#.to_owned()),
            (Form::Html, "<p>{{message}}</p>{{other}}".to_owned()),
        ];
        let style = Style { templates, ..Style::default() };
        let (_, text) = style.write(&WORDS, &request(&[]), false);
        assert_eq!(text, r#"{"e":"a \"b\" <c>","i":"id","x":"","s":502,"r":"r","p":"100%"}"#);
        let (_, text) = style.write(&WORDS, &request(&[("accept", "text/html")]), false);
        assert_eq!(text, "<p>a &quot;b&quot; &lt;c&gt;</p>{{other}}");
        let (_, text) = style.write(&WORDS, &request(&[("accept", "text/plain")]), false);
        assert_eq!(text, "a \"b\" <c>\nrequest_id: id");
    }

    #[test]
    fn a_problem_document_has_its_members() {
        let style = Style { problem: true, ..Style::default() };
        let (kind, text) = style.write(&WORDS, &request(&[("accept", "text/html")]), true);
        assert_eq!(kind, "application/problem+json");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["status"], 502);
        assert_eq!(json["title"], "An invalid response was received from the upstream server");
        assert_eq!(json["detail"], "a \"b\" <c>");
    }
}
