//! Typed questions to a mapping. Each answer that does not fit is reported with its place, and on drop every key that
//! nobody asked for is reported too, so that a reader lists its keys once and gets strictness for nothing.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::outline::{Outline, Shape};
use super::report::Report;
use super::tree::{Key, Node, Place, Value};

/// A mapping being read.
pub struct Fields<'a> {
    what: &'a str,
    place: Place,
    entries: &'a [(Key, Node)],
    asked: RefCell<Vec<&'a str>>,
    probe: Option<Probe>,
    /// Where to report.
    pub report: &'a Report,
}

/// Instead of a mapping: the reader's questions are noted down.
#[derive(Clone)]
struct Probe {
    outline: Rc<Outline>,
    /// Whether questions are answered with a value that fits, for readers that stop at what is absent.
    eager: bool,
}

impl<'a> Fields<'a> {
    /// Begins to read `node` as a mapping called `what` in messages; reports and returns nothing when it is none.
    pub fn of(node: &'a Node, what: &'a str, report: &'a Report) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Self::new(what, node.place, entries, None, report)),
            Value::Null => Some(Self::empty(node.place, what, report)),
            _ => {
                report.mismatch(node.place, format!("{what} is {}", node.kind()), "a map");
                None
            }
        }
    }

    /// A mapping without entries, for a `config` that the file leaves out.
    #[must_use]
    pub fn empty(place: Place, what: &'a str, report: &'a Report) -> Self {
        Self::new(what, place, &[], None, report)
    }

    fn new(what: &'a str, place: Place, entries: &'a [(Key, Node)], probe: Option<Probe>, report: &'a Report) -> Self {
        Fields { what, place, entries, asked: RefCell::default(), probe, report }
    }

    /// No mapping at all: what is asked goes into `outline`. `eager` answers with values that fit, else nothing is there.
    #[must_use]
    pub fn probe(outline: Rc<Outline>, eager: bool, what: &'a str, report: &'a Report) -> Self {
        Self::new(what, Place::default(), &[], Some(Probe { outline, eager }), report)
    }

    /// Notes a question; what an eager probe answers.
    fn note<T>(&self, name: &str, shape: impl FnOnce() -> Shape, sample: impl FnOnce() -> T) -> Option<T> {
        let probe = self.probe.as_ref()?;
        probe.outline.note(name, shape());
        probe.eager.then(sample)
    }

    /// Where the mapping begins.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The place of a key, or of the mapping when the key is absent.
    #[must_use]
    pub fn place_of(&self, name: &str) -> Place {
        self.entries.iter().find(|(k, _)| k.name == name).map_or(self.place, |(k, _)| k.place)
    }

    /// The raw value; `null` is the same as absent (Kong's rule).
    pub fn node(&self, name: &'a str) -> Option<&'a Node> {
        self.note(name, || Shape::Any, || ());
        self.raw(name)
    }

    fn raw(&self, name: &'a str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(name);
        let (_, node) = self.entries.iter().find(|(k, _)| k.name == name)?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Marks a key as known without reading it.
    pub fn skip(&self, name: &'a str) {
        self.note(name, || Shape::Any, || ());
        self.asked.borrow_mut().push(name);
    }

    /// Whether the key is given, `null` included.
    #[must_use]
    pub fn given(&self, name: &str) -> bool {
        self.entries.iter().any(|(k, _)| k.name == name)
    }

    /// All entries whose keys the caller treats itself.
    pub fn all(&self) -> &'a [(Key, Node)] {
        let mut asked = self.asked.borrow_mut();
        asked.extend(self.entries.iter().map(|(k, _)| k.name.as_str()));
        self.entries
    }

    fn wrong<T>(&self, name: &str, node: &Node, expected: impl Into<String>) -> Option<T> {
        self.report.mismatch(node.place, format!("`{name}` is {}", shown(node)), expected);
        None
    }

    /// A string.
    pub fn string(&self, name: &'a str) -> Option<String> {
        if let Some(sample) = self.note(name, || Shape::Text, || "/probe".to_owned()) {
            return Some(sample);
        }
        let node = self.raw(name)?;
        match &node.value {
            Value::Str(s) => Some(s.clone()),
            _ => self.wrong(name, node, "a string"),
        }
    }

    /// A string among which `off` has a meaning; YAML 1.1 reads a bare `off` as false.
    pub fn string_or_off(&self, name: &'a str) -> Option<String> {
        self.note(name, || Shape::Text, || ());
        match self.raw(name)?.value {
            Value::Bool(false) => Some("off".to_owned()),
            _ => self.string(name),
        }
    }

    /// A string that must be given.
    pub fn required_string(&self, name: &'a str) -> Option<String> {
        self.require(name);
        self.string(name)
    }

    /// Reports an absent key.
    pub fn require(&self, name: &str) -> bool {
        if let Some(probe) = &self.probe {
            probe.outline.require(name);
            return probe.eager;
        }
        let there = self.entries.iter().any(|(k, v)| k.name == name && !matches!(v.value, Value::Null));
        if !there {
            self.report.error(self.place, format!("{} lacks the required field `{name}`", self.what));
        }
        there
    }

    /// A boolean.
    pub fn boolean(&self, name: &'a str) -> Option<bool> {
        if let Some(sample) = self.note(name, || Shape::Boolean, || true) {
            return Some(sample);
        }
        let node = self.raw(name)?;
        match node.value {
            Value::Bool(b) => Some(b),
            _ => self.wrong(name, node, "true or false"),
        }
    }

    /// An integer within `range`.
    pub fn integer(&self, name: &'a str, range: RangeInclusive<i64>) -> Option<i64> {
        if let Some(sample) =
            self.note(name, || Shape::Integer(range.clone()), || 1.clamp(*range.start(), *range.end()))
        {
            return Some(sample);
        }
        let node = self.raw(name)?;
        let expected = || format!("an integer from {} to {}", range.start(), range.end());
        match node.value {
            Value::Int(i) if range.contains(&i) => Some(i),
            // Kong's Lua has one number type: 60.0 is an integer there.
            Value::Float(f) if f.fract() == 0.0 && range.contains(&(f as i64)) => Some(f as i64),
            _ => self.wrong(name, node, expected()),
        }
    }

    /// A number within `range`.
    pub fn number(&self, name: &'a str, range: RangeInclusive<f64>) -> Option<f64> {
        if let Some(sample) =
            self.note(name, || Shape::Number(range.clone()), || 1_f64.clamp(*range.start(), *range.end()))
        {
            return Some(sample);
        }
        let node = self.raw(name)?;
        let value = match node.value {
            Value::Int(i) => i as f64,
            Value::Float(f) => f,
            _ => return self.wrong(name, node, "a number"),
        };
        if range.contains(&value) {
            return Some(value);
        }
        self.wrong(name, node, format!("a number from {} to {}", range.start(), range.end()))
    }

    /// One of the named choices.
    pub fn choice<T: Copy>(&self, name: &'a str, choices: &[(&str, T)]) -> Option<T> {
        let words = || Shape::OneOf(choices.iter().map(|(n, _)| (*n).to_owned()).collect());
        if let Some(sample) = self.note(name, words, || choices.first().map(|(_, value)| *value)) {
            return sample;
        }
        let node = self.raw(name)?;
        let names: Vec<&str> = choices.iter().map(|(n, _)| *n).collect();
        if let Value::Str(s) = &node.value {
            if let Some((_, value)) = choices.iter().find(|(n, _)| n == s) {
                return Some(*value);
            }
            self.report.unknown(node.place, format!("`{name}` is `{s}`"), s, &names);
            return None;
        }
        self.wrong(name, node, format!("one of {}", names.join(", ")))
    }

    /// A list; a single value is refused, as Kong does.
    pub fn list(&self, name: &'a str) -> Option<&'a [Node]> {
        if let Some(sample) = self.note(name, || Shape::List, || [].as_slice()) {
            return Some(sample);
        }
        let node = self.raw(name)?;
        match &node.value {
            Value::Seq(items) => Some(items),
            // An empty map is how Lua tools write an empty list.
            Value::Map(entries) if entries.is_empty() => Some(&[]),
            _ => self.wrong(name, node, "a list"),
        }
    }

    /// A list of strings with their places.
    pub fn strings(&self, name: &'a str) -> Option<Vec<(Place, String)>> {
        if let Some(sample) = self.note(name, || Shape::Texts, Vec::new) {
            return Some(sample);
        }
        let items = self.list(name)?;
        let mut strings = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Str(s) => strings.push((item.place, s.clone())),
                _ => {
                    let _: Option<()> = self.wrong(name, item, "a list of strings");
                }
            }
        }
        Some(strings)
    }

    /// A nested mapping.
    pub fn fields(&self, name: &'a str) -> Option<Fields<'a>> {
        if let Some(probe) = &self.probe {
            return Some(Self::probe(probe.outline.nested(name), probe.eager, name, self.report));
        }
        Fields::of(self.raw(name)?, name, self.report)
    }

    /// A duration: seconds as a number, or a string such as `250ms`, `10s`, `5m`, `1h`.
    pub fn duration(&self, name: &'a str) -> Option<std::time::Duration> {
        if let Some(sample) = self.note(name, || Shape::Duration, || std::time::Duration::from_secs(1)) {
            return Some(sample);
        }
        let node = self.raw(name)?;
        let parsed = match &node.value {
            Value::Int(i) => u64::try_from(*i).ok().map(std::time::Duration::from_secs),
            Value::Float(f) => std::time::Duration::try_from_secs_f64(*f).ok(),
            Value::Str(s) => duration_of(s),
            _ => None,
        };
        parsed
            .filter(|d| d.as_secs() <= 366 * 86_400)
            .or_else(|| self.wrong(name, node, "a duration such as 250ms, 10s, 5m, 1h"))
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        self.report.remember(self.what, &asked);
        for (key, _) in self.entries {
            if !asked.contains(&key.name.as_str()) {
                let message = format!("unknown field `{}` in {}", key.name, self.what);
                self.report.unknown(key.place, message, &key.name, &asked);
            }
        }
    }
}

