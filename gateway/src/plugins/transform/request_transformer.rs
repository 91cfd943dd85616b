//! Kong's `request-transformer`: changes path, method, headers, body and query, in this order, of what the upstream gets.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{BODY_BYTES_MAX, Dollar, Edits, Sections, headers, is_media, json, pairs};
use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::body::RequestBody;
use crate::proxy::exchange::Exchange;

/// The kind.
pub const KIND: Kind = Kind { name: "request-transformer", priority: 801, consumer_scope: true, compile };

/// The longest form that moves into a query; a longer one stays in the body alone.
const FORM_BYTES_MAX: usize = 16 << 10;

/// What a body may hold and a request line must not (RFC 3986 §3.4).
const NOT_IN_QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

struct RequestTransformer {
    path: Option<String>,
    method: Option<Method>,
    headers: Edits<HeaderName, HeaderValue>,
    /// The last `replace` of `Host`, which is not among the headers.
    host: Option<HeaderValue>,
    body: Edits<String, String>,
    query: Edits<String, String>,
}

/// Bodies that are understood.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Json,
    UrlEncoded,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Form> {
        let content_type = headers.get(CONTENT_TYPE);
        if headers.contains_key(CONTENT_ENCODING) {
            None
        } else if is_media(content_type, "application/json") {
            Some(Form::Json)
        } else {
            is_media(content_type, "application/x-www-form-urlencoded").then_some(Form::UrlEncoded)
        }
    }
}

impl Plugin for RequestTransformer {
    fn body_limit(&self, exchange: &Exchange) -> Option<usize> {
        let form = Form::of(&exchange.request.headers)?;
        let moves = form == Form::UrlEncoded && self.moves_form();
        (!exchange.body.is_empty() && (moves || !self.body.is_empty())).then_some(BODY_BYTES_MAX)
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        // By the content type that the client sent: that is what was held.
        let form = Form::of(&exchange.request.headers);
        if let Some(path) = &self.path {
            exchange.upstream_path.clone_from(path);
        }
        if let Some(method) = &self.method {
            exchange.upstream_method = Some(method.clone());
            if form == Some(Form::UrlEncoded) && self.moves_form() {
                join_form(exchange);
            }
        }
        headers::edit(&self.headers, &mut exchange.request.headers);
        if let Some(host) = &self.host {
            exchange.upstream_host = Some(host.clone());
        }
        if let Some(form) = form.filter(|_| !self.body.is_empty()) {
            self.edit_body(form, exchange);
        }
        if let Some(query) = pairs::edit(&self.query, exchange.query.as_deref().unwrap_or_default()) {
            exchange.query = Some(query).filter(|query| !query.is_empty());
        }
        Flow::Continue
    }
}

impl RequestTransformer {
    /// Whether the new method is one whose form arguments belong into the query (Kong's rule).
    fn moves_form(&self) -> bool {
        self.method.as_ref().is_some_and(|m| [Method::GET, Method::HEAD, Method::TRACE].contains(m))
    }

    fn edit_body(&self, form: Form, exchange: &mut Exchange) {
        let body = match &exchange.body {
            RequestBody::Empty => Bytes::new(),
            RequestBody::Whole(body) => body.clone(),
            RequestBody::Stream { .. } => return,
        };
        let edited = match form {
            Form::Json => json::edit(&self.body, &body),
            Form::UrlEncoded => {
                str::from_utf8(&body).ok().and_then(|t| pairs::edit(&self.body, t)).map(String::into_bytes)
            }
        };
        if let Some(edited) = edited {
            exchange.request.headers.insert(CONTENT_LENGTH, HeaderValue::from(edited.len()));
            exchange.body = RequestBody::Whole(edited.into());
        }
    }
}

fn join_form(exchange: &mut Exchange) {
    let form = exchange.body.whole().and_then(|body| str::from_utf8(body).ok()).map_or("", str::trim);
    if form.is_empty() || form.len() > FORM_BYTES_MAX {
        return;
    }
    let form = utf8_percent_encode(form, NOT_IN_QUERY).to_string();
    exchange.query = Some(match exchange.query.take().filter(|query| !query.is_empty()) {
        Some(query) => format!("{query}&{form}"),
        None => form,
    });
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let method = fields.string("http_method").and_then(|text| method(fields, &text));
    let sections = Sections::of(fields, Dollar::Template);
    let path = sections.replace.as_ref().and_then(path);
    let mut headers = sections.headers(true);
    let host = headers.replace.iter().rev().find(|(name, _)| name == HOST).map(|(_, value)| value.clone());
    headers.replace.retain(|(name, _)| name != HOST);
    let (body, query) = (sections.texts("body"), sections.texts("querystring"));
    Some(Arc::new(RequestTransformer { path, method, headers, host, body, query }))
}

