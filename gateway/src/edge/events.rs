//! The kernel's samples of what it dropped, kept for the status. It must not decide anything.

use std::{collections::VecDeque, net::IpAddr};

use gateway_common::{
    Address, Source,
    map::{EVENT_HEAD_BYTES, Event},
    reason::Outcome,
};

/// Samples kept.
const KEPT_MAX: usize = 256;

/// One dropped packet (or one that shadow mode spared).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sample {
    pub at_ns: u64,
    pub ip: IpAddr,
    pub outcome: Outcome,
    pub decision: u64,
    pub protocol: u8,
    pub port: u16,
    pub frame_bytes: u32,
}

#[derive(Default)]
pub(super) struct Events {
    kept: VecDeque<Sample>,
    pub seen: u64,
}

impl Events {
    /// Takes one item of the ring buffer and gives it back with the frame's first bytes; what is not an event is left
    /// out.
    pub fn take<'a>(&mut self, item: &'a [u8]) -> Option<(&Sample, &'a [u8])> {
        let sample = read(item)?;
        self.seen += 1;
        tracing::debug!(
            source = %sample.ip,
            reason = sample.outcome.name(),
            decision = sample.decision,
            port = sample.port,
            bytes = sample.frame_bytes,
            "packet"
        );
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(sample);
        Some((self.kept.back()?, head(item)))
    }

    /// The latest first.
    pub fn latest(&self) -> impl Iterator<Item = &Sample> {
        self.kept.iter().rev()
    }
}

fn head(item: &[u8]) -> &[u8] {
    let from = core::mem::offset_of!(Event, head);
    let count = item.get(core::mem::offset_of!(Event, head_bytes)).copied().map_or(0, usize::from);
    item.get(from..from + count.min(EVENT_HEAD_BYTES)).unwrap_or_default()
}

/// Field by field, so that no bytes are taken for a value unseen.
fn read(item: &[u8]) -> Option<Sample> {
    if item.len() != size_of::<Event>() {
        return None;
    }
    let word = |at: usize| item.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let half = |at: usize| item.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let address = Address::v6(word(8)?.to_ne_bytes(), word(16)?.to_ne_bytes());
    Some(Sample {
        at_ns: word(0)?,
        // No mask: the whole address is wanted here.
        ip: whole(address),
        decision: word(24)?,
        outcome: Outcome::of_counter(half(32)?)?,
        frame_bytes: half(36)?,
        port: u16::from_ne_bytes(*item.get(40..)?.first_chunk()?),
        protocol: *item.get(42)?,
    })
}

fn whole(address: Address) -> IpAddr {
    IpAddr::from(address.octets()).to_canonical()
}

const _: () = {
    assert!(core::mem::offset_of!(Event, address) == 8);
    assert!(core::mem::offset_of!(Event, decision) == 24);
    assert!(core::mem::offset_of!(Event, outcome) == 32);
    assert!(core::mem::offset_of!(Event, frame_bytes) == 36);
    assert!(core::mem::offset_of!(Event, port) == 40);
    assert!(core::mem::offset_of!(Event, protocol) == 42);
    assert!(core::mem::offset_of!(Event, head) + EVENT_HEAD_BYTES == size_of::<Event>());
};

/// Whether the sample is of this source.
pub(super) fn is_of(sample: &Sample, source: Source, v6_prefix: u8) -> bool {
    Source::new(sample.ip, v6_prefix) == source
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_common::Reason;

    fn item(outcome: u32) -> Vec<u8> {
        let mut item = Vec::new();
        item.extend(5u64.to_ne_bytes());
        item.extend(Address::v4([192, 0, 2, 7]).octets());
        item.extend(42u64.to_ne_bytes());
        item.extend(outcome.to_ne_bytes());
        item.extend(60u32.to_ne_bytes());
        item.extend(8000u16.to_ne_bytes());
        item.extend([6, 42, 0, 0, 0, 0]);
        item.extend([0; 64]);
        item.resize(size_of::<Event>(), 0);
        item
    }

    #[test]
    fn an_item_is_read_and_the_oldest_make_room() {
        let mut events = Events::default();
        for _ in 0..KEPT_MAX + 3 {
            events.take(&item(Reason::Drop as u32));
        }
        assert!(events.take(&item(10_000)).is_none());
        assert!(events.take(b"short").is_none());
        assert_eq!(events.take(&item(Reason::Drop as u32)).unwrap().1.len(), 42);
        assert_eq!(events.seen, KEPT_MAX as u64 + 4);
        assert_eq!(events.latest().count(), KEPT_MAX);
        let sample = events.latest().next().unwrap();
        assert_eq!(sample.ip, IpAddr::from([192, 0, 2, 7]));
        assert_eq!((sample.decision, sample.port, sample.protocol, sample.frame_bytes), (42, 8000, 6, 60));
        assert_eq!(sample.outcome.name(), "drop");
        assert!(is_of(sample, Source::new([192, 0, 2, 7].into(), 64), 64));
    }
}
