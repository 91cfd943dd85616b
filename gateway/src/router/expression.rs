//! Kong's routing expressions: the text as a tree that is typed and complete before a request comes. Pure; must not know
//! routes or the order among them.

mod eval;
mod field;
mod parse;

use ipnet::IpNet;
use regex::Regex;

pub use eval::{Hit, View};
use field::Field;

/// What is wrong with an expression.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, in characters from 0.
    pub at: usize,
    /// What.
    pub words: String,
    /// What would have been right.
    pub expected: &'static str,
}

/// A whole expression.
#[derive(Debug)]
pub struct Expression(Tree);

#[derive(Debug)]
enum Tree {
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Not(Box<Tree>),
    Test(Test),
}

/// One comparison.
#[derive(Debug)]
struct Test {
    field: Field,
    /// `lower()`.
    lower: bool,
    /// `any()`: one value of several is enough; else all must fit.
    any: bool,
    check: Check,
}

#[derive(Debug)]
enum Check {
    Equals(String),
    Differs(String),
    Matches(Regex),
    Begins(String),
    Ends(String),
    Contains(String),
    Number(Order, i64),
    /// Within the network; false: outside of it.
    Within(IpNet, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    Unequal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Expression {
    /// Reads an expression. `&&` and `||` bind equally and from the left, as in Kong's engine; parentheses decide.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        parse::whole(text).map(Expression)
    }

    /// Whether a request fits, and what its path matched.
    #[must_use]
    pub fn matches(&self, view: &View<'_>) -> Option<Hit> {
        let mut hit = Hit::default();
        eval::holds(&self.0, view, &mut hit).then_some(hit)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::Facts;
    use super::*;

    fn hit(expression: &str, path: &str, query: Option<&str>, headers: &[(&'static str, &str)]) -> Option<Hit> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("value"));
        }
        let facts =
            Facts { method: &Method::GET, host: "a.test", port: 8000, path, headers: &map, sni: Some("s.test") };
        let (source, destination) = ("10.1.2.3:4711".parse().expect("address"), "10.9.0.1".parse().expect("address"));
        let view = View { facts: &facts, protocol: "https", query, source, destination };
        Expression::parse(expression).unwrap_or_else(|e| panic!("{expression}: {e:?}")).matches(&view)
    }

    fn yes(expression: &str) -> bool {
        hit(expression, "/a/b/c", Some("q=1&q=2&one=x"), &[("x-foo", "Bar"), ("x-foo", "bar2")]).is_some()
    }

    #[test]
    fn fields_and_operators() {
        for holds in [
            r#"http.path == "/a/b/c""#,
            r#"http.path ^= "/a" && http.method == "GET""#,
            r#"http.path =^ "/c" && tls.sni == "s.test""#,
            r##"http.path ~ r#"^/a/\w/c$"#"##,
            r#"http.path contains "/b/""#,
            r#"net.protocol == "https" && http.host == "a.test""#,
            r#"http.path.segments.len == 3 && http.path.segments.0 == "a" && http.path.segments.1_2 == "b/c""#,
            r#"any(http.headers.x_foo) == "Bar""#,
            r#"lower(http.headers.x_foo) ^= "bar""#,
            r#"any(lower(http.headers.x_foo)) == "bar""#,
            r#"any(http.queries.q) == "2" && http.queries.one == "x""#,
            r#"net.src.ip in 10.0.0.0/8 && net.src.ip not in 10.2.0.0/16 && net.src.ip == 10.1.2.3"#,
            r#"net.dst.ip == 10.9.0.1 && net.dst.ip not in 10.1.0.0/16"#,
            r#"net.src.port > 4000 && net.dst.port == 8000 && net.src.port <= 0x1267"#,
            r#"!(http.method == "POST")"#,
            r#"http.method == "POST" && http.path == "/" || http.host == "a.test""#,
            r#"http.path != "/x""#,
        ] {
            assert!(yes(holds), "{holds}");
        }
        for fails in [
            r#"http.headers.x_foo == "Bar""#,
            r#"http.headers.x_none != "x""#,
            r#"http.path.segments.7 == "x""#,
            r#"http.host == "a.test" || http.path == "/" && http.method == "POST""#,
            r#"http.queries.q == "1""#,
        ] {
            assert!(!yes(fails), "{fails}");
        }
    }

    #[test]
    fn the_path_that_matched_is_told() {
        assert_eq!(hit(r#"http.path ^= "/a/""#, "/a/b", None, &[]).map(|h| h.matched), Some(3));
        let found = hit(r##"http.path ~ r#"^/u/(?<id>\d+)"#"##, "/u/42/x", None, &[]).expect("fits");
        assert_eq!(found.matched, 5);
        assert_eq!(found.captures, vec![("1".into(), "42".into()), ("id".into(), "42".into())]);
    }

    #[test]
    fn mistakes_have_a_place() {
        for (text, at, word) in [
            ("http.pth == \"/\"", 0, "http.pth"),
            ("http.path = \"/\"", 10, "operator"),
            ("http.path == 1", 13, "text"),
            ("net.src.port == \"x\"", 16, "number"),
            ("http.path ~ \"(\"", 12, "regex"),
            ("(http.path == \"/\"", 17, ")"),
            ("http.path == \"/\" http", 17, "&&"),
            ("http.path == \"/", 13, "quote"),
            ("lower(net.src.port) == 1", 0, "lower"),
            ("net.src.ip in \"x\"", 14, "network"),
            ("", 0, "nothing"),
        ] {
            let mistake = Expression::parse(text).expect_err(text);
            assert_eq!(mistake.at, at, "{text}: {mistake:?}");
            assert!(format!("{} {}", mistake.words, mistake.expected).contains(word), "{text}: {mistake:?}");
        }
        assert!(Expression::parse(&"(".repeat(10_000)).is_err());
        let chain = |count: usize| vec![r#"http.path == "/""#; count].join(" || ");
        assert!(Expression::parse(&chain(1024)).is_ok());
        assert!(Expression::parse(&chain(1025)).is_err_and(|mistake| mistake.words.contains("too many")));
    }
}
