//! Kong's templates, text with `$(expression)` in it, and what an expression is worth for a request. Read-only: a template
//! sees the exchange as it was before the plugin changed it.

use std::borrow::Cow;

use super::expression::{Expression, Root, parse};
use crate::proxy::exchange::Exchange;

/// Text of a template at most, bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// What a template may be rendered to at most, bytes: more would not fit into a request's head.
const RENDERED_BYTES_MAX: usize = 16 << 10;

/// A template.
#[derive(Clone, Debug)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Expression),
}

/// An expression that has no value for this request, such as an index into nothing. Kong answers 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// What an expression is worth.
#[derive(Clone, Debug, PartialEq)]
enum Value<'a> {
    Nil,
    Boolean(bool),
    Number(i64),
    Text(Cow<'a, str>),
    /// A header or argument that comes several times.
    List(Vec<Cow<'a, str>>),
    Root(Root),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is not understood, in a few words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err("a template that is too long".to_owned());
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("$(") {
            let inside = &rest[at + 2..];
            let end = closing(inside).ok_or("`$(` without its `)`")?;
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
            }
            pieces.push(Piece::Value(parse(&inside[..end])?));
            rest = &inside[end + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template(pieces))
    }

    /// The text for a request. `nil` and `false` are nothing, as in Kong.
    ///
    /// # Errors
    /// When an expression has no value.
    pub fn render(&self, exchange: &Exchange) -> Result<String, Failed> {
        self.render_with(exchange, str::to_owned)
    }

    /// As `render`, with what `dress` makes of each value.
    ///
    /// # Errors
    /// When an expression has no value.
    pub fn render_with(&self, exchange: &Exchange, dress: impl Fn(&str) -> String) -> Result<String, Failed> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(expression) => match value(expression, exchange)? {
                    Value::Nil | Value::Boolean(false) => {}
                    found => out.push_str(&dress(&text_of(found)?)),
                },
            }
            if out.len() > RENDERED_BYTES_MAX {
                return Err(Failed);
            }
        }
        Ok(out)
    }
}

/// Where the parenthesis closes that was opened before `text`; inner ones are balanced, as in Lua's `%b()`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => open += 1,
            b')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn value<'a>(expression: &'a Expression, exchange: &'a Exchange) -> Result<Value<'a>, Failed> {
    let of = |inner: &'a Expression| value(inner, exchange);
    Ok(match expression {
        Expression::Nil => Value::Nil,
        Expression::Boolean(truth) => Value::Boolean(*truth),
        Expression::Number(number) => Value::Number(*number),
        Expression::Text(text) => Value::Text(Cow::Borrowed(text)),
        Expression::Root(root) => Value::Root(*root),
        Expression::Index(table, key) => index(&of(table)?, &of(key)?, exchange)?,
        Expression::Sub(text, from, to) => Value::Text(sub(&string_of(of(text)?)?, *from, *to).into()),
        Expression::Match(text, pattern) => matched(&string_of(of(text)?)?, pattern),
        Expression::Lower(text) => Value::Text(string_of(of(text)?)?.to_ascii_lowercase().into()),
        Expression::Upper(text) => Value::Text(string_of(of(text)?)?.to_ascii_uppercase().into()),
        Expression::Type(inner) => Value::Text(Cow::Borrowed(type_of(&of(inner)?))),
        Expression::ToString(inner) => Value::Text(match of(inner)? {
            Value::Nil => Cow::Borrowed("nil"),
            found => text_of(found)?,
        }),
        Expression::Not(inner) => Value::Boolean(!is_true(&of(inner)?)),
        Expression::Or(left, right) => match of(left)? {
            Value::Nil | Value::Boolean(false) => of(right)?,
            found => found,
        },
        Expression::And(left, right) => match of(left)? {
            found @ (Value::Nil | Value::Boolean(false)) => found,
            _ => of(right)?,
        },
        Expression::Equal(left, right) => Value::Boolean(of(left)? == of(right)?),
        Expression::Unequal(left, right) => Value::Boolean(of(left)? != of(right)?),
        Expression::Joined(left, right) => {
            let (left, right) = (string_of(of(left)?)?, string_of(of(right)?)?);
            if left.len() + right.len() > RENDERED_BYTES_MAX {
                return Err(Failed);
            }
            Value::Text(format!("{left}{right}").into())
        }
    })
}

fn is_true(value: &Value<'_>) -> bool {
    !matches!(value, Value::Nil | Value::Boolean(false))
}

fn type_of(value: &Value<'_>) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Number(_) => "number",
        Value::Text(_) => "string",
        Value::List(_) | Value::Root(_) => "table",
    }
}

/// A string where Lua wants one: strings, and numbers turned into one.
fn string_of(value: Value<'_>) -> Result<Cow<'_, str>, Failed> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string().into()),
        _ => Err(Failed),
    }
}

