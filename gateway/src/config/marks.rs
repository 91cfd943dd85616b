//! Which headers of its own the gateway adds (Kong `headers`, `headers_upstream`), and how it words its errors.

use crate::document::{Fields, Place};
use crate::proxy::reply::form::{FORMS, Form, Style};

use super::Environment;

/// A set of headers that the gateway adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// `Server` of the gateway's own answers.
    pub const SERVER: Self = Marks(1);
    /// `Via` of proxied answers.
    pub const VIA: Self = Marks(1 << 1);
    /// `X-Kong-Proxy-Latency`.
    pub const PROXY_LATENCY: Self = Marks(1 << 2);
    /// `X-Kong-Upstream-Latency`.
    pub const UPSTREAM_LATENCY: Self = Marks(1 << 3);
    /// `X-Kong-Response-Latency`.
    pub const RESPONSE_LATENCY: Self = Marks(1 << 4);
    /// `X-Kong-Upstream-Status`.
    pub const UPSTREAM_STATUS: Self = Marks(1 << 5);
    /// `X-Kong-Request-Id` for the client.
    pub const REQUEST_ID: Self = Marks(1 << 6);
    /// `X-Kong-Request-Id` for the upstream.
    pub const REQUEST_ID_UPSTREAM: Self = Marks(1 << 7);
    /// `X-Kong-Admin-Latency` of the admin API, which has none here: known, without effect.
    const NOTHING: Self = Marks(0);

    const SERVER_TOKENS: Self = Marks(Self::SERVER.0 | Self::VIA.0);
    const LATENCY_TOKENS: Self = Marks(Self::PROXY_LATENCY.0 | Self::UPSTREAM_LATENCY.0 | Self::RESPONSE_LATENCY.0);

    /// Whether any of `other` is in the set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Kong's default.
impl Default for Marks {
    fn default() -> Self {
        Marks(Self::SERVER_TOKENS.0 | Self::LATENCY_TOKENS.0 | Self::REQUEST_ID.0 | Self::REQUEST_ID_UPSTREAM.0)
    }
}

const CLIENT: &[(&str, Marks)] = &[
    ("server_tokens", Marks::SERVER_TOKENS),
    ("latency_tokens", Marks::LATENCY_TOKENS),
    ("Server", Marks::SERVER),
    ("Via", Marks::VIA),
    ("X-Kong-Proxy-Latency", Marks::PROXY_LATENCY),
    ("X-Kong-Upstream-Latency", Marks::UPSTREAM_LATENCY),
    ("X-Kong-Response-Latency", Marks::RESPONSE_LATENCY),
    ("X-Kong-Upstream-Status", Marks::UPSTREAM_STATUS),
    ("X-Kong-Request-Id", Marks::REQUEST_ID),
    ("X-Kong-Admin-Latency", Marks::NOTHING),
];

const UPSTREAM: &[(&str, Marks)] = &[("X-Kong-Request-Id", Marks::REQUEST_ID_UPSTREAM)];

/// Reads `headers` and `headers_upstream`.
pub fn read(fields: &Fields<'_>, env: &Environment) -> Marks {
    let client = set(fields, "headers", env.headers.as_deref(), CLIENT);
    let upstream = set(fields, "headers_upstream", env.headers_upstream.as_deref(), UPSTREAM);
    let kept = Marks::default().0 & Marks::REQUEST_ID_UPSTREAM.0;
    let default = Marks::default().0 & !Marks::REQUEST_ID_UPSTREAM.0;
    Marks(client.unwrap_or(default) | upstream.unwrap_or(kept))
}

/// The bits of a list of names, or of `off`; nothing when none is given.
fn set<'a>(fields: &Fields<'a>, key: &'a str, variable: Option<&str>, known: &[(&str, Marks)]) -> Option<u16> {
    let words: Vec<(Place, String)> = match (variable, fields.node(key)) {
        (Some(text), _) => text.split(',').map(|word| (Place::default(), word.trim().to_owned())).collect(),
        (None, None) => return None,
        (None, Some(node)) => match &node.value {
            crate::document::Value::Seq(_) => fields.strings(key)?,
            _ => fields.string_or_off(key)?.split(',').map(|word| (node.place, word.trim().to_owned())).collect(),
        },
    };
    let mut bits = 0;
    for (place, word) in words.iter().filter(|(_, word)| word != "off") {
        match known.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            Some((_, mark)) => bits |= mark.0,
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).chain(["off"]).collect();
                fields.report.unknown(*place, format!("`{key}` has `{word}`"), word, &names);
            }
        }
    }
    Some(bits)
}

/// Bytes of a user's own template at most.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// Reads `errors`, `error_default_type` and `error_templates`.
pub fn style(fields: &Fields<'_>, env: &Environment) -> Style {
    let given = fields.string("error_default_type");
    let default = env.error_default_type.clone().or(given).map_or(Form::Plain, |text| {
        let found = FORMS.iter().find(|(_, media, _)| *media == text).map(|(_, _, form)| *form);
        found.unwrap_or_else(|| {
            let names: Vec<&str> = FORMS.iter().map(|(_, media, _)| *media).collect();
            let place = fields.place_of("error_default_type");
            fields.report.unknown(place, format!("`error_default_type` is `{text}`"), &text, &names);
            Form::Plain
        })
    });
    let mut templates = Vec::new();
    if let Some(own) = fields.fields("error_templates") {
        for (name, _, form) in FORMS {
            match own.string(name) {
                Some(text) if text.len() > TEMPLATE_BYTES_MAX => {
                    own.report.mismatch(own.place_of(name), format!("`{name}` is too long"), "at most 64 KiB");
                }
                Some(text) => templates.push((form, text)),
                None => {}
            }
        }
    }
    Style {
        problem: fields.choice("errors", &[("kong", false), ("problem", true)]).unwrap_or(false),
        default,
        templates,
    }
}
