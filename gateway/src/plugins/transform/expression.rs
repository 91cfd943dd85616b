//! The part of Lua's expressions that templates are written with: paths into the request, literals, `or`, `and`, `not`, `==`,
//! `~=`, `..`, `type()`, `tostring()`, and the string methods `sub`, `match`, `lower`, `upper`. Read once into a tree, so that
//! a request only walks it; what is beyond is named, and nothing can loop or reach outside.

use regex::bytes::Regex;

use super::lua_pattern;

/// Depth of nested parentheses and indices at most.
const DEPTH_MAX: usize = 32;
/// Tokens of one expression at most. A chain of them (`a or a or …`, `not not …`) is a tree as deep as it is long, and the
/// request's thread walks it by calls.
const TOKENS_MAX: usize = 512;

/// What an expression begins from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Root {
    Headers,
    QueryParams,
    UriCaptures,
    Shared,
}

/// An expression.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Expression {
    Nil,
    Boolean(bool),
    Number(i64),
    Text(String),
    Root(Root),
    Index(Box<Expression>, Box<Expression>),
    Sub(Box<Expression>, i64, i64),
    Match(Box<Expression>, Regex),
    Lower(Box<Expression>),
    Upper(Box<Expression>),
    Type(Box<Expression>),
    ToString(Box<Expression>),
    Not(Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Equal(Box<Expression>, Box<Expression>),
    Unequal(Box<Expression>, Box<Expression>),
    Joined(Box<Expression>, Box<Expression>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(i64),
    Sign(&'static str),
}

const SIGNS: [&str; 11] = ["==", "~=", "..", "(", ")", "[", "]", ".", ":", ",", "-"];

/// Reads an expression.
///
/// # Errors
/// What is not understood, in a few words.
pub fn parse(text: &str) -> Result<Expression, String> {
    let mut reader = Reader { tokens: tokens(text)?, at: 0, depth: 0 };
    let expression = reader.or()?;
    match reader.peek() {
        None => Ok(expression),
        Some(token) => Err(shown(token)),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if tokens.len() == TOKENS_MAX {
            return Err("an expression that is too long".to_owned());
        }
        let length = |fits: fn(char) -> bool| rest.find(|c| !fits(c)).unwrap_or(rest.len());
        if first.is_ascii_alphabetic() || first == '_' {
            let end = length(|c| c.is_ascii_alphanumeric() || c == '_');
            tokens.push(Token::Name(rest[..end].to_owned()));
            rest = &rest[end..];
        } else if first.is_ascii_digit() {
            let end = length(|c| c.is_ascii_digit());
            tokens.push(Token::Number(rest[..end].parse().map_err(|_| "a number that is too large".to_owned())?));
            rest = &rest[end..];
        } else if first == '"' || first == '\'' {
            let (text, tail) = quoted(&rest[1..], first)?;
            tokens.push(Token::Text(text));
            rest = tail;
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).ok_or_else(|| format!("`{first}`"))?;
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// A string up to its closing quote, and what follows it.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            _ if letter == quote => return Ok((out, &text[at + letter.len_utf8()..])),
            '\\' => match letters.next().map(|(_, escaped)| escaped) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(escaped) if !escaped.is_ascii_alphanumeric() => out.push(escaped),
                _ => return Err("an escape in a string".to_owned()),
            },
            _ => out.push(letter),
        }
    }
    Err("a string without its end".to_owned())
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("`{name}`"),
        Token::Text(_) => "a string where none can stand".to_owned(),
        Token::Number(number) => format!("`{number}`"),
        Token::Sign(sign) => format!("`{sign}`"),
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

type Read = Result<Expression, String>;

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or_else(|| "an expression without its end".to_owned())?;
        self.at += 1;
        Ok(token)
    }

    fn takes(&mut self, wanted: &Token) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn takes_name(&mut self, name: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Name(found)) if found == name);
        self.at += usize::from(there);
        there
    }

    fn expects(&mut self, sign: &'static str) -> Result<(), String> {
        if self.takes(&Token::Sign(sign)) {
            return Ok(());
        }
        Err(self.peek().map_or_else(|| format!("a missing `{sign}`"), shown))
    }

    fn or(&mut self) -> Read {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("an expression that is nested too deeply".to_owned());
        }
        let mut left = self.and()?;
        while self.takes_name("or") {
            left = Expression::Or(left.into(), self.and()?.into());
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Read {
        let mut left = self.comparison()?;
        while self.takes_name("and") {
            left = Expression::And(left.into(), self.comparison()?.into());
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Read {
        let mut left = self.joined()?;
        loop {
            if self.takes(&Token::Sign("==")) {
                left = Expression::Equal(left.into(), self.joined()?.into());
            } else if self.takes(&Token::Sign("~=")) {
                left = Expression::Unequal(left.into(), self.joined()?.into());
            } else {
                return Ok(left);
            }
        }
    }

    fn joined(&mut self) -> Read {
        let mut parts = vec![self.unary()?];
        while self.takes(&Token::Sign("..")) {
            parts.push(self.unary()?);
        }
        let last = parts.pop().ok_or_else(String::new)?;
        // `..` binds to the right.
        Ok(parts.into_iter().rev().fold(last, |right, left| Expression::Joined(left.into(), right.into())))
    }

    fn unary(&mut self) -> Read {
        let mut negations = 0;
        while self.takes_name("not") {
            negations += 1;
        }
        let mut expression = self.postfix()?;
        for _ in 0..negations {
            expression = Expression::Not(expression.into());
        }
        Ok(expression)
    }

    fn postfix(&mut self) -> Read {
        let literal = !matches!(self.peek(), Some(Token::Name(_) | Token::Sign(_)));
        let mut expression = self.primary()?;
        loop {
            if self.takes(&Token::Sign(".")) {
                let Token::Name(name) = self.next()? else { return Err("`.` without a name".to_owned()) };
                expression = Expression::Index(expression.into(), Expression::Text(name).into());
            } else if self.takes(&Token::Sign("[")) {
                let index = self.or()?;
                self.expects("]")?;
                expression = Expression::Index(expression.into(), index.into());
            } else if self.takes(&Token::Sign(":")) {
                expression = self.method(expression)?;
            } else {
                break;
            }
            if literal {
                return Err("an index or a method of a literal".to_owned());
            }
        }
        Ok(expression)
    }

    fn method(&mut self, of: Expression) -> Read {
        let Token::Name(name) = self.next()? else { return Err("`:` without a name".to_owned()) };
        self.expects("(")?;
        let expression = match name.as_str() {
            "sub" => {
                let from = self.integer()?;
                let to = if self.takes(&Token::Sign(",")) { self.integer()? } else { -1 };
                Expression::Sub(of.into(), from, to)
            }
            "match" => match self.next()? {
                Token::Text(pattern) => Expression::Match(of.into(), lua_pattern::compile(&pattern)?),
                _ => return Err("a pattern that is no literal".to_owned()),
            },
            "lower" => Expression::Lower(of.into()),
            "upper" => Expression::Upper(of.into()),
            _ => return Err(format!("the method `{name}`")),
        };
        self.expects(")")?;
        Ok(expression)
    }

    fn integer(&mut self) -> Result<i64, String> {
        let sign = if self.takes(&Token::Sign("-")) { -1 } else { 1 };
        match self.next()? {
            Token::Number(number) => Ok(sign * number),
            token => Err(shown(&token)),
        }
    }

    fn primary(&mut self) -> Read {
        Ok(match self.next()? {
            Token::Text(text) => Expression::Text(text),
            Token::Number(number) => Expression::Number(number),
            Token::Sign("-") => match self.next()? {
                Token::Number(number) => Expression::Number(-number),
                _ => return Err("`-`".to_owned()),
            },
            Token::Sign("(") => {
                let inner = self.or()?;
                self.expects(")")?;
                inner
            }
            Token::Name(name) => match name.as_str() {
                "nil" => Expression::Nil,
                "true" => Expression::Boolean(true),
                "false" => Expression::Boolean(false),
                "headers" => Expression::Root(Root::Headers),
                "query_params" => Expression::Root(Root::QueryParams),
                "uri_captures" => Expression::Root(Root::UriCaptures),
                "shared" => Expression::Root(Root::Shared),
                "type" | "tostring" => {
                    self.expects("(")?;
                    let inner = Box::new(self.or()?);
                    self.expects(")")?;
                    if name == "type" { Expression::Type(inner) } else { Expression::ToString(inner) }
                }
                _ => return Err(format!("`{name}`")),
            },
            token => return Err(shown(&token)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_subset_is_named() {
        for (text, words) in [
            ("10 * uri_captures.user1", "`*`"),
            ("shared.written = true", "`=`"),
            ("require('x')", "`require`"),
            ("string.sub(query_params.user, 1, 3)", "`string`"),
            ("headers.a:gsub('a', 'b')", "the method `gsub`"),
            ("headers.a:match(headers.b)", "no literal"),
            ("headers.a:match('%b()')", "`%b`"),
            ("headers.", "without its end"),
            ("headers.a b", "`b`"),
            ("(headers.a", "a missing `)`"),
            ("'a", "a string without its end"),
            ("", "without its end"),
            ("99999999999999999999", "too large"),
            ("'a'.b", "of a literal"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        let deep = format!("{}nil{}", "(".repeat(100), ")".repeat(100));
        assert!(parse(&deep).expect_err("deep").contains("too deeply"));
        for chain in
            ["not ".repeat(4000) + "nil", "nil or ".repeat(4000) + "nil", "headers".to_owned() + &".a".repeat(4000)]
        {
            assert!(parse(&chain).expect_err("long").contains("too long"));
        }
    }
}
