//! What the configuration of a session says, and when a request asks for its end.

use std::sync::Arc;

use http::Method;

use super::cookies::Attributes;
use super::{Remember, Session};
use crate::document::Fields;
use crate::identity::session::{Sealer, Times};
use crate::plugins::{Plugin, Setup};
use crate::proxy::exchange::Exchange;

/// The most seconds of a time: 400 days, as long as browsers keep anything.
const TIME_MAX_S: f64 = 400.0 * 86_400.0;
/// A secret with fewer bytes can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// What ends a session.
pub struct Logout {
    methods: Vec<Method>,
    query_argument: Option<String>,
    /// Absent when bodies are not read.
    pub post_argument: Option<String>,
}

impl Logout {
    /// Whether a request with this method may end one.
    pub fn is_method(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// Whether this request does.
    pub fn is_asked(&self, exchange: &Exchange) -> bool {
        let in_query = |name: &String| exchange.query_argument(name).is_some();
        self.is_method(&exchange.request.method)
            && (self.query_argument.as_ref().is_some_and(in_query) || self.is_in_body(exchange))
    }

    fn is_in_body(&self, exchange: &Exchange) -> bool {
        let (Some(name), Some(body)) = (&self.post_argument, exchange.body.whole()) else { return false };
        match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(json) => json.get(name).is_some(),
            Err(_) => form_urlencoded::parse(body).any(|(key, _)| key == name.as_str()),
        }
    }
}

pub fn compile(fields: &Fields<'_>, setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let secret = fields.string("secret");
    let audience = fields.string("audience").unwrap_or_else(|| "default".to_owned());
    let cookie_name = cookie_name(fields, "cookie_name", "session");
    let attributes = attributes(fields);
    let times = Times {
        idle_s: seconds(fields, "idling_timeout", 900.0),
        rolling_s: seconds(fields, "rolling_timeout", 3600.0),
        absolute_s: seconds(fields, "absolute_timeout", 86_400.0),
    };
    // Old copies of a session that was renewed hold as long as their own times say.
    seconds(fields, "stale_ttl", 10.0);
    let remember = Remember {
        cookie_name: cookie_name_of_remember(fields)?,
        times: Times {
            idle_s: 0,
            rolling_s: seconds(fields, "remember_rolling_timeout", 604_800.0),
            absolute_s: seconds(fields, "remember_absolute_timeout", 2_592_000.0),
        },
    };
    let remember = fields.boolean("remember").unwrap_or(false).then_some(remember);
    let logout = logout(fields);
    not_built(fields);
    if let Some(other) = &remember
        && Some(&other.cookie_name) == cookie_name.as_ref()
    {
        let words = "`remember_cookie_name` is `cookie_name`";
        fields.report.mismatch(fields.place_of("remember_cookie_name"), words, "another name");
        return None;
    }
    let secret = secret_of(fields, secret, setup)?;
    setup.identities.make_marks();
    Some(Arc::new(Session {
        identities: Arc::clone(setup.identities),
        keyring: Arc::clone(&setup.shared.keyring),
        sealer: Sealer::new(&secret, &audience)?,
        cookie_name: cookie_name?,
        times,
        attributes: attributes?,
        remember,
        logout: logout?,
    }))
}

fn secret_of(fields: &Fields<'_>, given: Option<String>, setup: &Setup<'_>) -> Option<Vec<u8>> {
    let place = fields.place_of("secret");
    match given {
        None => {
            let words = "without `secret` sessions end with the process, and no other gateway knows them";
            fields.report.warn(place, words);
            Some(setup.shared.session_secret.to_vec())
        }
        Some(secret) if secret.is_empty() => {
            fields.report.mismatch(place, "`secret` is empty", "a long random text");
            None
        }
        Some(secret) => {
            if secret.len() < SECRET_BYTES_MIN {
                let words =
                    format!("`secret` has fewer than {SECRET_BYTES_MIN} bytes: whoever guesses it makes sessions");
                fields.report.warn(place, words);
            }
            Some(secret.into_bytes())
        }
    }
}

