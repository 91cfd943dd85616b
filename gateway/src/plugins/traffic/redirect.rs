//! Kong's `redirect`: sends every request elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderValue, LOCATION};

use crate::document::Fields;
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// The kind.
pub const KIND: Kind = Kind { name: "redirect", priority: 779, consumer_scope: true, compile };

struct Redirect {
    status: StatusCode,
    location: HeaderValue,
    /// Scheme and authority of the location, when the request's own path and query follow.
    origin: Option<String>,
}

impl Plugin for Redirect {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let location = match &self.origin {
            Some(origin) => HeaderValue::from_str(&elsewhere(origin, exchange)).unwrap_or(self.location.clone()),
            None => self.location.clone(),
        };
        let body = Bytes::from_static(b"redirecting");
        Reply::raw(KIND.name, self.status, body, None).with(LOCATION, location).into()
    }
}

fn elsewhere(origin: &str, exchange: &Exchange) -> String {
    match &exchange.query {
        Some(query) => format!("{origin}{}?{query}", exchange.path),
        None => format!("{origin}{}", exchange.path),
    }
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let status = fields.integer("status_code", 200..=599).unwrap_or(301);
    let keep_path = fields.boolean("keep_incoming_path").unwrap_or(false);
    let text = fields.required_string("location")?;
    let authority = text.split_once("://").map(|(scheme, rest)| {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        scheme.len() + 3 + end
    });
    let (Some(end), Ok(location)) =
        (authority.filter(|end| !text[..*end].ends_with("//")), HeaderValue::from_str(&text))
    else {
        let expected = "an absolute URL such as https://example.com/path";
        fields.report.mismatch(fields.place_of("location"), "`location` is no URL", expected);
        return None;
    };
    let status = StatusCode::from_u16(status as u16).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    Some(Arc::new(Redirect { status, location, origin: keep_path.then(|| text[..end].to_owned()) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good, reply};

    fn answer(config: &str, target: &str) -> (u16, String) {
        let reply = reply(&good(&KIND, config), &mut Exchange::for_test("GET", target, &[]));
        let (name, value) = &reply.headers[0];
        assert_eq!(name, LOCATION);
        (reply.status.as_u16(), value.to_str().expect("text").to_owned())
    }

    #[test]
    fn the_location_is_told_as_it_stands() {
        let to = |url: &str| answer(&format!("location: '{url}'"), "/a?b=c");
        assert_eq!(to("https://example.com/path?foo=bar"), (301, "https://example.com/path?foo=bar".into()));
        assert_eq!(answer("{location: 'http://x', status_code: 308}", "/a"), (308, "http://x".into()));
    }

    #[test]
    fn the_requests_own_path_can_be_kept() {
        let to =
            |url: &str, target: &str| answer(&format!("{{location: '{url}', keep_incoming_path: true}}"), target).1;
        assert_eq!(to("https://example.com/some?foo=bar", "/a/b?x=1&y"), "https://example.com/a/b?x=1&y");
        assert_eq!(to("https://example.com:1?foo=bar", "/a"), "https://example.com:1/a");
    }

    #[test]
    fn faults_are_told() {
        for config in ["location: /path", "location: 'https://'", "location: \"http://a/\\n\""] {
            assert!(bad(&KIND, config).contains("`location` is no URL"), "{config}");
        }
        assert!(bad(&KIND, "{}").contains("lacks the required field `location`"));
        assert!(bad(&KIND, "{location: 'http://x', status_code: 99}").contains("200 to 599"));
    }
}