fn duration_of(text: &str) -> Option<std::time::Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let amount: f64 = digits.trim().parse().ok()?;
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    std::time::Duration::try_from_secs_f64(amount * unit).ok()
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::Int(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Bool(b) => b.to_string(),
        // A string may be a secret: its text is not repeated.
        _ => node.kind().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    #[test]
    fn every_error_is_collected_with_its_place() {
        let tree = parse("port: '80'\nretrys: 3\nname: 7\n").expect("parses");
        let report = Report::new("k.yml", false);
        {
            let f = Fields::of(&tree, "service", &report).expect("map");
            f.integer("port", 0..=65535);
            f.integer("retries", 0..=10);
            f.string("name");
        }
        let text = report.to_string();
        assert!(text.contains("k.yml:1:7: error: `port` is a string"), "{text}");
        assert!(text.contains("k.yml:2:1: error: unknown field `retrys`"), "{text}");
        assert!(text.contains("did you mean `retries`?"), "{text}");
        assert!(text.contains("k.yml:3:7: error: `name` is 7"), "{text}");
    }

    #[test]
    fn durations_take_units() {
        assert_eq!(duration_of("250ms"), Some(std::time::Duration::from_millis(250)));
        assert_eq!(duration_of("1h"), Some(std::time::Duration::from_secs(3600)));
        assert_eq!(duration_of("1 fortnight"), None);
    }
}
