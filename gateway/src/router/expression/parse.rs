//! Reads the text of an expression: one cursor, one function for each rule of the grammar. Every comparison is checked
//! against the type of its field here, so that nothing can fail later.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::RegexBuilder;

use super::field::{Field, Type};
use super::{Check, Mistake, Order, Test, Tree};

/// Parentheses within each other at most.
const DEPTH_MAX: usize = 64;
/// Comparisons of one expression at most: a chain of them is a tree as deep as it is long, which is walked by calls.
const TESTS_MAX: usize = 1024;

/// Operators, the longer ones first.
const OPERATORS: &[&str] = &["==", "!=", "^=", "=^", ">=", "<=", "~", ">", "<", "contains", "not in", "in"];

struct Cursor<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    /// Comparisons so far.
    tests: usize,
}

enum Literal {
    Text(String),
    Number(i64),
    Net(IpNet),
}

/// Reads a whole expression.
pub fn whole(text: &str) -> Result<Tree, Mistake> {
    let mut cursor = Cursor { text, at: 0, tests: 0 };
    let tree = cursor.expression(0)?;
    cursor.space();
    if cursor.at < text.len() {
        return Err(cursor.wrong("something follows", "`&&`, `||` or the end"));
    }
    Ok(tree)
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn wrong(&self, words: impl Into<String>, expected: &'static str) -> Mistake {
        self.wrong_at(self.at, words, expected)
    }

    fn wrong_at(&self, at: usize, words: impl Into<String>, expected: &'static str) -> Mistake {
        Mistake { at: self.text[..at].chars().count(), words: words.into(), expected }
    }

    fn expression(&mut self, depth: usize) -> Result<Tree, Mistake> {
        let mut tree = self.term(depth)?;
        loop {
            if self.eat("&&") {
                tree = Tree::And(Box::new(tree), Box::new(self.term(depth)?));
            } else if self.eat("||") {
                tree = Tree::Or(Box::new(tree), Box::new(self.term(depth)?));
            } else {
                return Ok(tree);
            }
        }
    }

    fn term(&mut self, depth: usize) -> Result<Tree, Mistake> {
        self.space();
        if depth > DEPTH_MAX {
            return Err(self.wrong("parentheses are nested too deeply", "fewer of them"));
        }
        let start = self.at;
        let not = self.rest().starts_with('!');
        if not {
            self.at += 1;
        }
        if !self.eat("(") {
            self.at = start;
            self.tests += 1;
            if self.tests > TESTS_MAX {
                return Err(self.wrong("there are too many comparisons", "at most 1024 of them"));
            }
            return if not {
                Err(self.wrong("`!` without parentheses", "`!( … )`"))
            } else {
                self.test().map(Tree::Test)
            };
        }
        let inner = self.expression(depth + 1)?;
        if !self.eat(")") {
            return Err(self.wrong("a parenthesis is not closed", "`)`"));
        }
        Ok(if not { Tree::Not(Box::new(inner)) } else { inner })
    }

    fn word(&mut self) -> &'a str {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// `field`, `lower(field)`, `any(field)`, nested as one likes.
    fn field(&mut self) -> Result<(Field, bool, bool), Mistake> {
        self.space();
        let start = self.at;
        let (mut lower, mut any, mut open) = (false, false, 0);
        loop {
            self.space();
            let at = self.at;
            let name = self.word();
            if name.is_empty() {
                let words = if self.rest().is_empty() { "there is nothing" } else { "no field" };
                return Err(self.wrong(words, "a field such as http.path"));
            }
            if open < 2 && self.eat("(") {
                match name {
                    "lower" => lower = true,
                    "any" => any = true,
                    other => return Err(self.wrong_at(at, format!("unknown function `{other}`"), "`lower` or `any`")),
                }
                open += 1;
                continue;
            }
            let Some(field) = Field::of(name) else {
                return Err(self.wrong_at(
                    at,
                    format!("unknown field `{name}`"),
                    "net.protocol, tls.sni, http.method, http.host, http.path, http.path.segments.…, http.headers.…, \
                     http.queries.…, net.src.ip, net.src.port, net.dst.port",
                ));
            };
            for _ in 0..open {
                if !self.eat(")") {
                    return Err(self.wrong("a parenthesis is not closed", "`)`"));
                }
            }
            if lower && field.holds() != Type::Text {
                return Err(self.wrong_at(start, format!("`lower` of `{name}`"), "a field that holds text"));
            }
            return Ok((field, lower, any));
        }
    }

    fn operator(&mut self) -> Result<&'static str, Mistake> {
        self.space();
        // `not in` may have any space between.
        if let Some(rest) = self.rest().strip_prefix("not")
            && rest.starts_with(char::is_whitespace)
            && rest.trim_start().starts_with("in")
        {
            self.at = self.text.len() - rest.trim_start().len() + 2;
            return Ok("not in");
        }
        let found = OPERATORS.iter().find(|op| self.rest().starts_with(**op));
        match found {
            Some(op) => {
                self.at += op.len();
                Ok(op)
            }
            None => Err(self.wrong("no operator", "==, !=, ~, ^=, =^, >, >=, <, <=, in, not in or contains")),
        }
    }

    fn test(&mut self) -> Result<Test, Mistake> {
        let (field, lower, any) = self.field()?;
        let operator = self.operator()?;
        self.space();
        let at = self.at;
        let literal = self.literal()?;
        let check = self.check(&field, operator, literal, at)?;
        Ok(Test { field, lower, any, check })
    }

    fn check(&self, field: &Field, operator: &str, literal: Literal, at: usize) -> Result<Check, Mistake> {
        let misfit = |expected| Err(self.wrong_at(at, format!("`{operator}` does not fit"), expected));
        Ok(match (field.holds(), operator, literal) {
            (Type::Text, "==", Literal::Text(text)) => Check::Equals(text),
            (Type::Text, "!=", Literal::Text(text)) => Check::Differs(text),
            (Type::Text, "^=", Literal::Text(text)) => Check::Begins(text),
            (Type::Text, "=^", Literal::Text(text)) => Check::Ends(text),
            (Type::Text, "contains", Literal::Text(text)) => Check::Contains(text),
            (Type::Text, "~", Literal::Text(text)) => {
                let built = RegexBuilder::new(&text).size_limit(1 << 20).dfa_size_limit(1 << 20).build();
                Check::Matches(built.map_err(|e| {
                    let words = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
                    self.wrong_at(at, format!("invalid regex: {words}"), "the syntax of Rust's regex crate")
                })?)
            }
            (Type::Number, _, Literal::Number(number)) => match order(operator) {
                Some(order) => Check::Number(order, number),
                None => return misfit("==, !=, >, >=, <, <= for a number"),
            },
            (Type::Ip, "in" | "==", Literal::Net(net)) => Check::Within(net, true),
            (Type::Ip, "not in" | "!=", Literal::Net(net)) => Check::Within(net, false),
            (Type::Text, ..) => return misfit("==, !=, ~, ^=, =^, contains and a quoted text"),
            (Type::Number, ..) => return misfit("a number"),
            (Type::Ip, ..) => return misfit("==, != with an address, `in`, `not in` with a network"),
        })
    }

    fn literal(&mut self) -> Result<Literal, Mistake> {
        if self.rest().starts_with('"') {
            return self.quoted().map(Literal::Text);
        }
        if self.rest().starts_with("r#\"") {
            let inner = &self.rest()[3..];
            let Some(end) = inner.find("\"#") else { return Err(self.wrong("the quote does not end", "`\"#`")) };
            self.at += 3 + end + 2;
            return Ok(Literal::Text(inner[..end].to_owned()));
        }
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '.' | ':' | '/' | '-' | 'x'))
            .unwrap_or(rest.len());
        let word = &rest[..end];
        let literal = number(word).map(Literal::Number).or_else(|| {
            let net = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
            net.map(|net| Literal::Net(net.trunc()))
        });
        match literal {
            Some(literal) => {
                self.at += end;
                Ok(literal)
            }
            None => Err(self.wrong("no value", "a quoted text, a number, an address or a network")),
        }
    }

    fn quoted(&mut self) -> Result<String, Mistake> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    _ => {
                        let words = "unknown escape in a text";
                        return Err(self.wrong_at(start + at, words, "\\\", \\\\, \\n, \\r or \\t; r#\"…\"# has none"));
                    }
                },
                c => text.push(c),
            }
        }
        Err(self.wrong_at(start, "the quote does not end", "`\"`"))
    }
}

fn order(operator: &str) -> Option<Order> {
    Some(match operator {
        "==" => Order::Equal,
        "!=" => Order::Unequal,
        ">" => Order::Greater,
        ">=" => Order::GreaterOrEqual,
        "<" => Order::Less,
        "<=" => Order::LessOrEqual,
        _ => return None,
    })
}

/// Decimal, `0x` hexadecimal, or octal with a leading zero.
fn number(word: &str) -> Option<i64> {
    let (sign, digits) = word.strip_prefix('-').map_or((1, word), |digits| (-1, digits));
    let value = match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(&digits[1..], 8),
        None => digits.parse(),
    };
    value.ok().filter(|_| !digits.starts_with(['-', '+'])).map(|value| sign * value)
}
