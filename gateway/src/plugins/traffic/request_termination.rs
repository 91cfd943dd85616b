//! Kong's `request-termination`: answers in the upstream's place with a fixed status and body, or an echo of the request.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "request-termination", priority: 2, consumer_scope: true, compile };

/// The longest request body that an echo repeats.
const ECHO_BYTES_MAX: usize = 1 << 20;

struct RequestTermination {
    status: StatusCode,
    message: Option<String>,
    body: Option<(Bytes, HeaderValue)>,
    trigger: Option<Trigger>,
    echo: bool,
}

/// The header or query argument that must be there.
struct Trigger {
    header: HeaderName,
    argument: String,
}

impl Plugin for RequestTermination {
    fn body_limit(&self, exchange: &Exchange) -> Option<usize> {
        (self.echo && self.triggered(exchange)).then_some(ECHO_BYTES_MAX)
    }

    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        if !self.triggered(exchange) {
            return Flow::Continue;
        }
        let message = self.message.as_deref().or(default_message(self.status));
        match (&self.body, message) {
            _ if self.echo => Reply::json(KIND.name, self.status, echo(exchange, message)),
            (Some((body, content_type)), _) => {
                Reply::raw(KIND.name, self.status, body.clone(), Some(content_type.clone()))
            }
            (None, Some(message)) => Reply::compact(KIND.name, self.status, message),
            (None, None) => Reply::empty(KIND.name, self.status),
        }
        .into()
    }
}

impl RequestTermination {
    fn triggered(&self, exchange: &Exchange) -> bool {
        self.trigger.as_ref().is_none_or(|trigger| {
            exchange.request.headers.contains_key(&trigger.header)
                || exchange.query_argument(&trigger.argument).is_some()
        })
    }
}

/// Kong's words for this plugin, which differ from those of its errors.
fn default_message(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        401 => "Unauthorized",
        404 => "Not found",
        405 => "Method not allowed",
        500 => "An unexpected error occurred",
        502 => "Bad Gateway",
        503 => "Service unavailable",
        _ => return None,
    })
}

fn echo(exchange: &Exchange, message: Option<&str>) -> Value {
    let (unnamed, named): (Vec<_>, Vec<_>) =
        exchange.captures.iter().partition(|(name, _)| name.parse::<u32>().is_ok());
    let named: Map<String, Value> = named.into_iter().map(|(name, text)| (name.clone(), json!(text))).collect();
    // Capture 0 is the whole match, which Kong leaves out.
    let unnamed: Vec<&str> = unnamed.into_iter().filter(|(n, _)| n != "0").map(|(_, text)| text.as_str()).collect();
    let headers = exchange.request.headers.iter().map(|(n, v)| (n.as_str(), String::from_utf8_lossy(v.as_bytes())));
    let query = form_urlencoded::parse(exchange.query.as_deref().unwrap_or_default().as_bytes());
    let route = exchange.route.as_deref();
    json!({
        "message": message,
        "request": {
            "scheme": if exchange.client.tls { "https" } else { "http" },
            "host": exchange.host,
            "port": exchange.client.local_port,
            "method": exchange.request.method.as_str(),
            "path": exchange.path,
            "query": gathered(query),
            "headers": gathered(headers),
            "raw_body": exchange.body.whole().map(|body| String::from_utf8_lossy(body)),
            "uri_captures": { "named": named, "unnamed": unnamed },
        },
        "matched_route": route.map(|r| &r.entity),
        "matched_service": route.and_then(|r| r.service.as_ref()).map(|s| &s.entity),
    })
}

