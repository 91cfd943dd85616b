//! Kong's `request-transformer`: changes path, method, headers, body and query, in this order, of what the upstream gets.
//! Templates are rendered for a request before anything changes.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::template::{Failed, Template};
use super::{BODY_BYTES_MAX, Dollar, Edits, Sections, header_value, headers, is_media, json, multipart, pairs};
use crate::document::{Fields, Place};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::body::RequestBody;
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "request-transformer", priority: 801, consumer_scope: true, compile };

/// The longest form that moves into a query; a longer one stays in the body alone.
const FORM_BYTES_MAX: usize = 16 << 10;

/// What a body may hold and a request line must not (RFC 3986 §3.4).
const NOT_IN_QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// What a rendered value must not bring into a path (RFC 3986 §3.3): it could not end it, or mean another.
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

struct RequestTransformer {
    method: Option<Method>,
    changes: Changes<String, HeaderValue>,
    /// The same with templates, when there are any; `changes` is then empty.
    drafts: Option<Changes<Worded, Worded>>,
}

/// What changes but for the method, with values as texts and as header values.
struct Changes<T, H> {
    path: Option<T>,
    headers: Edits<HeaderName, H>,
    /// The last `replace` of `Host`, which is not among the headers.
    host: Option<H>,
    body: Edits<String, T>,
    query: Edits<String, T>,
}

/// A value of the file.
enum Worded {
    Text(String),
    Template(Template),
}

impl Worded {
    fn render(&self, exchange: &Exchange) -> Result<String, Failed> {
        match self {
            Worded::Text(text) => Ok(text.clone()),
            Worded::Template(template) => template.render(exchange),
        }
    }

    fn render_header(&self, exchange: &Exchange) -> Result<HeaderValue, Failed> {
        HeaderValue::from_str(self.render(exchange)?.trim()).map_err(|_| Failed)
    }

    /// A path in which a value can hold slashes, but neither end the path nor climb.
    fn render_path(&self, exchange: &Exchange) -> Result<String, Failed> {
        let Worded::Template(template) = self else { return self.render(exchange) };
        let dress = |value: &str| utf8_percent_encode(value, NOT_IN_PATH).to_string();
        let path = template.render_with(exchange, dress)?;
        let climbs = path.split('/').any(|segment| {
            let plain = segment.replace("%2e", ".").replace("%2E", ".");
            plain == "." || plain == ".."
        });
        (is_path(&path) && !climbs).then_some(path).ok_or(Failed)
    }
}

impl Changes<Worded, Worded> {
    fn render(&self, exchange: &Exchange) -> Result<Changes<String, HeaderValue>, Failed> {
        Ok(Changes {
            path: self.path.as_ref().map(|path| path.render_path(exchange)).transpose()?,
            headers: self.headers.try_map(|value| value.render_header(exchange))?,
            host: self.host.as_ref().map(|host| host.render_header(exchange)).transpose()?,
            body: self.body.try_map(|value| value.render(exchange))?,
            query: self.query.try_map(|value| value.render(exchange))?,
        })
    }
}

/// Bodies that are understood.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Json,
    UrlEncoded,
    Multipart,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Form> {
        let content_type = headers.get(CONTENT_TYPE);
        if headers.contains_key(CONTENT_ENCODING) {
            None
        } else if is_media(content_type, "application/json") {
            Some(Form::Json)
        } else {
            let url_encoded = is_media(content_type, "application/x-www-form-urlencoded").then_some(Form::UrlEncoded);
            url_encoded.or_else(|| multipart::boundary(headers).map(|_| Form::Multipart))
        }
    }
}

