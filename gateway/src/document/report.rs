//! Everything that is wrong with a configuration, each with its place. Collecting never stops at the first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::tree::Place;

/// How much a problem weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot run.
    Error,
    /// Understood, but not built: an error unless the user allows to run the rest.
    Unsupported,
    /// Runs, with something to mend.
    Warning,
}

/// One thing to say about one place.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How much it weighs.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

/// The list of problems of one configuration.
#[derive(Debug)]
pub struct Report {
    files: Vec<String>,
    allow_unsupported: bool,
    problems: RefCell<Vec<Problem>>,
    /// For the test that the tables of fields are complete.
    asked: Option<RefCell<BTreeMap<String, BTreeSet<String>>>>,
}

impl Report {
    /// An empty report about `file`; with `allow_unsupported`, what is not built is only a warning.
    #[must_use]
    pub fn new(file: &str, allow_unsupported: bool) -> Self {
        Self::of_files(vec![file.to_owned()], allow_unsupported)
    }

    /// An empty report about several files, in the order in which `Place::file` counts them.
    #[must_use]
    pub fn of_files(files: Vec<String>, allow_unsupported: bool) -> Self {
        Report { files, allow_unsupported, problems: RefCell::default(), asked: None }
    }

    /// A report that also remembers which keys are asked of which kind of map.
    #[must_use]
    pub fn remembering(file: &str) -> Self {
        Report { asked: Some(RefCell::default()), ..Self::new(file, true) }
    }

    /// Kinds of maps with the keys that were asked of them; empty unless it remembers.
    #[must_use]
    pub fn asked(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.asked.as_ref().map(|asked| asked.borrow().clone()).unwrap_or_default()
    }

    pub(super) fn remember(&self, what: &str, names: &[&str]) {
        if let Some(asked) = &self.asked {
            let mut asked = asked.borrow_mut();
            asked.entry(what.to_owned()).or_default().extend(names.iter().map(|n| (*n).to_owned()));
        }
    }

    /// A place as a terminal makes it clickable.
    #[must_use]
    pub fn at(&self, place: Place) -> String {
        if place.line == 0 {
            // What no file holds: a variable of the environment.
            return self.file_of(place).to_owned();
        }
        format!("{}:{}:{}", self.file_of(place), place.line, place.column)
    }

    /// The file in which a place is.
    #[must_use]
    pub fn file_of(&self, place: Place) -> &str {
        self.files.get(usize::from(place.file)).map_or("", String::as_str)
    }

    /// Adds an error.
    pub fn error(&self, place: Place, message: impl Into<String>) {
        self.add(Problem { severity: Severity::Error, place, message: message.into(), expected: None, help: None });
    }

    /// Adds an error with the words of what was expected.
    pub fn mismatch(&self, place: Place, message: impl Into<String>, expected: impl Into<String>) {
        self.add(Problem {
            severity: Severity::Error,
            place,
            message: message.into(),
            expected: Some(expected.into()),
            help: None,
        });
    }

    /// Adds something that is understood and not built.
    pub fn unsupported(&self, place: Place, message: impl Into<String>, help: Option<&str>) {
        let severity = if self.allow_unsupported { Severity::Warning } else { Severity::Unsupported };
        let help = help.map_or("`--allow-unsupported` runs the rest".to_owned(), str::to_owned);
        self.add(Problem { severity, place, message: message.into(), expected: None, help: Some(help) });
    }

    /// Adds a warning.
    pub fn warn(&self, place: Place, message: impl Into<String>) {
        self.add(Problem { severity: Severity::Warning, place, message: message.into(), expected: None, help: None });
    }

    /// Adds an error for a name that is not known, with the nearest of the known ones.
    pub fn unknown(&self, place: Place, message: String, name: &str, known: &[&str]) {
        let help = nearest(name, known).map(|n| format!("did you mean `{n}`?"));
        let expected = (help.is_none() && !known.is_empty() && known.len() <= 24).then(|| known.join(", "));
        self.add(Problem { severity: Severity::Error, place, message, expected, help });
    }

    /// Adds a problem.
    pub fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Whether the configuration must not run.
    #[must_use]
    pub fn fatal(&self) -> bool {
        self.problems.borrow().iter().any(|p| p.severity != Severity::Warning)
    }

    /// The problems in file order.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.borrow().clone();
        problems.sort_by_key(|p| p.place);
        problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for p in self.problems() {
            let weight = match p.severity {
                Severity::Error => "error",
                Severity::Unsupported => "error: not yet supported",
                Severity::Warning => "warning",
            };
            writeln!(f, "{}: {weight}: {}", self.at(p.place), p.message)?;
            if let Some(expected) = &p.expected {
                writeln!(f, "  expected: {expected}")?;
            }
            if let Some(help) = &p.help {
                writeln!(f, "  help: {help}")?;
            }
        }
        Ok(())
    }
}

/// The known name that was most likely meant.
#[must_use]
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), *k))
        .filter(|(distance, k)| *distance <= 1 + k.len().max(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}
