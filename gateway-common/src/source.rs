//! Who sent a packet: the full address (for lists of prefixes) and the source (for verdicts and cells). An IPv4 address
//! and its v4-mapped IPv6 form are one and the same; an IPv6 source is a whole prefix, because one subscriber owns it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first four octets of the lower half of `::ffff:0:0/96`.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

/// The prefix that one IPv6 subscriber owns unless configured otherwise.
pub const V6_PREFIX: u8 = 64;
/// The shortest prefix that may be taken for one subscriber.
pub const V6_PREFIX_MIN: u8 = 48;

/// A full IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`.
///
/// The octets lie in network order; two words instead of sixteen octets let the kernel compare and hash them in two
/// loads.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Address {
    halves: [u64; 2],
}

impl Address {
    /// From the four octets of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn v4(o: [u8; 4]) -> Self {
        let low = [MAPPED[0], MAPPED[1], MAPPED[2], MAPPED[3], o[0], o[1], o[2], o[3]];
        Self { halves: [0, u64::from_ne_bytes(low)] }
    }

    /// From the two halves of an IPv6 header's address, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn v6(high: [u8; 8], low: [u8; 8]) -> Self {
        Self { halves: [u64::from_ne_bytes(high), u64::from_ne_bytes(low)] }
    }

    /// Whether this is an IPv4 address, in either of its two forms.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        // The upper half's four octets of the lower word, compared where they lie.
        let mask = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let mapped = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        self.halves[0] == 0 && self.halves[1] & mask == mapped
    }

    /// The sixteen octets in network order: the form in which lists of prefixes are keyed.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let (h, l) = (self.halves[0].to_ne_bytes(), self.halves[1].to_ne_bytes());
        [h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]]
    }

    /// The source that this address belongs to; `v6_mask` is [`v6_mask`] of the configured prefix.
    #[inline(always)]
    #[must_use]
    pub const fn source(self, v6_mask: u64) -> Source {
        if self.is_v4() { Source { halves: self.halves } } else { Source { halves: [self.halves[0] & v6_mask, 0] } }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                Self::v6(
                    [o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]],
                    [o[8], o[9], o[10], o[11], o[12], o[13], o[14], o[15]],
                )
            }
        }
    }
}

/// The upper half of an IPv6 address that a neighbourhood shares, in memory order.
const V6_NEIGHBOURHOOD: u64 = v6_mask(V6_PREFIX_MIN);
/// The lower half of a v4-mapped address without its last octet, in memory order.
const V4_NEIGHBOURHOOD: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);

/// What is judged: an IPv4 address, or an IPv6 prefix. The key of verdicts (16 octets) and, hashed, of cells.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Source {
    halves: [u64; 2],
}

const _: () = assert!(size_of::<Source>() == 16 && size_of::<Address>() == 16);

impl Source {
    /// The source of `ip`, with IPv6 cut to `v6_prefix` bits (held to 48–64).
    #[must_use]
    pub fn new(ip: IpAddr, v6_prefix: u8) -> Self {
        Address::from(ip).source(v6_mask(v6_prefix))
    }

    /// The address to show: IPv4 as such, IPv6 as the first address of its prefix.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        let o = Address { halves: self.halves }.octets();
        if (Address { halves: self.halves }).is_v4() {
            IpAddr::V4(Ipv4Addr::new(o[12], o[13], o[14], o[15]))
        } else {
            IpAddr::V6(Ipv6Addr::from(o))
        }
    }

    /// The neighbourhood of the source: an IPv4 /24, an IPv6 /48.
    #[inline(always)]
    #[must_use]
    pub const fn neighbourhood(self) -> Self {
        if (Address { halves: self.halves }).is_v4() {
            Self { halves: [0, self.halves[1] & V4_NEIGHBOURHOOD] }
        } else {
            Self { halves: [self.halves[0] & V6_NEIGHBOURHOOD, 0] }
        }
    }

    /// The two words, as they lie in the key.
    #[inline(always)]
    #[must_use]
    pub const fn halves(self) -> [u64; 2] {
        self.halves
    }

    /// Which cell belongs to this source, before masking. The seed is drawn at load, so that nobody outside can aim at
    /// a neighbour's cell.
    #[inline(always)]
    #[must_use]
    pub const fn hash(self, seed: [u64; 2]) -> u32 {
        // Two rounds of multiply and fold: the products are meant to wrap.
        let a = (self.halves[0] ^ seed[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let b = ((a ^ (a >> 32)) ^ self.halves[1] ^ seed[1]).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let c = (b ^ (b >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (c >> 32) as u32
    }
}

/// The mask of the upper half of an IPv6 address for a prefix of 48–64 bits, in memory order.
#[must_use]
pub const fn v6_mask(prefix: u8) -> u64 {
    let bits = if prefix < V6_PREFIX_MIN {
        V6_PREFIX_MIN
    } else if prefix > V6_PREFIX {
        V6_PREFIX
    } else {
        prefix
    };
    (u64::MAX << (V6_PREFIX - bits)).to_be()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str, prefix: u8) -> Source {
        Source::new(text.parse().unwrap(), prefix)
    }

    #[test]
    fn a_mapped_address_is_the_same_source_as_the_ipv4_address() {
        assert_eq!(source("192.0.2.7", 64), source("::ffff:192.0.2.7", 64));
        assert_eq!(source("192.0.2.7", 64).ip(), IpAddr::from([192, 0, 2, 7]));
        assert_ne!(source("192.0.2.7", 64), source("192.0.2.8", 64));
    }

    #[test]
    fn an_ipv6_source_is_its_prefix() {
        assert_eq!(source("2001:db8:1:2::1", 64), source("2001:db8:1:2:ffff::9", 64));
        assert_ne!(source("2001:db8:1:2::1", 64), source("2001:db8:1:3::1", 64));
        assert_eq!(source("2001:db8:1:2::1", 48), source("2001:db8:1:3::1", 48));
        assert_eq!(source("2001:db8:1:2::1", 56), source("2001:db8:1:ff::1", 56));
        assert_ne!(source("2001:db8:1:102::1", 56), source("2001:db8:1:2::1", 56));
        assert_eq!(source("2001:db8:1:2::1", 64).ip(), "2001:db8:1:2::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_neighbourhood_is_wider_than_a_source() {
        assert_eq!(source("192.0.2.7", 64).neighbourhood(), source("192.0.2.200", 64).neighbourhood());
        assert_ne!(source("192.0.2.7", 64).neighbourhood(), source("192.0.3.7", 64).neighbourhood());
        let v6 = |text| source(text, 64).neighbourhood();
        assert_eq!(v6("2001:db8:1:2::1"), v6("2001:db8:1:ffff::9"));
        assert_ne!(v6("2001:db8:1:2::1"), v6("2001:db8:2:2::1"));
    }

    #[test]
    fn prefixes_outside_the_range_are_held_to_it() {
        assert_eq!(v6_mask(0), v6_mask(48));
        assert_eq!(v6_mask(128), u64::MAX);
    }

    #[test]
    fn neighbouring_sources_spread_over_the_cells() {
        let mut used = std::collections::HashSet::new();
        for n in 0..4096u32 {
            let ip = Ipv4Addr::from(0x0a00_0000 + n);
            used.insert(Source::new(ip.into(), 64).hash([7, 9]) & 0xffff);
        }
        // 4,096 balls in 65,536 bins leave 3,970 bins used on average.
        assert!(used.len() > 3_900, "{}", used.len());
    }
}
