//! What a driver says of itself over generic netlink: queues, offloads, what it can do for XDP. A kernel or a driver that
//! does not answer leaves it unknown.

use std::io;

use nix::sys::socket::SockProtocol;

use crate::edge::netlink::{ask, attribute, each, find, short, text, word};

/// linux/genetlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const GENL_HEADER_BYTES: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;

/// linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
/// The header is attribute 1 of every request, the interface's index attribute 1 in it.
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_CHANNELS_RX_MAX: u16 = 2;
const ETHTOOL_A_CHANNELS_COMBINED_MAX: u16 = 5;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;

/// linux/netdev.h (Linux 6.3).
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// A driver's queues, as `ethtool -l` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Channels {
    pub rx: u32,
    pub rx_max: u32,
    pub combined: u32,
    pub combined_max: u32,
}

impl Channels {
    /// Receiving queues in use, and how many there could be.
    pub fn receiving(self) -> (u32, u32) {
        (self.rx + self.combined, self.rx_max + self.combined_max)
    }
}

pub(super) fn channels(if_index: u32) -> io::Result<Channels> {
    let answer = ethtool(ETHTOOL_MSG_CHANNELS_GET, if_index)?;
    let number = |kind| find(&answer, kind).and_then(word).unwrap_or(0);
    Ok(Channels {
        rx: number(ETHTOOL_A_CHANNELS_RX_COUNT),
        rx_max: number(ETHTOOL_A_CHANNELS_RX_MAX),
        combined: number(ETHTOOL_A_CHANNELS_COMBINED_COUNT),
        combined_max: number(ETHTOOL_A_CHANNELS_COMBINED_MAX),
    })
}

/// Names of the offloads that are on.
pub(super) fn offloads(if_index: u32) -> io::Result<Vec<String>> {
    Ok(names_of_bits(&ethtool(ETHTOOL_MSG_FEATURES_GET, if_index)?))
}

fn names_of_bits(features: &[u8]) -> Vec<String> {
    let active = find(features, ETHTOOL_A_FEATURES_ACTIVE).unwrap_or_default();
    let bits = find(active, ETHTOOL_A_BITSET_BITS).unwrap_or_default();
    let bits = each(bits).filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS_BIT);
    bits.filter_map(|(_, bit)| find(bit, ETHTOOL_A_BITSET_BIT_NAME).map(text)).collect()
}

pub(super) fn xdp_features(if_index: u32) -> io::Result<u64> {
    let request = attribute(NETDEV_A_DEV_IFINDEX, &if_index.to_ne_bytes());
    let answer = generic(family("netdev")?, NETDEV_CMD_DEV_GET, &request)?;
    let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(<[u8]>::first_chunk);
    features.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or_else(short)
}

fn ethtool(command: u8, if_index: u32) -> io::Result<Vec<u8>> {
    let index = attribute(ETHTOOL_A_HEADER_DEV_INDEX, &if_index.to_ne_bytes());
    generic(family("ethtool")?, command, &attribute(ETHTOOL_A_HEADER | NLA_F_NESTED, &index))
}

fn family(name: &str) -> io::Result<u16> {
    let request = attribute(CTRL_ATTR_FAMILY_NAME, format!("{name}\0").as_bytes());
    let answer = generic(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &request)?;
    find(&answer, CTRL_ATTR_FAMILY_ID).and_then(<[u8]>::first_chunk).map(|id| u16::from_ne_bytes(*id)).ok_or_else(short)
}

/// The attributes of the answer.
fn generic(family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let request = [&[command, 1, 0, 0][..], attributes].concat();
    let mut answer = ask(SockProtocol::NetlinkGeneric, family, &request)?;
    if answer.len() < GENL_HEADER_BYTES {
        return Err(short());
    }
    Ok(answer.split_off(GENL_HEADER_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_bits_that_are_set_are_read() {
        let bit = |name: &str| {
            attribute(ETHTOOL_A_BITSET_BITS_BIT, &attribute(ETHTOOL_A_BITSET_BIT_NAME, format!("{name}\0").as_bytes()))
        };
        let bits = attribute(ETHTOOL_A_BITSET_BITS, &[bit("rx-lro"), bit("rx-gro-hw")].concat());
        assert_eq!(names_of_bits(&attribute(ETHTOOL_A_FEATURES_ACTIVE, &bits)), ["rx-lro", "rx-gro-hw"]);
        assert!(names_of_bits(&[1, 2, 3]).is_empty());
    }

    #[test]
    fn the_loopback_has_offloads_and_no_native_xdp() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        if family("ethtool").is_err() {
            eprintln!("SKIP edge::doctor::ethtool: the kernel has no ethtool over netlink");
            return;
        }
        assert!(offloads(index).unwrap().iter().any(|name| name.starts_with("tx-")));
        if let Ok(features) = xdp_features(index) {
            assert_eq!(features & 1, 0);
        }
    }
}
