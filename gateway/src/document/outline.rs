//! What a reader asks of a mapping, written down while it reads nothing: the readers themselves are the schema. This room
//! must not know what the schema is for.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;

/// The kind of value that was asked for.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Anything: the reader looks at the node itself.
    Any,
    /// A string.
    Text,
    /// A boolean.
    Boolean,
    /// An integer within a range.
    Integer(RangeInclusive<i64>),
    /// A number within a range.
    Number(RangeInclusive<f64>),
    /// One of the words.
    OneOf(Vec<String>),
    /// A list.
    List,
    /// A list of strings.
    Texts,
    /// Seconds, or a number with its unit.
    Duration,
    /// A nested mapping.
    Map(Rc<Outline>),
}

/// One field of an outline.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its name.
    pub name: String,
    /// What is expected.
    pub shape: Shape,
    /// Whether a reader insists on it.
    pub required: bool,
}

/// The fields of one mapping in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Outline(RefCell<Vec<Asked>>);

impl Outline {
    /// The fields so far.
    #[must_use]
    pub fn fields(&self) -> Vec<Asked> {
        self.0.borrow().clone()
    }

    pub(super) fn note(&self, name: &str, shape: Shape) {
        let mut fields = self.0.borrow_mut();
        match fields.iter_mut().find(|asked| asked.name == name) {
            // A typed question says more than a look at the node.
            Some(asked) if matches!(asked.shape, Shape::Any) => asked.shape = shape,
            Some(_) => {}
            None => fields.push(Asked { name: name.to_owned(), shape, required: false }),
        }
    }

    pub(super) fn require(&self, name: &str) {
        self.note(name, Shape::Any);
        if let Some(asked) = self.0.borrow_mut().iter_mut().find(|asked| asked.name == name) {
            asked.required = true;
        }
    }

    /// The outline of a nested mapping; the same one each time.
    pub(super) fn nested(&self, name: &str) -> Rc<Outline> {
        let known = self.0.borrow().iter().find_map(|asked| match &asked.shape {
            Shape::Map(outline) if asked.name == name => Some(Rc::clone(outline)),
            _ => None,
        });
        known.unwrap_or_else(|| {
            let outline = Rc::new(Outline::default());
            self.note(name, Shape::Map(Rc::clone(&outline)));
            outline
        })
    }
}
