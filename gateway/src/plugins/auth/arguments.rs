//! Form-encoded arguments, as queries and form bodies hold them: taking some out, and hiding their values in what is logged.
//! Pure text; nothing here knows requests.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// `arguments` without those named `name`; the others keep their order, and lose only percent-encoding that RFC 3986 §2.3
/// calls needless.
pub fn without(arguments: &str, name: &str) -> String {
    let kept = arguments.split('&').filter(|a| name_of(a) != name).map(plain);
    kept.collect::<Vec<_>>().join("&")
}

/// The URI with the values of the arguments `names` replaced by `REDACTED`; nothing when it has none of them.
pub fn redacted(uri: &str, names: &[String]) -> Option<String> {
    let (path, query) = uri.split_once('?')?;
    let secret = |argument: &str| names.iter().any(|n| *n == name_of(argument));
    if !query.split('&').any(secret) {
        return None;
    }
    let shown = query.split('&').map(|argument| match argument.split_once('=') {
        Some((name, _)) if secret(argument) => Cow::Owned(format!("{name}=REDACTED")),
        _ => Cow::Borrowed(argument),
    });
    Some(format!("{path}?{}", shown.collect::<Vec<_>>().join("&")))
}

fn name_of(argument: &str) -> String {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name).replace('+', " ");
    percent_decode_str(&name).decode_utf8_lossy().into_owned()
}

/// Decodes the percent-encoded unreserved characters.
fn plain(argument: &str) -> Cow<'_, str> {
    if !argument.contains('%') {
        return Cow::Borrowed(argument);
    }
    let mut out = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(b) if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => {
                out.push(char::from(b));
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_out_keeps_order_and_meaning() {
        assert_eq!(without("c=1&b=2&key=x&a=3", "key"), "c=1&b=2&a=3");
        assert_eq!(without("c=valu%651&b=%2F%20+&k%65y=x&flag", "key"), "c=value1&b=%2F%20+&flag");
        assert_eq!(without("key=x&key=y&key", "key"), "");
        assert_eq!(without("a=%&b=%4&c=%é", "key"), "a=%&b=%4&c=%é");
        assert_eq!(without("a=%+4", "key"), "a=%+4");
    }

    #[test]
    fn values_are_hidden_whatever_the_spelling() {
        let names = ["key".to_owned(), "my key".to_owned()];
        assert_eq!(
            redacted("/p?a=1&k%65y=s&my+key=t", &names).as_deref(),
            Some("/p?a=1&k%65y=REDACTED&my+key=REDACTED")
        );
        assert_eq!(redacted("/p?a=key", &names), None);
        assert_eq!(redacted("/p", &names), None);
    }
}
