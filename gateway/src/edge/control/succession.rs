//! How one process follows another at the kernel's side: what it takes over, what it leaves, when it gives way.

use gateway_common::{Source, map::Verdict};

use super::{Control, sizes};
use crate::{
    clock::monotonic_ns,
    edge::{
        attach::{Kernel, Loaded, Trouble},
        egress::Egress,
        policy::{Mode, Policy},
        pressure::Pressure,
        sockets,
    },
};

/// The predecessor notices within a second that it has been succeeded.
const STRANGERS_AFTER_TICKS: u64 = 3;

impl Control {
    pub(super) fn load(&mut self, v6_mask: u64) {
        let loaded = Kernel::load(sizes(&self.policy), self.policy.pin.as_deref());
        let Loaded { mut kernel, maps, ring, mut held, mut verdicts } = match loaded {
            Ok(loaded) => loaded,
            Err(trouble) => {
                self.load_trouble = Some(trouble);
                return;
            }
        };
        // Not pinned: whoever accepts connections tells of them.
        match self.policy.gate.as_ref().map(|_| sockets::attach(kernel.object())) {
            Some(Ok(link)) => self.sockets = Some(link),
            Some(Err(trouble)) => self.sockets_trouble = Some(trouble),
            None => {}
        }
        self.kernel = Some(kernel);
        self.ring = Some(ring);
        self.load_trouble = None;
        if let Some(held) = &mut held {
            self.seed = held.settings.seed;
            self.strangers_at = Some(self.ticks + STRANGERS_AFTER_TICKS);
            // Sources of another width cannot be told from these.
            if held.settings.v6_mask == v6_mask {
                verdicts.clone_from(&held.verdicts);
            } else {
                // The next sweep removes them.
                held.raised.iter_mut().for_each(|(_, standing)| standing.expiry_ns = 0);
            }
        }
        self.writer.adopt(Some(maps), held);
        self.inherit(verdicts);
    }

    /// Verdicts of an earlier process stay, and keep their numbers to themselves.
    pub(super) fn inherit(&mut self, verdicts: Vec<(Source, Verdict)>) {
        let last = verdicts.iter().map(|(_, verdict)| verdict.decision).max();
        self.ladder.number_after(last.unwrap_or(0));
        let eligible: Vec<_> = verdicts.into_iter().filter(|(source, _)| !self.is_spared(*source)).collect();
        self.inherited += self.writer.inherit(monotonic_ns(), eligible);
    }

    /// Detaches everything and gives the maps back.
    pub fn unload(&mut self) {
        self.leave(false);
        self.load_trouble = None;
    }

    fn leave(&mut self, keep: bool) {
        self.pressure = Pressure::default();
        self.egress = Egress::default();
        (self.sockets, self.sockets_trouble) = (None, None);
        self.ring = None;
        self.writer.adopt(None, None);
        if let Some(kernel) = self.kernel.take() {
            kernel.release(keep);
        }
    }

    /// A clean end: nothing is left unless what is pinned is to stay.
    pub fn stop(&mut self) {
        let stays = self.policy.pin.is_some() && (self.policy.keep || self.policy.hold);
        if stays && self.kernel.is_some() && self.policy.mode != Mode::Off {
            // The successor has until the heartbeat is stale.
            self.writer.beat(monotonic_ns());
            tracing::info!("what is pinned stays for the next start");
            self.leave(true);
            return;
        }
        self.apply(Policy { mode: Mode::Off, ..self.policy.clone() });
    }

    /// Ends this process's part in the kernel when another one has taken it over.
    pub(super) fn give_way(&mut self) {
        if !self.kernel.as_ref().is_some_and(Kernel::is_superseded) {
            return;
        }
        self.leave(true);
        self.is_superseded = true;
        self.load_trouble = Some(Trouble {
            interface: None,
            problem: "superseded",
            detail: "another process has taken over what this one had pinned".to_owned(),
            remedy: "stop this process; if both are to run, give each its own `edge.pin`",
        });
        self.attach();
        self.announce();
    }
}
