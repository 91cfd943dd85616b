//! A configuration text as a tree with places (`tree`), a reader that asks for typed fields (`read`), what readers ask
//! (`outline`) and the list of what is wrong (`report`). This room knows YAML and error messages; it must not know Kong
//! or the gateway.

pub mod outline;
pub mod read;
pub mod report;
pub mod tree;

pub use outline::{Outline, Shape};
pub use read::Fields;
pub use report::{Problem, Report, Severity};
pub use tree::{Key, Node, Place, Value};
