//! Every exit of the program, once: the number is the index of its counter, the word is the same in the log, the metric
//! and the status.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal, $drops:literal;)+) => {
        /// How a packet left the program.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// The word for it when shadow mode let the packet pass that would have been dropped.
            #[must_use]
            pub const fn shadow_name(self) -> &'static str {
                match self { $(Self::$name => concat!("shadow_", $word),)+ }
            }

            /// Whether a packet that leaves here is dropped (in enforce mode).
            #[inline(always)]
            #[must_use]
            pub const fn drops(self) -> bool {
                match self { $(Self::$name => $drops,)+ }
            }
        }
    };
}

reasons! {
    /// Under every ceiling, under no verdict.
    Clean = "clean", false;
    /// Shorter than its headers say, or contradicting itself.
    Malformed = "malformed", false;
    /// More VLAN tags than are looked through.
    ManyTags = "many_tags", false;
    /// ARP.
    Arp = "arp", false;
    /// Neither IPv4 nor IPv6.
    OtherEthertype = "other_ethertype", false;
    /// ICMP, ICMPv6.
    Icmp = "icmp", false;
    /// A fragment other than the first.
    Fragment = "fragment", false;
    /// More IPv6 extension headers than are looked through.
    ManyExtensions = "many_extensions", false;
    /// Neither TCP nor UDP.
    OtherProtocol = "other_protocol", false;
    /// Not a port of the gateway's listeners.
    OtherPort = "other_port", false;
    /// The mode is off, or the settings are not those of this program.
    Off = "off", false;
    /// The kill switch is on.
    Killed = "killed", false;
    /// The control plane's heartbeat is too old.
    Stale = "stale", false;
    /// On the list that nothing overrides.
    NeverDrop = "never_drop", false;
    /// A new connection from a gated source, let in as a probe (1 in 64).
    GateProbe = "gate_probe", false;
    /// A packet of a gated source's older connections.
    GateEstablished = "gate_established", false;
    /// A cell was too busy to be charged.
    Contention = "contention", false;
    /// Under pressure: a stranger within the strangers' budget.
    Stranger = "stranger", false;
    /// Under pressure: a stranger's packet of a connection that the host knows.
    StrangerConnection = "stranger_connection", false;
    /// Under pressure: a stranger's acknowledgement of a SYN cookie.
    Cookie = "cookie", false;
    /// A new connection from a gated source.
    Gate = "gate", true;
    /// Any packet from a source that is dropped altogether.
    Drop = "drop", true;
    /// On the operator's deny list.
    Deny = "deny", true;
    /// Above the source's ceiling of packets.
    Packets = "packets", true;
    /// Above the source's ceiling of bytes.
    Bytes = "bytes", true;
    /// Above the source's ceiling of new connections.
    Connections = "connections", true;
    /// Any packet of a connection that was cut.
    Flow = "flow", true;
    /// Above the ceiling that the source's neighbourhood shares.
    Prefix = "prefix", true;
    /// Sent to a source above its ceiling of bytes.
    Bandwidth = "bandwidth", true;
    /// Sent to a consumer above its ceiling of bytes.
    ConsumerBandwidth = "consumer_bandwidth", true;
    /// Under pressure: a stranger's SYN, answered with a SYN cookie in the host's place.
    Challenged = "challenged", true;
    /// Under pressure: a stranger's SYN above the budget, with no cookie to answer it.
    Strangers = "strangers", true;
    /// Under pressure: a stranger's packet that belongs to no connection, above the budget.
    StrangerPackets = "stranger_packets", true;
}

/// Counters in the map: each reason, then each reason's shadow twin.
pub const COUNTERS: u32 = 2 * Reason::ALL.len() as u32;

/// A reason, and whether it was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How the packet left.
    pub reason: Reason,
    /// Whether shadow mode let it pass although the reason drops.
    pub shadow: bool,
}

impl Outcome {
    /// The index of the counter.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        self.reason as u32 + if self.shadow { COUNTERS / 2 } else { 0 }
    }

    /// Whether the packet is to be dropped.
    #[inline(always)]
    #[must_use]
    pub const fn drops(self) -> bool {
        self.reason.drops() && !self.shadow
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        if self.shadow { self.reason.shadow_name() } else { self.reason.name() }
    }

    /// The outcome that a counter counts.
    #[must_use]
    pub fn of_counter(index: u32) -> Option<Self> {
        let half = COUNTERS / 2;
        let reason = *Reason::ALL.get((index % half) as usize)?;
        (index < COUNTERS).then_some(Self { reason, shadow: index >= half })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_words_and_counters_agree() {
        let mut words = std::collections::HashSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(words.insert(reason.name()), "{}", reason.name());
            assert!(words.insert(reason.shadow_name()));
        }
        for index in 0..COUNTERS {
            let outcome = Outcome::of_counter(index).unwrap();
            assert_eq!(outcome.counter(), index);
        }
        assert_eq!(Outcome::of_counter(COUNTERS), None);
    }

    #[test]
    fn shadow_never_drops() {
        for &reason in Reason::ALL {
            assert!(!Outcome { reason, shadow: true }.drops());
        }
    }
}
