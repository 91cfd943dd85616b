//! Targets that need a whole request: plugins with what they read of headers, queries and bodies, and the expressions of
//! templates and routes.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gateway::config::{Bundle, Load, Snapshot, compile};
use gateway::plugins::Flow;
use gateway::plugins::transform::template::Template;
use gateway::proxy::body::RequestBody;
use gateway::proxy::exchange::{Channel, Client, Exchange, RequestId, Response};
use gateway::proxy::reply::form::{Style, Words};
use gateway::proxy::{cookies, report};
use gateway::router::{Expression, Facts, View};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, request};

/// Plugins that read what a client sends, each on a route of its own.
const PLUGINS: &str = r#"
_format_version: "3.0"
consumers:
- username: ann
  keyauth_credentials: [{ key: 5d41402abc4b2a76b9719d911017c592 }]
  basicauth_credentials: [{ username: ann, password: 7b52009b64fd0a2a49e6d8a939753077 }]
  hmacauth_credentials: [{ username: ann, secret: 9e107d9d372bb6826bd81d3542a419d6 }]
  jwt_secrets: [{ key: ann, secret: e4d909c290d0fb1ca068ffaddf22cbd0 }]
services:
- name: s
  url: http://127.0.0.1:1
  routes:
  - { name: hmac, paths: [/hmac], plugins: [{ name: hmac-auth, config: { validate_request_body: true } }] }
  - { name: basic, paths: [/basic], plugins: [{ name: basic-auth, config: { hide_credentials: true } }] }
  - { name: key, paths: [/key], plugins: [{ name: key-auth, config: { key_in_body: true, hide_credentials: true } }] }
  - { name: jwt, paths: [/jwt], plugins: [{ name: jwt, config: { cookie_names: [token] } }] }
  - { name: bots, paths: [/bots], plugins: [{ name: bot-detection }, { name: cors }, { name: correlation-id }] }
  - name: edits
    paths: [/edits]
    plugins:
    - name: request-transformer
      config:
        remove: { headers: [a], querystring: [a], body: [a] }
        rename: { headers: ["b:c"], querystring: ["b:c"], body: ["b:c"] }
        replace: { headers: ["d:1"], querystring: ["d:1"], body: ["d:1"], uri: "/x/$(headers.e or 'none')" }
        add: { headers: ["f:$(query_params.g)"], querystring: ["f:$(headers.g)"], body: ["f:1"] }
        append: { headers: ["h:1"], querystring: ["h:1"], body: ["h:1"] }
    - name: response-transformer
      config: { remove: { json: [a] }, rename: { headers: ["b:c"] }, add: { json: ["d:1"] }, append: { json: ["e:1"] } }
gateway: { trusted_ips: [10.0.0.0/8], real_ip_header: X-Forwarded-For, real_ip_recursive: true }
"#;

fn snapshot() -> &'static Arc<Snapshot> {
    static SNAPSHOT: OnceLock<Arc<Snapshot>> = OnceLock::new();
    SNAPSHOT.get_or_init(|| {
        let compiled = compile(&Bundle::of("kong.yml", PLUGINS), &Arc::new(Load::default()), super::shared());
        compiled.snapshot.map(Arc::new).unwrap_or_else(|| panic!("{}", compiled.report))
    })
}

fn exchange(request: request::Parts, body: RequestBody) -> Exchange {
    let ip = IpAddr::from([10, 0, 0, 1]);
    let (path, query) = (request.uri.path().to_owned(), request.uri.query().map(str::to_owned));
    Exchange {
        body,
        raw_uri: request.uri.to_string(),
        upstream_path: path.clone(),
        path,
        query,
        host: "gateway.test".to_owned(),
        host_port: None,
        captures: vec![("1".to_owned(), "one".to_owned()), ("name".to_owned(), "two".to_owned())],
        client: Client {
            peer: SocketAddr::new(ip, 40_000),
            ip,
            trusted: true,
            told: false,
            local_port: 8000,
            tls: false,
        },
        channel: Rc::new(Channel { peer: "10.0.0.1".into(), port: "8000".into(), ..Channel::default() }),
        client_text: None,
        request_id: RequestId::new(7),
        started_ns: 1_000_000_000,
        started_unix_ns: 1_700_000_000_000_000_000,
        route: None,
        authenticated: None,
        session: None,
        slot: None,
        upstream_method: None,
        upstream_host: None,
        response_headers: Vec::new(),
        correlation_id: None,
        response_quota: None,
        circuit_probe: false,
        request,
    }
}

