//! Routes by expression beside the table of fields. In a mixed configuration expressions come first (Kong sets the top
//! byte of their priority), then the table. Pure.

use super::expression::{Expression, View};
use super::table::{Found, Router};

/// A route that an expression describes.
#[derive(Debug)]
pub struct Rule {
    route: usize,
    expression: Expression,
    /// Bits of the route's protocols: 1 http, 2 https, 4 grpc, 8 grpcs.
    protocols: u8,
    priority: u64,
    uuid: u128,
}

impl Rule {
    /// A rule; `route` is its place in the list of routes, `uuid` decides among equal priorities.
    #[must_use]
    pub fn new(route: usize, expression: Expression, protocols: u8, priority: u64, uuid: u128) -> Self {
        Rule { route, expression, protocols, priority, uuid }
    }

    /// Whether the scheme fits. A route for https alone takes http too, so that it can be redirected.
    fn takes(&self, protocol: &str) -> bool {
        let plain = protocol == "http";
        self.protocols == 2 || self.protocols & if plain { 0b0101 } else { 0b1010 } != 0
    }

    fn find(&self, view: &View<'_>) -> Option<Found> {
        let hit = self.takes(view.protocol).then(|| self.expression.matches(view)).flatten()?;
        Some(Found { route: self.route, matched: hit.matched, captures: hit.captures })
    }
}

/// All routes.
#[derive(Default)]
pub struct Routes {
    /// Highest priority first.
    rules: Vec<Rule>,
    table: Router,
    /// The route of each place in the table; empty when they are the same.
    of_table: Vec<usize>,
}

impl Routes {
    /// `of_table` tells for each place of the table which route it is.
    #[must_use]
    pub fn new(mut rules: Vec<Rule>, table: Router, of_table: Vec<usize>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse((rule.priority, rule.uuid)));
        let of_table = if rules.is_empty() { Vec::new() } else { of_table };
        Routes { rules, table, of_table }
    }

    /// The route of a request.
    #[must_use]
    pub fn find(&self, view: &View<'_>) -> Option<Found> {
        if let Some(found) = self.rules.iter().find_map(|rule| rule.find(view)) {
            return Some(found);
        }
        let mut found = self.table.find(view.facts)?;
        if let Some(route) = self.of_table.get(found.route) {
            found.route = *route;
        }
        Some(found)
    }

    /// Whether the expression of a route fits a request; `None` for a route without one.
    #[must_use]
    pub fn fits(&self, route: usize, view: &View<'_>) -> Option<bool> {
        self.rules.iter().find(|rule| rule.route == route).map(|rule| rule.find(view).is_some())
    }

    /// The priority of a route's expression.
    #[must_use]
    pub fn priority(&self, route: usize) -> Option<u64> {
        self.rules.iter().find(|rule| rule.route == route).map(|rule| rule.priority)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::{Facts, Matchers};
    use super::*;

    #[test]
    fn expressions_come_before_fields_and_among_themselves_by_priority() {
        let rule = |route, text, protocols, priority| {
            Rule::new(route, Expression::parse(text).expect("expression"), protocols, priority, route as u128)
        };
        let table = Router::new(vec![Matchers { prefixes: vec!["/".into()], ..Matchers::default() }]);
        let rules = vec![
            rule(0, "http.path ^= \"/a\"", 3, 1),
            rule(2, "http.path ^= \"/a/b\"", 3, 9),
            rule(3, "http.path ^= \"/s\"", 2, 0),
            rule(4, "http.path ^= \"/t\"", 10, 0),
        ];
        let routes = Routes::new(rules, table, vec![1]);
        let find = |path| {
            let facts =
                Facts { method: &Method::GET, host: "x", port: 80, path, headers: &HeaderMap::new(), sni: None };
            let (source, destination) = ("127.0.0.1:1".parse().expect("address"), [127, 0, 0, 1].into());
            routes
                .find(&View { facts: &facts, protocol: "http", query: None, source, destination })
                .map(|found| found.route)
        };
        assert_eq!(find("/a/b"), Some(2));
        assert_eq!(find("/a/c"), Some(0));
        assert_eq!(find("/x"), Some(1));
        assert_eq!(find("/s"), Some(3), "taken, so that it can be redirected");
        assert_eq!(find("/t"), Some(1));
    }
}
