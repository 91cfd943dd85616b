//! What the control plane does about pressure, and whom it hears of completed handshakes from. It must not measure.

use gateway_common::Source;

use super::Control;
use crate::edge::{
    policy::Mode,
    pressure::{self, Turn},
};

impl Control {
    /// The kernel measures SYNs by itself; what it cannot see is added, and its state is made known.
    pub(super) fn feel_pressure(&mut self, now_ns: u64) {
        let Some(gate) = self.policy.gate.clone().filter(|_| self.kernel.is_some()) else { return };
        let hold_ns = u64::try_from(gate.hold.as_nanos()).unwrap_or(u64::MAX / 4);
        if let Some(overflows) = pressure::overflows()
            && self.pressure.count_overflows(overflows, now_ns, hold_ns)
        {
            self.writer.press(self.pressure.held_until_ns);
        }
        let kernel_until_ns = self.writer.pressure_until_ns();
        match self.pressure.turn(kernel_until_ns, now_ns) {
            Turn::Entered => {
                tracing::warn!(mode = self.policy.mode.name(), "edge under pressure: strangers share one budget");
                if gate.arm_cookies && self.policy.mode == Mode::Enforce {
                    self.pressure.arm();
                }
            }
            Turn::Left => {
                self.pressure.disarm();
                tracing::info!("edge: the pressure is over");
            }
            Turn::None => {}
        }
    }

    /// A worker accepted a connection, where no program of the kernel tells of it.
    pub fn hear_arrival(&mut self, source: Source, now_ns: u64) {
        self.writer.verify(source, now_ns);
    }

    /// Whether the kernel itself tells who completed a handshake.
    pub fn hears_sockets(&self) -> bool {
        self.sockets.is_some()
    }
}