/// A request and its body.
fn split(data: &[u8]) -> Option<(request::Parts, &[u8])> {
    let end = data.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    Some((super::parsed(&data[..end])?.into_parts().0, &data[end..]))
}

/// Whatever a client sends, a plugin lets it through or answers.
pub fn requests(data: &[u8]) {
    let Some((parts, body)) = split(data) else { return };
    names(&parts.headers);
    words(&parts.headers);
    for route in &snapshot().routes {
        let mut exchange = exchange(parts.clone(), RequestBody::Whole(Bytes::copy_from_slice(body)));
        let mut response = Response {
            status: StatusCode::OK,
            headers: parts.headers.clone(),
            body: Some(Bytes::copy_from_slice(body)),
            from_upstream: true,
            without_body: false,
        };
        for plugin in route.chain.slots.iter().filter_map(|slot| slot.base.as_ref()).map(|base| &base.plugin) {
            plugin.conceal(&mut exchange);
            let bodied = plugin.body_limit(&exchange).is_none_or(|limit| body.len() <= limit);
            if bodied && matches!(plugin.on_request(&mut exchange), Flow::Continue) {
                let _limit = plugin.response_body_limit(&exchange, &response);
                plugin.on_response(&mut exchange, &mut response);
            }
        }
        if exchange.upstream_path != exchange.path {
            assert!(exchange.upstream_path.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", exchange.upstream_path);
        }
        let query = exchange.query.unwrap_or_default();
        assert!(query.bytes().all(|byte| byte.is_ascii_graphic() || byte >= 0x80), "{query:?}");
    }
}

/// Cookies say the same before and after their crumbs are joined; what a proxy names is an address.
fn names(headers: &HeaderMap) {
    let seen = |headers: &HeaderMap| -> Vec<(Vec<u8>, Vec<u8>)> {
        cookies::pairs(headers).map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    };
    let mut joined = headers.clone();
    cookies::join(&mut joined);
    assert!(joined.get_all("cookie").iter().count() <= 1);
    assert_eq!(seen(headers), seen(&joined));
    let name = HeaderName::from_static("x-forwarded-for");
    if let Some(ip) = report::named_client(headers, &name, &snapshot().settings) {
        let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let said = headers.get_all(&name).iter().map(text).collect::<Vec<_>>().join(",");
        assert!(said.split(',').any(|word| word.trim().parse().is_ok_and(|said: IpAddr| said.to_canonical() == ip)));
    }
}

/// An answer has one form, whatever the client accepts.
fn words(headers: &HeaderMap) {
    let words = Words { status: 502, reason: "r", message: "m", request_id: "i" };
    let (kind, text) = Style::default().write(&words, headers, true);
    assert!(kind.ends_with("; charset=utf-8") && text.contains('m'));
}

/// The first line is a template, the rest a request: what is read is rendered within its bound, or has no value.
pub fn template(data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(text) = std::str::from_utf8(&data[..end]) else { return };
    let Ok(template) = Template::parse(text) else { return };
    let plain = || Request::new(()).into_parts().0;
    let parts = split(&data[end + 1..]).map_or_else(plain, |(parts, _)| parts);
    if let Ok(rendered) = template.render(&exchange(parts, RequestBody::Empty)) {
        assert!(rendered.len() <= 16 << 10, "{} bytes", rendered.len());
    }
}

/// The first line is a route's expression, the rest a request: a mistake has its place, and what is read always decides.
pub fn expression(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(text) = std::str::from_utf8(&data[..end]) else { return };
    let expression = match Expression::parse(text) {
        Ok(expression) => expression,
        Err(mistake) => return assert!(mistake.at <= text.chars().count(), "{mistake:?}"),
    };
    let parts = split(data.get(end + 1..).unwrap_or_default()).map(|(parts, _)| parts);
    let headers = parts.as_ref().map(|parts| parts.headers.clone()).unwrap_or_default();
    let uri = parts.map(|parts| parts.uri).unwrap_or_default();
    let facts =
        Facts { method: &Method::GET, host: "a.test", port: 8000, path: uri.path(), headers: &headers, sni: None };
    let (source, destination) = (SocketAddr::from(([10, 1, 2, 3], 4711)), IpAddr::from([10, 9, 0, 1]));
    let view = View { facts: &facts, protocol: "http", query: uri.query(), source, destination };
    if let Some(hit) = expression.matches(&view) {
        assert!(uri.path().is_char_boundary(hit.matched), "{} of {:?}", hit.matched, uri.path());
    }
}
