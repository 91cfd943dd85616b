//! Kong's `prometheus`: says which families of metrics are kept for the requests that it sees. It must not count itself.

use std::sync::Arc;

use crate::document::Fields;
use crate::plugins::{Kind, MetricFlags, Plugin, Setup};

/// The kind.
pub const KIND: Kind = Kind { name: "prometheus", priority: 13, consumer_scope: true, compile };

struct Prometheus(MetricFlags);

impl Plugin for Prometheus {
    fn metrics(&self) -> Option<MetricFlags> {
        Some(self.0)
    }
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let flag = |name| fields.boolean(name).unwrap_or(false);
    for name in ["ai_metrics", "wasm_metrics"] {
        if flag(name) {
            fields.report.unsupported(fields.place_of(name), format!("prometheus `{name}`"), None);
        }
    }
    Some(Arc::new(Prometheus(MetricFlags {
        per_consumer: flag("per_consumer"),
        status_codes: flag("status_code_metrics"),
        latency: flag("latency_metrics"),
        bandwidth: flag("bandwidth_metrics"),
        upstream_health: flag("upstream_health_metrics"),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::fixture::{bad, good};

    #[test]
    fn flags_are_off_unless_switched_on() {
        assert_eq!(good(&KIND, "{}").metrics(), Some(MetricFlags::default()));
        let config = "{per_consumer: true, status_code_metrics: true, latency_metrics: true, bandwidth_metrics: true, \
                      upstream_health_metrics: true, ai_metrics: false}";
        let all = MetricFlags {
            per_consumer: true,
            status_codes: true,
            latency: true,
            bandwidth: true,
            upstream_health: true,
        };
        assert_eq!(good(&KIND, config).metrics(), Some(all));
    }

    #[test]
    fn faults_are_told() {
        assert!(bad(&KIND, "{ai_metrics: true}").contains("not yet supported: prometheus `ai_metrics`"));
        assert!(bad(&KIND, "{latency_metric: true}").contains("did you mean `latency_metrics`?"));
    }
}
