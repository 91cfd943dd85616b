//! Charging a word that several CPUs share: a theoretical arrival time, moved by compare-exchange. It must not know what
//! is charged.

use core::sync::atomic::AtomicU64;

use crate::{
    clock::{Clock, Moment, Reading},
    gcra::{Ceiling, decide},
};

/// Words that several CPUs share. (Core's own methods do not compile for the kernel's target.)
pub trait Words {
    /// What the word holds.
    fn load(word: &AtomicU64) -> u64;
    /// Puts `next` into the word if it still holds `seen`, else says what it holds.
    fn compare_exchange(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64>;
}

/// What became of an attempt to charge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charged {
    /// Under the ceiling, and charged.
    Admitted,
    /// Above the ceiling; not charged.
    Exceeded,
    /// Others were faster three times; not charged.
    Contended,
}

/// Charges `units` against a ceiling that is raised to 2^`raise` times its rate.
#[inline(always)]
pub fn charge<T: Words>(
    tat: &AtomicU64,
    ceiling: Ceiling,
    units: u64,
    time: &Reading<'_, impl Clock>,
    raise: u32,
) -> Charged {
    if ceiling.is_unlimited() {
        return Charged::Admitted;
    }
    let (moment, cost_ns) = terms(ceiling, units, time, raise);
    let attempt = |seen| attempt::<T>(tat, seen, moment, cost_ns, ceiling.depth_ns());
    // Written out: a loop that the compiler keeps has no end for the verifier, which without CAP_PERFMON also follows
    // the branches that a CPU only guesses.
    let seen = match attempt(T::load(tat)) {
        Ok(charged) => return charged,
        Err(seen) => seen,
    };
    let seen = match attempt(seen) {
        Ok(charged) => return charged,
        Err(seen) => seen,
    };
    attempt(seen).unwrap_or(Charged::Contended)
}

/// Whether `units` are above the ceiling; nothing is charged.
#[inline(always)]
pub fn is_exceeded<T: Words>(tat: &AtomicU64, ceiling: Ceiling, units: u64, time: &Reading<'_, impl Clock>) -> bool {
    if ceiling.is_unlimited() {
        return false;
    }
    let (moment, cost_ns) = terms(ceiling, units, time, 0);
    decide(T::load(tat), moment, cost_ns, ceiling.depth_ns()).is_none()
}

/// When so many units come, as far as it must be known, and what they cost in nanoseconds.
#[inline(always)]
fn terms(ceiling: Ceiling, units: u64, time: &Reading<'_, impl Clock>, raise: u32) -> (Moment, u64) {
    let cost_ns = if raise == 0 { ceiling.cost_ns(units) } else { ceiling.raised_cost_ns(units, raise) };
    // Whoever is above the general ceiling has no credit but what time brings: to wait for a tick would cost a packet.
    let by_tick = raise == 0 && ceiling.is_smooth(cost_ns);
    (if by_tick { time.by_tick() } else { Moment::exactly(time.now_ns()) }, cost_ns)
}

/// One attempt; what the word held if others were faster.
#[inline(always)]
fn attempt<T: Words>(tat: &AtomicU64, seen: u64, moment: Moment, cost_ns: u64, depth_ns: u64) -> Result<Charged, u64> {
    let Some(next) = decide(seen, moment, cost_ns, depth_ns) else {
        return Ok(Charged::Exceeded);
    };
    T::compare_exchange(tat, seen, next).map(|()| Charged::Admitted)
}
