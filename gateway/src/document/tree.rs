//! A configuration file as a tree of values that know where they stand. YAML and JSON alike; nothing here knows Kong.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A place in one of the files, line and column counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file, in the order in which they were given.
    pub file: u16,
    /// Line, from 1; 0 when the place is not known (a value that no file holds).
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// One value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value begins.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// The value of a node, as typed in the file.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing at all.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number with a fraction or exponent, or beyond 64 bits.
    Float(f64),
    /// A string.
    Str(String),
    /// A sequence.
    Seq(Vec<Node>),
    /// A mapping in file order; a key that stands twice keeps its last value, as Kong's reader does.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where the key begins.
    pub place: Place,
    /// The key's text.
    pub name: String,
}

impl Node {
    /// What the value is called in an error message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Str(_) => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The member of a mapping.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.name == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The member of a mapping, unless it is `null`.
    #[must_use]
    pub fn some(&self, name: &str) -> Option<&Node> {
        self.member(name).filter(|node| !matches!(node.value, Value::Null))
    }

    /// The member of a mapping, to be changed.
    pub fn member_mut(&mut self, name: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|(k, _)| k.name == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list; none for anything else.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    /// The entries of a mapping; none for anything else.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Adds a member to a mapping, at its place.
    pub fn insert(&mut self, name: &str, value: Value) {
        let place = self.place;
        if let Value::Map(entries) = &mut self.value {
            entries.push((Key { place, name: name.to_owned() }, Node { place, value }));
        }
    }

    /// Calls `each` for every node, parents first.
    pub fn walk_mut(&mut self, each: &mut impl FnMut(&mut Node)) {
        each(self);
        match &mut self.value {
            Value::Seq(items) => items.iter_mut().for_each(|item| item.walk_mut(each)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| value.walk_mut(each)),
            _ => {}
        }
    }

    fn belongs_to(&mut self, file: u16) {
        self.walk_mut(&mut |node| {
            node.place.file = file;
            if let Value::Map(entries) = &mut node.value {
                entries.iter_mut().for_each(|(key, _)| key.place.file = file);
            }
        });
    }

    /// The same value as JSON, places dropped.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as J;
        match &self.value {
            Value::Null => J::Null,
            Value::Bool(b) => J::Bool(*b),
            Value::Int(i) => J::from(*i),
            Value::Float(f) => J::from(*f),
            Value::Str(s) => J::from(s.as_str()),
            Value::Seq(items) => J::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => J::Object(entries.iter().map(|(k, v)| (k.name.clone(), v.to_json())).collect()),
        }
    }
}

/// Reads the text of the file number `file`.
///
/// # Errors
/// See `parse`.
pub fn parse_file(text: &str, file: u16) -> Result<Node, (Place, String)> {
    let mut node = parse(text).map_err(|(place, words)| (Place { file, ..place }, words))?;
    if file != 0 {
        node.belongs_to(file);
    }
    Ok(node)
}

/// Reads a YAML or JSON text.
///
/// # Errors
/// The place and words of the first syntax error. Aliases that blow up, deep nesting and huge inputs are refused.
pub fn parse(text: &str) -> Result<Node, (Place, String)> {
    // Sized for 50,000 routes with plugins; the default budget of the library refuses those.
    let budget = serde_saphyr::budget! {
        max_events: 20_000_000,
        max_nodes: 4_000_000,
        // Deserialising nests on the stack, which a thread has 2 MiB of; no part of the format is half as deep.
        max_depth: 32,
        max_total_scalar_bytes: 256 << 20,
        // Anchors of real files hold a plugin's configuration; beyond this it is a bomb, told before it costs a second.
        max_recorded_anchor_events: 200_000,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        emit_comments: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_saphyr::from_str_with_options::<Node>(text, options).map_err(|e| {
        let place = e.location().map_or(Place { file: 0, line: 1, column: 1 }, place_of);
        let words = e.without_snippet().to_string();
        (place, words.lines().next().unwrap_or_default().to_owned())
    })
}

fn place_of(at: serde_saphyr::Location) -> Place {
    let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
    Place { file: 0, line: number(at.line()), column: number(at.column()) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { place: place_of(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Entries up to which a map is searched from end to end.
const SMALL_MAP: usize = 32;

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or(Value::Float(v as f64), Value::Int))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Str(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Str(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Seq(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        // Of a large map by name, so that a hostile one costs no quadratic time.
        let mut by_name: HashMap<String, usize> = HashMap::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value: Node = map.next_value()?;
            let key = Key { place: place_of(key.referenced), name: key.value };
            if entries.len() == SMALL_MAP {
                by_name = entries.iter().enumerate().map(|(i, (k, _))| (k.name.clone(), i)).collect();
            }
            let known = match entries.len() {
                0..SMALL_MAP => entries.iter().position(|(k, _)| k.name == key.name),
                _ => by_name.get(&key.name).copied(),
            };
            match known {
                Some(index) => entries[index] = (key, value),
                None => {
                    if entries.len() >= SMALL_MAP {
                        by_name.insert(key.name.clone(), entries.len());
                    }
                    entries.push((key, value));
                }
            }
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_one() {
        let tree = parse("a: 1\nb:\n  - x: yes\n    y: '2'\n").expect("parses");
        let b = tree.member("b").expect("b");
        let Value::Seq(items) = &b.value else { panic!("list") };
        assert_eq!(items[0].member("x").expect("x").place, Place { file: 0, line: 3, column: 8 });
        assert!(matches!(items[0].member("y").expect("y").value, Value::Str(_)));
        let json = parse("{\"a\": [1, {\"b\": null}]}").expect("parses");
        assert!(json.member("a").is_some());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let (place, words) = parse("a: [1, 2\nb: 3\n").expect_err("broken");
        assert!(place.line >= 1, "{place:?} {words}");
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let tree = parse("x: &x {a: 1}\ny:\n  <<: *x\n  b: 2\n").expect("parses");
        assert!(tree.member("y").and_then(|y| y.member("a")).is_some());
    }

    #[test]
    fn a_large_map_takes_time_in_proportion() {
        let text: String = (0..100_000).map(|i| format!("k{i}: 1\n")).collect();
        let begun = std::time::Instant::now();
        assert!(parse(&text).expect("parses").member("k99999").is_some());
        assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
        assert!(matches!(parse("a: 1\nb: 2\na: 3\n").expect("parses").member("a").expect("a").value, Value::Int(3)));
    }

    #[test]
    fn hostile_files_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")));
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
