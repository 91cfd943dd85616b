//! What the gateway says of its edge, as the demo needs it: one place that knows the shape of `/edge` and
//! `/edge/why`.

use serde_json::Value;

/// The words of the reasons for which the edge drops, as they stand in the counters.
const DROPPING: [&str; 6] = ["gate", "drop", "deny", "packets", "bytes", "connections"];

/// One look at the edge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What carries the decisions out: native, generic, userspace.
    pub in_force: String,
    /// Packets that the kernel dropped so far.
    pub drops: u64,
    /// Connections that the gateway itself refused at accept so far.
    pub refused: u64,
    /// The rung of the abuser's address.
    pub rung: u64,
    /// The last decisions on it, oldest first: number and text.
    pub decisions: Vec<(u64, String)>,
}

impl View {
    /// Reads the two answers.
    #[must_use]
    pub fn new(edge: &Value, why: &Value) -> Self {
        let mode = &edge["mode"];
        let troubles: Vec<String> = mode["why"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|trouble| [&trouble["problem"], &trouble["detail"]].map(text).join(": "))
            .collect();
        let in_force = text(&mode["in_force"]);
        Self {
            in_force: if troubles.is_empty() { in_force } else { format!("{in_force} ({})", troubles.join("; ")) },
            drops: sum(&edge["packets"], |count| &count["packets"]),
            refused: sum(&edge["connections"], |count| count),
            rung: why["standing"]["rung"].as_u64().unwrap_or(0),
            decisions: why["decisions"].as_array().into_iter().flatten().rev().map(decision).collect(),
        }
    }
}

fn sum(counters: &Value, count: impl Fn(&Value) -> &Value) -> u64 {
    DROPPING.iter().filter_map(|reason| count(&counters[*reason]).as_u64()).sum()
}

fn decision(decision: &Value) -> (u64, String) {
    let line = format!(
        "rung {} ({}): {} offences, the last: {} on route {}, request {}",
        decision["rung"],
        text(&decision["name"]),
        decision["evidence"]["strikes"],
        text(&decision["plugin"]),
        text(&decision["route"]),
        text(&decision["request_id"]),
    );
    (decision["id"].as_u64().unwrap_or(0), line)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn drops_and_refusals_are_summed_and_what_passed_is_not() {
        let edge = json!({
            "mode": { "in_force": "native", "why": [] },
            "packets": { "clean": { "packets": 9, "bytes": 9 }, "gate": { "packets": 3, "bytes": 1 },
                         "drop": { "packets": 4, "bytes": 1 }, "shadow_gate": { "packets": 50, "bytes": 1 } },
            "connections": { "clean": 7, "connections": 2 },
        });
        let why = json!({
            "standing": { "rung": 4 },
            "decisions": [
                { "id": 3, "rung": 4, "name": "gated", "plugin": "key-auth", "route": "orders", "request_id": "r",
                  "evidence": { "strikes": 20 } },
                { "id": 2, "rung": 2, "name": "degraded", "evidence": { "strikes": 20 } },
            ],
        });
        let view = View::new(&edge, &why);
        assert_eq!((view.drops, view.refused, view.rung, view.in_force.as_str()), (7, 2, 4, "native"));
        let ids: Vec<u64> = view.decisions.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [2, 3]);
        assert_eq!(view.decisions[1].1, "rung 4 (gated): 20 offences, the last: key-auth on route orders, request r");
    }

    #[test]
    fn an_edge_that_says_nothing_is_shown_as_unknown() {
        let view = View::new(&Value::Null, &Value::Null);
        assert_eq!((view.drops, view.rung, view.in_force.as_str()), (0, 0, "unknown"));
    }
}
