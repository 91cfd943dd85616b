//! The control plane's handle of the edge, and its loop.

use std::{
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use gateway_common::Source;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    FleetPolicy, Identity, Metric, Notice, Policy, Reporter, Standings,
    control::Control,
    metrics, notice,
    report::{self, Desk, Inbox, OffenceTold, RecognisedTold},
    status,
};
use crate::clock::monotonic_ns;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Offences taken at once: between two batches the heart must beat.
const BATCH: usize = 256;
/// Tallies taken at once, for the same reason.
const GOODS_AT_ONCE: usize = 16_384;

/// The kernel edge, its ladder and its user-space twin.
pub struct Edge {
    desk: Arc<Desk>,
    standings: Arc<Standings>,
    control: Mutex<Control>,
    inbox: Mutex<Option<(Inbox, mpsc::Receiver<Source>)>>,
}

impl Edge {
    /// Puts the policy into force. What cannot be loaded or attached is logged and shown in the status, and the workers
    /// judge connections themselves: the gateway starts in any case.
    #[must_use]
    pub fn start(policy: Policy) -> Self {
        let (desk, inbox) = report::desk();
        let (standings, arrivals) = Standings::new(rand::random());
        let standings = Arc::new(standings);
        let control = Control::new(policy, desk.clone(), standings.clone(), rand::random());
        Self { desk, standings, control: Mutex::new(control), inbox: Mutex::new(Some((inbox, arrivals))) }
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

    /// The control loop: heartbeat, offences, expiry, events. When `shutdown` resolves, everything is detached. A second
    /// call while the first one runs only waits for its own `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let Some((mut inbox, mut arrivals)) = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return shutdown.await;
        };
        let mut shutdown = std::pin::pin!(shutdown);
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut offences = Vec::with_capacity(BATCH);
        let mut sources = Vec::with_capacity(BATCH);
        let mut told = Vec::with_capacity(BATCH);
        let mut recognised = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                _ = heartbeat.tick() => {
                    self.beat(&inbox);
                }
                _ = inbox.offences.recv_many(&mut offences, BATCH) => self.hear(&inbox, &mut offences),
                _ = inbox.recognised.recv_many(&mut recognised, BATCH) => self.recognise(&mut recognised),
                _ = arrivals.recv_many(&mut sources, BATCH) => self.greet(&mut sources),
                _ = inbox.notices.recv_many(&mut told, BATCH) => self.hear_others(&inbox, &mut told),
            }
        }
        self.stop();
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some((inbox, arrivals));
    }

    /// Takes a new policy. Verdicts, cells and what the ladder knows are kept; sizes change only with a restart.
    pub fn update(&self, policy: Policy) {
        self.control().apply(policy);
    }

    /// Passes everything at once (`true`), or goes back to work (`false`).
    pub fn kill_switch(&self, on: bool) {
        tracing::warn!(on, "kill switch of the edge");
        self.control().writer.kill(on);
    }

    /// Takes part in a fleet; what comes out is to be told to the other gateways.
    #[must_use]
    pub fn join(&self, bounds: FleetPolicy) -> mpsc::Receiver<Notice> {
        self.control().join(bounds)
    }

    /// Whether the other gateways can be reached now.
    pub fn link(&self, linked: bool) {
        self.control().link(linked, monotonic_ns());
    }

    /// What another gateway tells. Full means counted, not waited for.
    pub fn hear_fleet(&self, text: &[u8]) {
        if text.len() > notice::BYTES_MAX || self.desk.notices.try_send(text.into()).is_err() {
            self.desk.lost_notices.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sets a source free, here and at the other gateways; whether it stood under a verdict here.
    pub fn lift(&self, ip: IpAddr) -> bool {
        self.control().lift(ip, monotonic_ns())
    }

    /// What is wanted, what is in force, and what was decided.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        status::status(&self.control(), monotonic_ns())
    }

    /// What is known of one address, also if it is nothing.
    #[must_use]
    pub fn why(&self, ip: IpAddr) -> serde_json::Value {
        status::why(&self.control(), ip, monotonic_ns())
    }

    /// What is known of a consumer: what it was sent, and the addresses at which one of its identities was seen lately.
    #[must_use]
    pub fn why_consumer(&self, consumer: u128, identities: &[Identity]) -> serde_json::Value {
        status::why_consumer(&self.control(), consumer, identities, monotonic_ns())
    }

    /// The edge's metrics.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        metrics::metrics(&self.control())
    }

    fn beat(&self, inbox: &Inbox) {
        let mut control = self.control();
        for told in inbox.goods.try_iter().take(GOODS_AT_ONCE) {
            control.hear_good(&told);
        }
        control.tick(monotonic_ns());
    }

    /// Good answers first: they may speak for somebody whom the next offence would cut off.
    fn hear(&self, inbox: &Inbox, offences: &mut Vec<OffenceTold>) {
        let mut control = self.control();
        for told in inbox.goods.try_iter().take(GOODS_AT_ONCE) {
            control.hear_good(&told);
        }
        for told in offences.drain(..) {
            control.hear_offence(&told, rand::random());
        }
    }

    fn hear_others(&self, inbox: &Inbox, told: &mut Vec<Box<[u8]>>) {
        let mut control = self.control();
        for good in inbox.goods.try_iter().take(GOODS_AT_ONCE) {
            control.hear_good(&good);
        }
        let now_ns = monotonic_ns();
        for text in told.drain(..) {
            control.hear_fleet(&text, now_ns);
        }
    }

    fn recognise(&self, recognised: &mut Vec<RecognisedTold>) {
        let mut control = self.control();
        for told in recognised.drain(..) {
            control.writer.recognise(told.flow, told.consumer);
        }
    }

    fn greet(&self, sources: &mut Vec<Source>) {
        let mut control = self.control();
        let now_ns = monotonic_ns();
        for source in sources.drain(..) {
            control.hear_arrival(source, now_ns);
        }
    }

    fn stop(&self) {
        self.control().stop();
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // A panic in between leaves at worst one operation undone, which the next sweep repairs.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