impl Plugin for RequestTransformer {
    fn body_limit(&self, exchange: &Exchange) -> Option<usize> {
        let form = Form::of(&exchange.request.headers)?;
        let moves = form == Form::UrlEncoded && self.moves_form();
        (!exchange.body.is_empty() && (moves || self.edits_body())).then_some(BODY_BYTES_MAX)
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        // By the content type that the client sent: that is what was held.
        let form = Form::of(&exchange.request.headers);
        let rendered = match self.drafts.as_ref().map(|drafts| drafts.render(exchange)).transpose() {
            Ok(rendered) => rendered,
            Err(Failed) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Reply::templated(KIND.name, status, "An unexpected error occurred").into();
            }
        };
        let changes = rendered.as_ref().unwrap_or(&self.changes);
        if let Some(path) = &changes.path {
            exchange.upstream_path.clone_from(path);
        }
        if let Some(method) = &self.method {
            exchange.upstream_method = Some(method.clone());
            if form == Some(Form::UrlEncoded) && self.moves_form() {
                join_form(exchange);
            }
        }
        // Read before the headers change: it names the boundary of what is held.
        let boundary = multipart::boundary(&exchange.request.headers).map(str::to_owned);
        headers::edit(&changes.headers, &mut exchange.request.headers);
        if let Some(host) = &changes.host {
            exchange.upstream_host = Some(host.clone());
        }
        if let Some(form) = form.filter(|_| !changes.body.is_empty()) {
            edit_body(&changes.body, form, boundary.as_deref().unwrap_or_default(), exchange);
        }
        if let Some(query) = pairs::edit(&changes.query, exchange.query.as_deref().unwrap_or_default()) {
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

    fn edits_body(&self) -> bool {
        !self.changes.body.is_empty() || self.drafts.as_ref().is_some_and(|drafts| !drafts.body.is_empty())
    }
}

fn edit_body(edits: &Edits<String, String>, form: Form, boundary: &str, exchange: &mut Exchange) {
    let body = match &exchange.body {
        RequestBody::Empty => Bytes::new(),
        RequestBody::Whole(body) => body.clone(),
        RequestBody::Stream { .. } => return,
    };
    let edited = match form {
        Form::Json => json::edit(edits, &body),
        Form::UrlEncoded => str::from_utf8(&body).ok().and_then(|t| pairs::edit(edits, t)).map(String::into_bytes),
        Form::Multipart => multipart::edit(edits, boundary, &body),
    };
    if let Some(edited) = edited {
        exchange.request.headers.insert(CONTENT_LENGTH, HeaderValue::from(edited.len()));
        exchange.body = RequestBody::Whole(edited.into());
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
    let mut headers = sections.headers_of(true, |section, entry| {
        let worded = worded(section, entry.place, &entry.value)?;
        // A text is judged now, a template when it is rendered.
        if let Worded::Text(text) = &worded {
            header_value(section, entry.place, text)?;
        }
        Some(worded)
    });
    let texts = |key| sections.edits(key, |section, _, entry| worded(section, entry.place, &entry.value));
    let (body, query) = (texts("body"), texts("querystring"));
    let (hosts, replace): (Vec<_>, Vec<_>) = headers.replace.into_iter().partition(|(name, _)| name == HOST);
    headers.replace = replace;
    let host = hosts.into_iter().next_back().map(|(_, value)| value);
    let drafts = Changes { path, headers, host, body, query };
    // Without a template nothing depends on the request: it is rendered here once.
    let Some(changes) = drafts.settled() else {
        return Some(Arc::new(RequestTransformer { method, changes: Changes::none(), drafts: Some(drafts) }));
    };
    Some(Arc::new(RequestTransformer { method, changes, drafts: None }))
}

impl Changes<Worded, Worded> {
    /// The changes, when they are the same for every request.
    fn settled(&self) -> Option<Changes<String, HeaderValue>> {
        let text = |value: &Worded| match value {
            Worded::Text(text) => Ok(text.clone()),
            Worded::Template(_) => Err(()),
        };
        let header = |value: &Worded| text(value).and_then(|text| HeaderValue::from_str(text.trim()).map_err(|_| ()));
        Some(Changes {
            path: self.path.as_ref().map(text).transpose().ok()?,
            headers: self.headers.try_map(header).ok()?,
            host: self.host.as_ref().map(header).transpose().ok()?,
            body: self.body.try_map(text).ok()?,
            query: self.query.try_map(text).ok()?,
        })
    }
}

impl Changes<String, HeaderValue> {
    fn none() -> Self {
        Changes { path: None, headers: Edits::none(), host: None, body: Edits::none(), query: Edits::none() }
    }
}

/// Reads a value; reports a template that is not understood.
fn worded(section: &Fields<'_>, place: Place, text: &str) -> Option<Worded> {
    if !text.contains("$(") {
        return Some(Worded::Text(text.to_owned()));
    }
    match Template::parse(text) {
        Ok(template) => Some(Worded::Template(template)),
        Err(what) => {
            let help = "docs/plugins/request-transformer.md lists what a template can say; with `--allow-unsupported` this entry is left out";
            section.report.unsupported(place, format!("{what} in a template"), Some(help));
            None
        }
    }
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

fn path(replace: &Fields<'_>) -> Option<Worded> {
    let text = replace.string("uri")?;
    let place = replace.place_of("uri");
    let worded = worded(replace, place, &text)?;
    // The first part of a template can be a value that brings the slash.
    let sound = match &worded {
        Worded::Text(text) => is_path(text),
        Worded::Template(_) => text.starts_with(['/', '$']),
    };
    if !sound {
        let expected = "a percent-encoded path that begins with `/`, without a query";
        replace.report.mismatch(place, "`replace.uri` is no path", expected);
    }
    sound.then_some(worded)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.contains(['?', '#'])
        && text.bytes().all(|b| b.is_ascii_graphic())
        && PathAndQuery::try_from(text).is_ok()
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
    fn templates_see_the_request_as_it_came() {
        let config = "
replace: {uri: '/v2/$(query_params.id)/$(headers.x-none or headers.x_old)', headers: ['x-old:new', 'Host:$(headers.x_old).test']}
remove: {querystring: [id]}
add: {headers: ['x-was:$(headers[\"x-old\"])'], querystring: ['was:$(query_params.id)'], body: ['id:$(query_params.id)']}";
        let ex = run(&config.replace("headers.x-none or ", ""), "/?id=4%202", &[JSON, ("x-old", "o")], "{}");
        assert_eq!(ex.upstream_path, "/v2/4%202/o");
        assert_eq!(ex.query.as_deref(), Some("was=4%202"));
        assert_eq!(
            (&ex.request.headers["x-was"], &ex.request.headers["x-old"]),
            (&"o".parse().expect("v"), &"new".parse().expect("v"))
        );
        assert_eq!(ex.upstream_host.as_ref().expect("host"), "o.test");
        assert_eq!(body_of(&ex), r#"{"id":"4 2"}"#);
    }

    #[test]
    fn a_value_cannot_break_out_of_its_place() {
        let plugin = good(&KIND, "{replace: {uri: '/v2/$(query_params.p)'}}");
        let path = |target: &str| {
            let mut ex = Exchange::for_test("GET", target, &[]);
            match plugin.on_request(&mut ex) {
                Flow::Continue | Flow::Wait(_) => ex.upstream_path,
                Flow::Reply(reply) => reply.status.as_u16().to_string(),
            }
        };
        assert_eq!(path("/?p=a/b%3Fc%23d%20e%0d%0af"), "/v2/a/b%3Fc%23d%20e%0D%0Af");
        assert_eq!(path("/?p=../x"), "500");
        assert_eq!(path("/?p=%252e%252E/x"), "500");
        let plugin = good(&KIND, "{add: {headers: ['x:$(query_params.p)']}}");
        let mut ex = Exchange::for_test("GET", "/?p=a%0d%0ab:c", &[]);
        assert!(matches!(plugin.on_request(&mut ex), Flow::Reply(reply) if reply.status == 500));
        assert!(!ex.request.headers.contains_key("x"));
    }

    #[test]
    fn multipart_fields_change() {
        let headers = [("content-type", "multipart/form-data; boundary=B")];
        let body = "--B\r\nContent-Disposition: form-data; name=\"gone\"\r\n\r\n1\r\n--B--\r\n";
        let ex = run(LISTS, "/", &headers, body);
        assert_eq!(body_of(&ex), "--B\r\nContent-Disposition: form-data; name=\"p2\"\r\n\r\nv2\r\n--B--\r\n");
    }

    #[test]
    fn faults_are_told_where() {
        for (config, words) in [
            ("add:\n  headers: ['a']", ":2:13: error: the entry of `a` has no value"),
            ("add: {headers: ['a b:c']}", "no header name"),
            ("add: {headers: [\"a:b\\nc\"]}", "no header value"),
            ("add: {querystring: ['a:$(x)']}", "not yet supported: `x` in a template"),
            ("replace: {uri: '/$(10 * uri_captures.a)'}", "not yet supported: `*` in a template"),
            ("replace: {uri: 'x$(uri_captures.a)'}", "begins with `/`"),
            ("rename: {headers: ['a:$(headers.b)']}", "template in the new name of `a`"),
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
        assert!(report.contains("warning: `c` in a template"), "{report}");
        let mut ex = Exchange::for_test("GET", "/", &[("host", "h")]);
        pass(&plugin.expect("compiles"), &mut ex);
        assert_eq!(ex.request.headers.len(), 2);
    }
}
