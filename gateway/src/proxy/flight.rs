//! One request in the air: the exchange, who serves it, and what happened so far. Dropping it ends it: outcome told, record
//! written, counted. It is dropped when the answer's last byte has left, or when the client went away before.

use std::cell::Cell;
use std::rc::Rc;

use http::{HeaderMap, Method, StatusCode};

use super::exchange::{Exchange, Outcome};
use super::presence::Serving;
use super::registry::Registered;
use super::report;
use super::worker::{Local, REVOKED, Worker};
use crate::clock;
use crate::config::snapshot::{Chain, Protocols, Route, Slot};
use crate::plugins::Plugin;
use crate::telemetry::access;
use crate::telemetry::metrics::Sample;
use crate::telemetry::record::{Record, Try};
use crate::upstreams::member::Ride;

/// A request in the air.
pub struct Flight {
    /// Who serves it.
    pub worker: Rc<Worker>,
    /// The configuration that it began with, kept to its end.
    pub local: Rc<Local>,
    /// The request.
    pub exchange: Exchange,
    /// Place of the matched route.
    pub route: Option<usize>,
    /// Slots of the chain whose `on_request` continued.
    ran: u64,
    /// Of those, the ones that ran a consumer's own instance.
    own: u64,
    outcome_told: bool,
    /// Attempts at the upstream.
    pub tries: smallvec::SmallVec<[Try; 1]>,
    /// When the upstream was asked, monotonic nanoseconds.
    pub asked_ns: Option<u64>,
    /// When its head came.
    pub answered_ns: Option<u64>,
    /// Its status.
    pub upstream_status: Option<StatusCode>,
    /// Status sent to the client.
    pub status: Option<StatusCode>,
    /// Why the gateway answered itself.
    pub reason: Option<&'static str>,
    /// Headers sent, kept only when a log plugin wants them.
    pub sent_headers: Option<Box<HeaderMap>>,
    /// Body bytes sent to the client.
    pub sent_bytes: u64,
    /// Body bytes taken from the client.
    pub taken_bytes: u64,
    /// Bytes of the body that are held in memory, counted against the process's room.
    pub held_bytes: Cell<u64>,
    /// Whether the answer ended before it was complete.
    pub aborted: bool,
    /// Whether the source is degraded.
    pub suspect: bool,
    /// Whether this request counts as one of the source's turns.
    pub holds_turn: bool,
    /// Keeps the target's count of requests until the answer is over.
    pub ride: Option<Ride>,
    /// The connection is busy as long as this flight lives.
    serving: Serving,
    /// The connection over which it came.
    pub connection: Rc<Registered>,
}

impl Flight {
    /// A request that begins.
    #[must_use]
    #[inline]
    pub fn new(
        worker: Rc<Worker>,
        local: Rc<Local>,
        exchange: Exchange,
        serving: Serving,
        connection: Rc<Registered>,
    ) -> Self {
        Flight {
            worker,
            local,
            exchange,
            route: None,
            ran: 0,
            own: 0,
            outcome_told: false,
            tries: smallvec::SmallVec::new(),
            asked_ns: None,
            answered_ns: None,
            upstream_status: None,
            status: None,
            reason: None,
            sent_headers: None,
            sent_bytes: 0,
            taken_bytes: 0,
            held_bytes: Cell::new(0),
            aborted: false,
            suspect: false,
            holds_turn: false,
            ride: None,
            serving,
            connection,
        }
    }

    /// The matched route.
    #[must_use]
    pub fn matched(&self) -> Option<&Route> {
        self.route.and_then(|r| self.local.snapshot.routes.get(r))
    }