fn seconds<'a>(fields: &Fields<'a>, name: &'a str, default: f64) -> u64 {
    fields.number(name, 0.0..=TIME_MAX_S).unwrap_or(default) as u64
}

fn cookie_name_of_remember(fields: &Fields<'_>) -> Option<String> {
    cookie_name(fields, "remember_cookie_name", "remember")
}

/// A cookie's name is a token (RFC 6265 §4.1.1).
fn cookie_name<'a>(fields: &Fields<'a>, field: &'a str, default: &str) -> Option<String> {
    let name = fields.string(field).unwrap_or_else(|| default.to_owned());
    let is_token =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"\",()/:;<=>?@[\\]{}".contains(&b));
    // A probe asks with a path.
    if !is_token && fields.given(field) {
        fields.report.mismatch(fields.place_of(field), format!("`{field}` `{name}` is no cookie's name"), "one word");
        return None;
    }
    Some(name)
}

fn attributes(fields: &Fields<'_>) -> Option<Attributes> {
    let path = fields.string("cookie_path").unwrap_or_else(|| "/".to_owned());
    let domain = fields.string("cookie_domain").filter(|domain| !domain.is_empty());
    let sites =
        [("Strict", Some("Strict")), ("Lax", Some("Lax")), ("None", Some("None")), ("Default", None), ("off", None)];
    let same_site = fields.choice("cookie_same_site", &sites).unwrap_or(Some("Strict"));
    let secure = fields.boolean("cookie_secure").unwrap_or(true);
    let http_only = fields.boolean("cookie_http_only").unwrap_or(true);
    let fits = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b';');
    if !path.starts_with('/') || !fits(&path) {
        fields.report.mismatch(fields.place_of("cookie_path"), "`cookie_path` is no path", "a path such as `/`");
        return None;
    }
    if domain.as_deref().is_some_and(|domain| !fits(domain)) {
        fields.report.mismatch(fields.place_of("cookie_domain"), "`cookie_domain` is no name", "a host's name");
        return None;
    }
    if same_site == Some("None") && !secure {
        let words = "`cookie_same_site: None` without `cookie_secure`: browsers drop such cookies";
        fields.report.warn(fields.place_of("cookie_same_site"), words);
    }
    Some(Attributes { path, domain, same_site, secure, http_only })
}

fn logout(fields: &Fields<'_>) -> Option<Logout> {
    let known = ["GET", "POST", "DELETE"];
    let methods = match fields.strings("logout_methods") {
        None => vec![Method::POST, Method::DELETE],
        Some(words) => {
            let read = |(place, word): &(_, String)| {
                if !known.contains(&word.as_str()) {
                    fields.report.unknown(*place, format!("`logout_methods` has `{word}`"), word, &known);
                }
                Method::from_bytes(word.as_bytes()).ok()
            };
            words.iter().map(read).collect::<Option<Vec<_>>>()?
        }
    };
    let argument = |name| fields.string(name).unwrap_or_else(|| "session_logout".to_owned());
    let (query, post) = (argument("logout_query_arg"), argument("logout_post_arg"));
    let reads_bodies = fields.boolean("read_body_for_logout").unwrap_or(false);
    Some(Logout {
        methods,
        query_argument: Some(query).filter(|name| !name.is_empty()),
        post_argument: Some(post).filter(|name| reads_bodies && !name.is_empty()),
    })
}

/// What needs a store that gateways share, and what tells of a session in headers.
fn not_built(fields: &Fields<'_>) {
    if fields.choice("storage", &[("cookie", true), ("kong", false)]) == Some(false) {
        fields.report.unsupported(fields.place_of("storage"), "`storage: kong` of sessions", None);
    }
    for name in ["request_headers", "response_headers", "bind"] {
        if fields.strings(name).is_some_and(|list| !list.is_empty()) {
            fields.report.unsupported(fields.place_of(name), format!("`{name}` of sessions"), None);
        }
    }
    for name in ["hash_subject", "store_metadata"] {
        if fields.boolean(name) == Some(true) {
            fields.report.unsupported(fields.place_of(name), format!("`{name}` of sessions"), None);
        }
    }
}