fn method(fields: &Fields<'_>, text: &str) -> Option<Method> {
    let upper = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase());
    let method = upper.then(|| Method::from_bytes(text.as_bytes()).ok()).flatten();
    // CONNECT is another protocol.
    let method = method.filter(|m| *m != Method::CONNECT);
    if method.is_none() {
        fields.report.mismatch(
            fields.place_of("http_method"),
            format!("`http_method` is `{text}`"),
            "an upper-case method",
        );
    }
    method
}

fn path(replace: &Fields<'_>) -> Option<String> {
    let text = replace.string("uri")?;
    let place = replace.place_of("uri");
    if text.contains("$(") {
        let help = "templates are not evaluated; with `--allow-unsupported` the path stays";
        replace.report.unsupported(place, "template in `replace.uri`", Some(help));
        return None;
    }
    let sound = text.starts_with('/')
        && !text.contains(['?', '#'])
        && text.bytes().all(|b| b.is_ascii_graphic())
        && PathAndQuery::try_from(text.as_str()).is_ok();
    if !sound {
        let expected = "a percent-encoded path that begins with `/`, without a query";
        replace.report.mismatch(place, "`replace.uri` is no path", expected);
    }
    sound.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, compile as build, good, pass, shared};

    const JSON: (&str, &str) = ("content-type", "application/json");
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

    /// Runs the plugin of `config` over a request with a body, held if the plugin asked for it.
    fn run(config: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Exchange {
        let plugin = good(&KIND, config);
        let mut ex = Exchange::for_test("POST", target, headers);
        if !body.is_empty() {
            ex.body = RequestBody::Whole(body.to_owned().into());
        }
        pass(&plugin, &mut ex);
        ex
    }

    fn body_of(ex: &Exchange) -> &str {
        ex.body.whole().map_or("", |b| str::from_utf8(b).expect("text"))
    }

    const LISTS: &str = "
remove: {headers: [X-Gone], querystring: [q1], body: [gone]}
rename: {headers: ['x-old:x-new'], querystring: ['old:new'], body: ['old:new']}
replace: {headers: ['h1:v1', 'Host:upstream.test'], querystring: ['q2:v1'], body: ['p1:v1']}
add: {headers: ['h2:value:2'], querystring: ['q3:v1'], body: ['p2:v2']}
append: {headers: ['h2:more'], querystring: ['q3:v2'], body: ['p1:v2']}
";

    #[test]
    fn headers_and_query_change() {
        let headers = [("x-gone", "1"), ("x-old", "a"), ("h1", "x")];
        let ex = run(LISTS, "/a?q1=1&q2=2&old=%20", &headers, "");
        assert_eq!(ex.query.as_deref(), Some("q2=v1&new=%20&q3=v1&q3=v2"));
        let sent = &ex.request.headers;
        assert!(!sent.contains_key("x-gone") && sent["x-new"] == "a" && sent["h1"] == "v1");
        assert_eq!(sent.get_all("h2").iter().collect::<Vec<_>>(), ["value:2", "more"]);
        assert_eq!(ex.upstream_host.as_ref().expect("host"), "upstream.test");
        assert!(!sent.contains_key("host"));
    }

    #[test]
    fn bodies_change_by_their_type() {
        let ex = run(LISTS, "/", &[JSON], r#"{"gone":1,"old":2,"p1":"x"}"#);
        assert_eq!(body_of(&ex), r#"{"p1":["v1","v2"],"new":2,"p2":"v2"}"#);
        assert_eq!(ex.request.headers[CONTENT_LENGTH], body_of(&ex).len().to_string());
        let ex = run(LISTS, "/", &[FORM], "gone=1&old=2&p1=x");
        assert_eq!(body_of(&ex), "new=2&p1=v1&p2=v2&p1=v2");
        for headers in [&[JSON][..], &[("content-type", "text/plain")], &[], &[JSON, ("content-encoding", "gzip")]] {
            let ex = run(LISTS, "/", headers, "malformed");
            assert_eq!(body_of(&ex), "malformed");
            assert!(!ex.request.headers.contains_key(CONTENT_LENGTH));
        }
        assert_eq!(body_of(&run(LISTS, "/", &[JSON], "")), r#"{"p2":"v2","p1":["v2"]}"#);
    }

    #[test]
    fn a_body_is_held_only_when_an_edit_needs_it() {
        let with_body = |headers: &[(&str, &str)]| {
            let mut ex = Exchange::for_test("POST", "/", headers);
            ex.body = RequestBody::Whole("x".into());
            ex
        };
        let plugin = good(&KIND, LISTS);
        assert_eq!(plugin.body_limit(&with_body(&[JSON])), Some(BODY_BYTES_MAX));
        assert_eq!(plugin.body_limit(&with_body(&[("content-type", "image/png")])), None);
        assert_eq!(plugin.body_limit(&Exchange::for_test("GET", "/", &[JSON])), None);
        let plugin = good(&KIND, "{add: {headers: ['a:b']}}");
        assert_eq!(plugin.body_limit(&with_body(&[JSON])), None);
        let plugin = good(&KIND, "{http_method: GET}");
        assert_eq!(plugin.body_limit(&with_body(&[JSON])), None);
        assert_eq!(plugin.body_limit(&with_body(&[FORM])), Some(BODY_BYTES_MAX));
    }

    #[test]
    fn path_and_method_change() {
        let ex = run("{replace: {uri: /v2/x%20y}, http_method: PATCH}", "/v1?a=1", &[FORM], "b=2");
        assert_eq!((ex.upstream_path.as_str(), ex.query.as_deref()), ("/v2/x%20y", Some("a=1")));
        assert_eq!(ex.upstream_method, Some(Method::PATCH));
    }

    #[test]
    fn a_form_moves_into_the_query_of_a_get() {
        let ex = run("{http_method: GET}", "/?hello=world", &[FORM], "name=marco&bad=a b\r\nX: y&c=%0d");
        assert_eq!(ex.query.as_deref(), Some("hello=world&name=marco&bad=a%20b%0D%0AX:%20y&c=%0d"));
        let long = "a".repeat(FORM_BYTES_MAX + 1);
        assert_eq!(run("{http_method: GET}", "/?a", &[FORM], &long).query.as_deref(), Some("a"));
        assert_eq!(run("{http_method: GET}", "/", &[FORM], "").query, None);
        assert_eq!(run("{http_method: POST}", "/", &[FORM], "a=1").query, None);
    }

    #[test]
    fn removed_and_added_is_replaced() {
        let config = "{remove: {headers: [Authorization]}, add: {headers: ['Authorization:Basic test']}}";
        let ex = run(config, "/", &[("authorization", "old")], "");
        assert_eq!(ex.request.headers["authorization"], "Basic test");
    }

    #[test]
    fn faults_are_told_where() {
        for (config, words) in [
            ("add:\n  headers: ['a']", ":2:13: error: the entry of `a` has no value"),
            ("add: {headers: ['a b:c']}", "no header name"),
            ("add: {headers: [\"a:b\\nc\"]}", "no header value"),
            ("add: {querystring: ['a:$(headers.x)']}", "not yet supported: template in the entry of `a`"),
            ("replace: {uri: '/$(uri_captures.a)'}", "template in `replace.uri`"),
            ("replace: {uri: 'x'}", "begins with `/`"),
            ("replace: {uri: '/x y'}", "begins with `/`"),
            ("replace: {uri: '/x?a'}", "without a query"),
            ("http_method: get", "an upper-case method"),
            ("http_method: CONNECT", "an upper-case method"),
            ("add: {header: ['a:b']}", "did you mean `headers`?"),
            ("remove: {uri: /}", "unknown field `uri`"),
        ] {
            let report = bad(&KIND, config);
            assert!(report.contains(words), "{config}: {report}");
        }
    }

    #[test]
    fn entries_without_effect_are_warned_of_and_templates_left_out() {
        let config = "{add: {headers: ['Host:x', 'Content-Length:1', 'b:$(c)', 'd:e']}, remove: {headers: [host]}}";
        let (plugin, report) = build(&KIND, config, true, &shared());
        assert_eq!(report.matches("has no effect").count(), 3, "{report}");
        assert!(report.contains("warning: template in the entry of `b`"), "{report}");
        let mut ex = Exchange::for_test("GET", "/", &[("host", "h")]);
        pass(&plugin.expect("compiles"), &mut ex);
        assert_eq!(ex.request.headers.len(), 2);
    }
}