fn text_of(value: Value<'_>) -> Result<Cow<'_, str>, Failed> {
    match value {
        Value::Boolean(truth) => Ok(Cow::Borrowed(if truth { "true" } else { "false" })),
        found => string_of(found),
    }
}

fn index<'a>(table: &Value<'a>, key: &Value<'_>, exchange: &'a Exchange) -> Result<Value<'a>, Failed> {
    let several = |mut values: Vec<Cow<'a, str>>| match values.len() {
        0 => Value::Nil,
        1 => values.pop().map_or(Value::Nil, Value::Text),
        _ => Value::List(values),
    };
    Ok(match (table, key) {
        (Value::List(values), Value::Number(n)) => {
            let at = usize::try_from(*n).ok().and_then(|n| n.checked_sub(1));
            at.and_then(|at| values.get(at)).map_or(Value::Nil, |text| Value::Text(text.clone()))
        }
        (Value::Root(Root::Headers), Value::Text(name)) => {
            // OpenResty's header tables take an underscore for a dash.
            let found = exchange.request.headers.get_all(name.replace('_', "-"));
            several(found.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect())
        }
        (Value::Root(Root::QueryParams), Value::Text(name)) => argument(exchange, name, several),
        (Value::Root(Root::UriCaptures), Value::Text(_) | Value::Number(_)) => {
            let name = string_of(key.clone())?;
            let found = exchange.captures.iter().find(|(captured, _)| *captured == name);
            found.map_or(Value::Nil, |(_, text)| Value::Text(Cow::Borrowed(text)))
        }
        // Nothing writes what plugins share in Kong.
        (Value::Root(_) | Value::List(_), _) => Value::Nil,
        // Lua's strings answer to the names of their methods, which are no text.
        _ => return Err(Failed),
    })
}

fn argument<'a>(exchange: &'a Exchange, name: &str, several: impl Fn(Vec<Cow<'a, str>>) -> Value<'a>) -> Value<'a> {
    let query = exchange.query.as_deref().unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| value);
    let found: Vec<Cow<'a, str>> = pairs.take(100).collect();
    // An argument without `=` is true (OpenResty `ngx.req.get_uri_args`).
    let bare = found.len() == 1 && found[0].is_empty() && query.split('&').any(|pair| pair == name);
    if bare { Value::Boolean(true) } else { several(found) }
}

/// Lua's `string.sub`: positions count from 1, negative ones from the end. What is cut inside a character is replaced.
fn sub(text: &str, from: i64, to: i64) -> String {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { length.saturating_add(at).saturating_add(1) } else { at };
    let (from, to) = (place(from).max(1), place(to).min(length));
    let range = usize::try_from(from - 1).ok().zip(usize::try_from(to).ok());
    let bytes = range.and_then(|(from, to)| text.as_bytes().get(from..to)).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// The first capture, or the whole match; `nil` without one.
fn matched<'a>(text: &str, pattern: &regex::bytes::Regex) -> Value<'a> {
    let captures = pattern.captures(text.as_bytes());
    let found = captures.as_ref().and_then(|c| c.get(1).or(c.get(0)));
    found.map_or(Value::Nil, |m| Value::Text(String::from_utf8_lossy(m.as_bytes()).into_owned().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Result<String, Failed> {
        let headers = [("x-one", "1"), ("x-many", "a"), ("x-many", "b"), ("authorization", "Bearer sb_1234")];
        let mut exchange = Exchange::for_test("GET", "/?q=2%263&flag&m=1&m=2&empty=", &headers);
        exchange.captures =
            [("0", "/all"), ("1", "first"), ("name", "first")].map(|(a, b)| (a.into(), b.into())).into();
        Template::parse(text).expect(text).render(&exchange)
    }

    #[test]
    fn values_are_those_of_the_request() {
        for (text, expected) in [
            ("$(headers.x_one)", "1"),
            ("$(headers['X-One'])-$(headers[\"x-one\"])", "1-1"),
            ("$(query_params.q)", "2&3"),
            ("$(query_params.none)", ""),
            ("$(query_params.flag)$(query_params.empty)", "true"),
            ("$(query_params.m[2])", "2"),
            ("$(uri_captures.name)/$(uri_captures[1])/$(uri_captures[0])/$(uri_captures[7])", "first/first//all/"),
            ("$(shared.x or 'd')", "d"),
            ("a$b$(1)c", "a$b1c"),
            ("$('$(headers.x)')", "$(headers.x)"),
            (
                "$(type(headers['X-Many']) == 'table' and headers['X-Many'][1] .. '-first' or headers['X-Many'])",
                "a-first",
            ),
            ("$(type(headers.none))$(type(1))$(tostring(nil))", "nilnumbernil"),
            ("$(headers.none and 'x' or 'y')$(not headers.none)", "ytrue"),
            ("$(headers.x_one == '1' and 'same')$(headers.x_one == 1 and 'same' or 'other')", "sameother"),
            ("$('a' .. 1 .. 'b' == 'a1b')", "true"),
            ("$(headers.authorization:sub(1, 10) ~= 'Bearer sb_' and headers.authorization or 'key')", "key"),
            ("$(headers.authorization:sub(-4))$(headers.authorization:sub(0, 2))", "1234Be"),
            ("$(headers.authorization:sub(9, 2))$(headers.authorization:sub(99))", ""),
            ("$(headers.authorization:match('^Bearer%s+(%S+)$'))", "sb_1234"),
            ("$(headers.authorization:match('nothing') or 'none')", "none"),
            ("$(('AbC'):lower())$((headers.x_many[1]):upper())", "abcA"),
        ] {
            assert_eq!(rendered(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_fails() {
        for text in
            ["$(headers.none:sub(1))", "$(headers.none.x)", "$('a' .. headers.none)", "$(headers)", "$(headers.x_many)"]
        {
            assert_eq!(rendered(text), Err(Failed), "{text}");
        }
        let doubled = format!("$({})", vec!["headers.authorization"; 120].join(" .. "));
        assert_eq!(rendered(&doubled).map(|text| text.len()), Ok(120 * 14));
        let long = "$(headers.authorization)".repeat(300);
        assert_eq!(rendered(&long).map(|text| text.len()), Ok(300 * 14));
    }

    #[test]
    fn broken_templates_are_named() {
        for text in ["$(", "$(headers.x", "$()", "$(x)"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
