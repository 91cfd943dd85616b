//! What other gateways, or an operator, say of a source: weighed against what was seen here. Pure.

use gateway_common::Source;

use super::{Cause, Decision, Draft, Held, Identity, Ladder, OffenceKind, Rung};

/// A verdict that somebody else came to.
pub(in crate::edge) struct Said {
    pub source: Source,
    pub rung: Rung,
    pub until_ns: u64,
    pub cause: Cause,
    pub kind: OffenceKind,
    pub strikes: u32,
    pub repeats: u8,
}

/// What becomes of it.
pub(in crate::edge) enum Weighed {
    /// It holds here too.
    Obeyed(Decision),
    /// Somebody else would suffer.
    Held(Decision),
    /// Nothing new.
    Known,
    /// No more sources are watched.
    Full,
}

impl Ladder {
    /// Weighs what another gateway said of a source.
    pub fn weigh(&mut self, now_ns: u64, said: Said) -> Weighed {
        let neighbour_ns = self.neighbour_ns;
        let Some(entry) = self.watch.touch(said.source, |entry| entry.is_pinned(now_ns)) else {
            self.unwatched += 1;
            return Weighed::Full;
        };
        entry.settle(now_ns);
        if entry.rung >= said.rung && entry.until_ns >= said.until_ns {
            return Weighed::Known;
        }
        // Who the offender is there cannot be told here: whoever is well known here speaks for the source.
        let innocence = entry.neighbours.innocence(now_ns, neighbour_ns, Identity::None);
        let held = innocence.map(Held::Neighbours);
        if held.is_none() {
            let (rung, until_ns) = (said.rung.max(entry.rung), said.until_ns.max(entry.until_ns));
            entry.stand(rung, until_ns);
            entry.repeats = entry.repeats.max(said.repeats);
            entry.remembered_ns = entry.remembered_ns.max(until_ns);
            entry.offender = entry.offender.or(Some(Identity::None));
            entry.latest = Some((said.cause.clone(), said.kind));
        }
        let Said { source, cause, kind, strikes, .. } = said;
        let draft = Draft { source, flow: None, cause, kind, strikes, held, now_ns };
        let decision = draft.decide(&mut self.next_id, entry);
        if decision.held.is_some() { Weighed::Held(decision) } else { Weighed::Obeyed(decision) }
    }

    /// Forgets what a source did; what is known of its neighbours stays.
    pub fn forgive(&mut self, source: Source) {
        // One that is not watched is not made to be.
        if self.watch.peek(source).is_none() {
            return;
        }
        if let Some(entry) = self.watch.touch(source, |_| false) {
            entry.stand(Rung::Observe, 0);
            (entry.retry_ns, entry.repeats, entry.remembered_ns) = (0, 0, 0);
            (entry.offender, entry.latest, entry.failing) = (None, None, None);
        }
    }
}