/// An object of pairs; a name that comes again turns its value into a list.
fn gathered<N: AsRef<str>, V: AsRef<str>>(pairs: impl Iterator<Item = (N, V)>) -> Value {
    let mut object = Map::new();
    for (name, value) in pairs {
        let value = json!(value.as_ref());
        match object.get_mut(name.as_ref()) {
            None => {
                object.insert(name.as_ref().to_owned(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = json!([first.take(), value]),
        }
    }
    Value::Object(object)
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let status = fields.integer("status_code", 200..=599).unwrap_or(503);
    let message = fields.string("message");
    let body = fields.string("body");
    let content_type = fields.string("content_type").and_then(|text| header_value(fields, text));
    if message.is_some() && (fields.node("body").is_some() || fields.node("content_type").is_some()) {
        fields.report.error(fields.place_of("message"), "`message` excludes `body` and `content_type`");
    } else if body.is_none() && fields.node("content_type").is_some() {
        fields.report.error(fields.place_of("content_type"), "`content_type` needs a `body`");
    }
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    Some(Arc::new(RequestTermination {
        status: StatusCode::from_u16(status as u16).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        message,
        body: body.map(|body| (body.into(), content_type.unwrap_or(json))),
        trigger: fields.string("trigger").and_then(|name| trigger(fields, name)),
        echo: fields.boolean("echo").unwrap_or(false),
    }))
}

fn header_value(fields: &Fields<'_>, text: String) -> Option<HeaderValue> {
    let value = HeaderValue::try_from(text).ok();
    if value.is_none() {
        fields.report.mismatch(fields.place_of("content_type"), "`content_type` is no header value", "a media type");
    }
    value
}

fn trigger(fields: &Fields<'_>, argument: String) -> Option<Trigger> {
    let Ok(header) = HeaderName::try_from(&argument) else {
        fields.report.mismatch(fields.place_of("trigger"), "`trigger` is no header name", "a header name");
        return None;
    };
    Some(Trigger { header, argument })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good, pass, reply, route};
    use crate::proxy::body::RequestBody;
    use crate::proxy::reply::Text;

    fn answered(config: &str) -> (u16, Text) {
        let reply = reply(&good(&KIND, config), &mut Exchange::for_test("GET", "/", &[]));
        (reply.status.as_u16(), reply.text)
    }

    #[test]
    fn statuses_have_words() {
        for (config, status, words) in [
            ("{}", 503, Some("Service unavailable")),
            ("{status_code: 404}", 404, Some("Not found")),
            ("{status_code: 502}", 502, Some("Bad Gateway")),
            ("{status_code: 403, message: stop}", 403, Some("stop")),
            ("{status_code: 204}", 204, None),
        ] {
            match (answered(config), words) {
                ((s, Text::Compact(body)), Some(words)) => assert_eq!((s, &body["message"]), (status, &json!(words))),
                ((s, Text::Empty), None) => assert_eq!(s, status),
                (other, _) => panic!("{config}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_body_has_a_type() {
        let (_, text) = answered("{body: hi}");
        assert!(matches!(text, Text::Raw(b, Some(t)) if b == "hi" && t == "application/json; charset=utf-8"));
        let (_, text) = answered("{body: hi, content_type: text/plain}");
        assert!(matches!(text, Text::Raw(_, Some(t)) if t == "text/plain"));
    }

    #[test]
    fn a_trigger_is_a_header_or_an_argument() {
        let plugin = good(&KIND, "{trigger: Gimme-It}");
        pass(&plugin, &mut Exchange::for_test("GET", "/?x=1", &[]));
        reply(&plugin, &mut Exchange::for_test("GET", "/", &[("gimme-it", "")]));
        reply(&plugin, &mut Exchange::for_test("GET", "/?Gimme-It", &[]));
    }

    #[test]
    fn an_echo_repeats_the_request() {
        let plugin = good(&KIND, "{echo: true, status_code: 404, trigger: t}");
        let mut ex = Exchange::for_test("GET", "/status/200?hello=there&a=1&a=2", &[("t", "1")]);
        assert_eq!(plugin.body_limit(&ex), Some(ECHO_BYTES_MAX));
        assert_eq!(plugin.body_limit(&Exchange::for_test("GET", "/", &[])), None);
        ex.body = RequestBody::Whole("cool body".into());
        ex.route = Some(route("r", "s"));
        ex.captures =
            [("0", "/status"), ("1", "status"), ("what", "status")].map(|(a, b)| (a.into(), b.into())).to_vec();
        let Text::Compact(echo) = reply(&plugin, &mut ex).text else { panic!("JSON") };
        assert_eq!(echo["message"], "Not found");
        assert_eq!(echo["request"]["query"], json!({ "hello": "there", "a": ["1", "2"] }));
        assert_eq!(echo["request"]["raw_body"], "cool body");
        assert_eq!(echo["request"]["uri_captures"], json!({ "named": { "what": "status" }, "unnamed": ["status"] }));
        assert_eq!(echo["matched_route"]["id"], "r");
    }

    #[test]
    fn faults_are_told() {
        assert!(bad(&KIND, "{message: a, body: b}").contains("`message` excludes"));
        assert!(bad(&KIND, "{content_type: a/b}").contains("needs a `body`"));
        assert!(bad(&KIND, "{status_code: 99}").contains("200 to 599"));
        assert!(bad(&KIND, "{trigger: 'a b'}").contains("no header name"));
        assert!(bad(&KIND, "{body: b, content_type: \"a\\nb\"}").contains("no header value"));
    }
}
