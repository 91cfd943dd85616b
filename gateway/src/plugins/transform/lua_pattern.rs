//! Lua's string patterns (Lua 5.1 §5.4.1) as regular expressions, so that matching takes linear time. What has no equal there
//! is named. Knows nothing of templates.

use regex::bytes::{Regex, RegexBuilder};

/// Memory that one expression may take when it is compiled, bytes.
const REGEX_BYTES_MAX: usize = 1 << 18;

/// The expression of a pattern.
///
/// # Errors
/// What is not understood, in a few words.
pub fn compile(pattern: &str) -> Result<Regex, &'static str> {
    let mut out = String::from("(?s-u)");
    let mut rest = pattern;
    if let Some(tail) = rest.strip_prefix('^') {
        out.push_str(r"\A");
        rest = tail;
    }
    let mut letters = rest.chars().peekable();
    // Whether what stands before can be repeated: one character or one class, as in Lua.
    let mut single = false;
    while let Some(letter) = letters.next() {
        let next = letters.peek().copied();
        let repeats = single;
        single = true;
        match letter {
            '%' => out.push_str(&class(letters.next(), false)?),
            '[' => out.push_str(&set(&mut letters)?),
            '.' => out.push('.'),
            '*' | '+' | '?' if repeats => {
                out.push(letter);
                single = false;
            }
            '-' if repeats => {
                out.push_str("*?");
                single = false;
            }
            '(' if next == Some(')') => return Err("position captures"),
            '(' | ')' => {
                out.push(letter);
                single = false;
            }
            '$' if next.is_none() => out.push_str(r"\z"),
            other => out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    RegexBuilder::new(&out).unicode(false).size_limit(REGEX_BYTES_MAX).build().map_err(|_| "a malformed pattern")
}

/// A class such as `%d`, or an escaped character; `inside` a set without its own brackets.
fn class(letter: Option<char>, inside: bool) -> Result<String, &'static str> {
    let letter = letter.ok_or("a pattern that ends with `%`")?;
    let members = match letter.to_ascii_lowercase() {
        'a' => "[:alpha:]",
        'c' => "[:cntrl:]",
        'd' => "[:digit:]",
        'l' => "[:lower:]",
        'p' => "[:punct:]",
        's' => "[:space:]",
        'u' => "[:upper:]",
        'w' => "[:alnum:]",
        'x' => "[:xdigit:]",
        _ if letter.is_ascii_alphanumeric() => return Err("`%b`, `%f`, `%z` and back-references"),
        _ => return Ok(regex::escape(letter.encode_utf8(&mut [0; 4]))),
    };
    let members = if letter.is_ascii_uppercase() { members.replacen(':', ":^", 1) } else { members.to_owned() };
    Ok(if inside { members } else { format!("[{members}]") })
}

fn set(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, &'static str> {
    let mut out = String::from("[");
    if letters.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        match letters.next().ok_or("a set without its end")? {
            ']' if !first => break,
            '%' => out.push_str(&class(letters.next(), true)?),
            // A range, unless it stands at the end.
            '-' if !first && letters.peek().is_some_and(|next| *next != ']') => out.push('-'),
            // `regex::escape` also guards what only sets give a meaning: `&`, `~`.
            other => out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
        first = false;
    }
    out.push(']');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(pattern: &str, text: &'a str) -> Option<&'a str> {
        let captures = compile(pattern).expect(pattern).captures(text.as_bytes())?;
        let group = captures.get(1).or(captures.get(0))?;
        text.get(group.range())
    }

    #[test]
    fn patterns_match_as_in_lua() {
        for (pattern, text, expected) in [
            ("^Bearer (.+)$", "Bearer abc", Some("abc")),
            ("Bearer%s+(%S+)", "x Bearer  abc d", Some("abc")),
            ("%d+", "ab12c3", Some("12")),
            ("<(.-)>", "<a><b>", Some("a")),
            ("[%w_%-]+", "!a-b_1!", Some("a-b_1")),
            ("[^/]*$", "/a/b", Some("b")),
            ("[]x]+", "a]x", Some("]x")),
            ("[a-c]+", "xabcd", Some("abc")),
            ("[a-]+", "x-a", Some("-a")),
            ("^%^%$$", "^$", Some("^$")),
            ("a$b", "a$b", Some("a$b")),
            ("^-x", "-x", Some("-x")),
            ("%u%l", "aBc", Some("Bc")),
            ("[&~]+", "a&~", Some("&~")),
            ("^abc", "xabc", None),
            ("%D", "12", None),
        ] {
            assert_eq!(found(pattern, text), expected, "{pattern}");
        }
    }

    #[test]
    fn what_has_no_equal_is_named() {
        for pattern in ["()", "%b()", "%f[%w]", "(a)%1", "a%", "[a", "(a"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