    /// The plugins of the request: its route's, or those that hold everywhere.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        self.matched().map_or(&self.local.snapshot.unmatched, |r| &r.chain)
    }

    /// Whether the answer has no body by its nature.
    #[must_use]
    pub fn head_only(&self) -> bool {
        self.exchange.request.method == Method::HEAD
    }

    /// The protocol that plugins see.
    #[must_use]
    pub fn protocol(&self) -> Protocols {
        let grpc = self.matched().is_some_and(|route| route.protocols.has(Protocols::ALL_GRPC));
        match (grpc, self.exchange.client.tls) {
            (false, false) => Protocols::HTTP,
            (false, true) => Protocols::HTTPS,
            (true, false) => Protocols::GRPC,
            (true, true) => Protocols::GRPCS,
        }
    }

    /// Notes that the plugin in slot `i` continued, so that later phases meet the same instance.
    pub fn note_ran(&mut self, i: usize, slot: &Slot) {
        self.ran |= 1 << i;
        if slot.has_own(self.exchange.consumer(), &self.local.snapshot.identities) {
            self.own |= 1 << i;
        }
    }

    /// Notes by which credential the request was accepted, so that the connection ends with it. False when it was taken away
    /// since the request began: the request is refused, and a connection that nobody shares ends.
    #[must_use]
    pub fn show_credential(&self) -> bool {
        let Some(credential) = self.exchange.credential() else { return true };
        let client = &self.exchange.client;
        self.connection.entry.show(credential, client.trusted);
        report::recognised(self);
        if !self.worker.revoked_since(self.exchange.started_ns, credential) {
            return true;
        }
        if !client.trusted && self.connection.entry.reset() {
            self.worker.count_ended(REVOKED);
        }
        false
    }

    /// The instance of slot `i` for the phases after the request.
    pub fn instance<'a>(&self, i: usize, slot: &'a Slot) -> Option<&'a dyn Plugin> {
        let chose_base = self.ran & 1 << i != 0 && self.own & 1 << i == 0;
        let consumer = if chose_base { None } else { self.exchange.consumer() };
        slot.instance(consumer, &self.local.snapshot.identities)?.for_protocol(self.protocol())
    }

    /// Tells the plugins that ran how the upstream call ended; once.
    pub fn tell_outcome(&mut self, outcome: Outcome, now_ns: u64) {
        if std::mem::replace(&mut self.outcome_told, true) || self.ran == 0 {
            return;
        }
        let local = Rc::clone(&self.local);
        let Some(route) = self.route.and_then(|r| local.snapshot.routes.get(r)) else { return };
        for (i, slot) in route.chain.slots.iter().enumerate() {
            if self.ran & 1 << i != 0
                && let Some(plugin) = self.instance(i, slot)
            {
                plugin.on_outcome(&mut self.exchange, outcome, now_ns);
            }
        }
    }

    fn record<'a>(&'a self, headers: &'a HeaderMap, now_ns: u64) -> Record<'a> {
        Record {
            exchange: &self.exchange,
            // 499 is the field's number for a client that went away before an answer.
            status: self.status.map_or(499, |s| s.as_u16()),
            response_headers: headers,
            response_bytes: self.sent_bytes,
            request_bytes: self.taken_bytes,
            upstream_status: self.upstream_status.map(|s| s.as_u16()),
            reason: self.reason,
            consumer: self.exchange.consumer().and_then(|c| self.local.snapshot.identities.consumer(c)),
            tries: &self.tries,
            total_ns: now_ns.saturating_sub(self.exchange.started_ns),
            upstream_ns: self.asked_ns.map(|asked| self.answered_ns.unwrap_or(now_ns).saturating_sub(asked)),
            receive_ns: self.answered_ns.map_or(0, |answered| now_ns.saturating_sub(answered)),
            aborted: self.aborted,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let now_ns = clock::monotonic_ns();
        self.serving.end(now_ns);
        if self.held_bytes.get() > 0 {
            self.worker.shared.pressure.release(self.held_bytes.get());
        }
        self.tell_outcome(Outcome::Abandoned, now_ns);
        if self.holds_turn {
            self.worker.leave_degraded(self.exchange.client.ip);
        }
        let empty = HeaderMap::new();
        let record = self.record(self.sent_headers.as_deref().unwrap_or(&empty), now_ns);
        self.worker.count(&Sample::of(&record, self.chain().metrics));
        if self.local.snapshot.settings.access_log.is_some() {
            self.worker.log_line(|line| access::write(line, &record));
        }
        if self.chain().logs {
            for (i, slot) in self.chain().slots.iter().enumerate() {
                if let Some(plugin) = self.instance(i, slot).filter(|p| p.logs()) {
                    plugin.on_log(&record);
                }
            }
        }
    }
}
