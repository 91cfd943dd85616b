//! Kong's `response-transformer`: changes headers and top-level JSON members of what the client gets.

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use serde_json::Value;

use super::{BODY_BYTES_MAX, Dollar, Edits, Entry, Sections, headers, is_media, json};
use crate::document::{self, Fields};
use crate::plugins::{Kind, Plugin, Setup};
use crate::proxy::exchange::{Exchange, Response};

/// The kind.
pub const KIND: Kind = Kind { name: "response-transformer", priority: 800, consumer_scope: true, compile };

struct ResponseTransformer {
    headers: Edits<HeaderName, HeaderValue>,
    json: Edits<String, Value>,
}

impl Plugin for ResponseTransformer {
    fn response_body_limit(&self, exchange: &Exchange, response: &Response) -> Option<usize> {
        let bodiless = exchange.request.method == Method::HEAD;
        (!bodiless && self.edits_body(&response.headers)).then_some(BODY_BYTES_MAX)
    }

    fn on_response(&self, _exchange: &mut Exchange, response: &mut Response) {
        // By the content type that the upstream sent: that is what was held.
        if self.edits_body(&response.headers)
            && let Some(body) = response.body.as_ref().filter(|body| !body.is_empty())
            && let Some(edited) = json::edit(&self.json, body)
        {
            response.body = Some(edited.into());
            response.headers.remove(CONTENT_LENGTH);
        }
        headers::edit(&self.headers, &mut response.headers);
    }
}

impl ResponseTransformer {
    fn edits_body(&self, headers: &HeaderMap) -> bool {
        let plain = || !headers.contains_key(CONTENT_ENCODING);
        !self.json.is_empty() && is_media(headers.get(CONTENT_TYPE), "application/json") && plain()
    }
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let sections = Sections::of(fields, Dollar::Text);
    let headers = sections.headers();
    let json = sections.edits("json", typed);
    sections.require_types_of_json();
    Some(Arc::new(ResponseTransformer { headers, json }))
}

impl Sections<'_> {
    /// Reports `json_types` that do not stand beside the entries one by one.
    fn require_types_of_json(&self) {
        for section in [&self.replace, &self.add, &self.append].into_iter().flatten() {
            let count = |key| section.list(key).map_or(0, <[_]>::len);
            let (types, entries) = (count("json_types"), count("json"));
            if types != 0 && types != entries {
                let message = format!("{types} `json_types` for {entries} `json` entries");
                section.report.mismatch(section.place_of("json_types"), message, "one type for each entry");
            }
        }
    }
}

/// The entry's value in the type of the same index in `json_types`; a string without one.
fn typed(section: &Fields<'_>, index: usize, entry: &Entry) -> Option<Value> {
    let Some(node) = section.list("json_types").and_then(|types| types.get(index)) else {
        return Some(Value::from(entry.value.as_str()));
    };
    let document::Value::Str(word) = &node.value else {
        section.report.mismatch(node.place, format!("a JSON type is {}", node.kind()), "boolean, number or string");
        return None;
    };
    let typed = match word.as_str() {
        "string" => Some(Value::from(entry.value.as_str())),
        "boolean" => entry.value.parse().ok().map(Value::Bool),
        "number" => serde_json::from_str(entry.value.trim()).ok().map(Value::Number),
        other => {
            section.report.unknown(
                node.place,
                format!("unknown JSON type `{other}`"),
                other,
                &["boolean", "number", "string"],
            );
            return None;
        }
    };
    if typed.is_none() {
        section.report.mismatch(
            entry.place,
            format!("the value of `{}` is no {word}", entry.name),
            format!("a {word}"),
        );
    }
    typed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, compile as build, good, response, shared};

    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

    fn run(config: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let plugin = good(&KIND, config);
        let mut answer = response(200, headers, body);
        plugin.on_response(&mut Exchange::for_test("GET", "/", &[]), &mut answer);
        answer
    }

    fn body_of(response: &Response) -> &str {
        str::from_utf8(response.body.as_ref().expect("a body")).expect("text")
    }

    #[test]
    fn headers_change() {
        let config = "{remove: {headers: [Set-Cookie]}, rename: {headers: ['a:b']}, add: {headers: ['c:1']}}";
        let answer = run(config, &[("set-cookie", "x"), ("set-cookie", "y"), ("a", "1")], "");
        assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("a"));
        assert!(answer.headers["b"] == "1" && answer.headers["c"] == "1");
    }

    #[test]
    fn json_members_change_in_their_types() {
        let config = "
remove: {json: [gone]}
rename: {json: ['old:new']}
replace: {json: ['headers:/hello/world', 'n:-1.5', 'url:\"wot\"'], json_types: [string, number, string]}
add: {json: ['flag:true'], json_types: [boolean]}
append: {json: ['list:x']}
";
        let answer = run(
            config,
            &[JSON, ("content-length", "5")],
            r#"{"gone":1,"old":2,"headers":{},"n":"1","url":"","list":[]}"#,
        );
        assert_eq!(
            body_of(&answer),
            r#"{"headers":"/hello/world","n":-1.5,"url":"\"wot\"","list":["x"],"new":2,"flag":true}"#
        );
        assert!(!answer.headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn other_bodies_pass_unchanged() {
        let config = "{add: {json: ['a:b']}}";
        for (headers, body) in [
            (&[JSON][..], "malformed"),
            (&[JSON], "[]"),
            (&[JSON], ""),
            (&[("content-type", "text/plain")], "{}"),
            (&[JSON, ("content-encoding", "gzip")], "{}"),
            (&[], "{}"),
        ] {
            assert_eq!(body_of(&run(config, headers, body)), body);
        }
    }

    #[test]
    fn a_body_is_held_only_when_an_edit_needs_it() {
        let (get, head) = (Exchange::for_test("GET", "/", &[]), Exchange::for_test("HEAD", "/", &[]));
        let json = good(&KIND, "{add: {json: ['a:b']}}");
        assert_eq!(json.response_body_limit(&get, &response(200, &[JSON], "")), Some(BODY_BYTES_MAX));
        assert_eq!(json.response_body_limit(&head, &response(200, &[JSON], "")), None);
        assert_eq!(json.response_body_limit(&get, &response(200, &[("content-type", "text/html")], "")), None);
        let headers = good(&KIND, "{add: {headers: ['a:b']}}");
        assert_eq!(headers.response_body_limit(&get, &response(200, &[JSON], "")), None);
    }

    #[test]
    fn a_dollar_is_text() {
        let (plugin, report) = build(&KIND, "{add: {headers: ['a:$(x)']}}", false, &shared());
        assert!(report.contains("warning: the entry of `a` is no template"), "{report}");
        let mut answer = response(200, &[], "");
        plugin.expect("compiles").on_response(&mut Exchange::for_test("GET", "/", &[]), &mut answer);
        assert_eq!(answer.headers["a"], "$(x)");
    }

    #[test]
    fn faults_are_told() {
        for (config, words) in [
            ("add: {json: ['a:b'], json_types: [number]}", "the value of `a` is no number"),
            ("add: {json: ['a:yes'], json_types: [boolean]}", "the value of `a` is no boolean"),
            ("add: {json: ['a:b'], json_types: [sting]}", "did you mean `string`?"),
            ("add: {json: ['a:b'], json_types: [string, string]}", "2 `json_types` for 1 `json` entries"),
            ("remove: {json_types: [string]}", "unknown field `json_types`"),
            ("add: {json: ['a']}", "the entry of `a` has no value"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }
}
