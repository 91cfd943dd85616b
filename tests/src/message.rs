//! A response as a test sees it, whichever protocol carried it.

use serde_json::Value;

use crate::wire::{lossy, values};

/// One complete response.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    /// The status line (`HTTP/1.1 200 OK`), or the protocol's name where there is none.
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The statuses of the 1xx answers that came before.
    pub interim: Vec<u16>,
}

impl Reply {
    /// The first value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All values of the header `name`, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    /// The header `name` as a number.
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        let value = self.header(name);
        value
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{name} is {value:?}, not a number, in {self:?}"))
    }

    pub fn text(&self) -> String {
        lossy(&self.body)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: status {} body {:?}", self.status, self.text()))
    }

    /// What the echo upstream saw of the request's header `name`: its value, or all of them
    /// joined by `, ` if it came more than once.
    #[track_caller]
    pub fn echoed(&self, name: &str) -> Option<String> {
        match self.json().get("headers")?.get(name.to_ascii_lowercase())? {
            Value::String(value) => Some(value.clone()),
            Value::Array(values) => Some(values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
            other => panic!("the echo's header {name} is {other}"),
        }
    }

    /// The request URI that the echo upstream saw.
    #[track_caller]
    pub fn echoed_uri(&self) -> String {
        self.json()["vars"]["request_uri"].as_str().unwrap_or_default().to_owned()
    }

    /// The `message` of an error body.
    #[track_caller]
    pub fn error_message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts the status; says the whole answer otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {:?} {:?}", self.start, self.headers, self.text());
        self
    }

    /// Asserts Kong's templated error in its JSON form: status, message, content type, request id.
    #[track_caller]
    pub fn expect_templated(self, status: u16, message: &str) -> Self {
        let reply = self.expect(status);
        let id = reply.header("x-kong-request-id").unwrap_or_default().to_owned();
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        let body = format!("{{\n  \"message\":\"{message}\",\n  \"request_id\":\"{id}\"\n}}");
        assert_eq!(reply.text(), body, "the templated form");
        assert!(!id.is_empty(), "the request id is in header and body");
        reply
    }

    /// Asserts Kong's compact error: one line, no request id.
    #[track_caller]
    pub fn expect_compact(self, status: u16, body: &str) -> Self {
        let reply = self.expect(status);
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(reply.text(), body, "the compact form");
        reply
    }
}
