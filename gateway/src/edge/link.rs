//! An interface as the kernel describes it over rtnetlink, in the calling thread's network namespace. An attachment must
//! not be made before this says that nobody else's program is there.

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::{ask, find, short, text, word};

/// linux/rtnetlink.h, linux/if_link.h, linux/if_arp.h.
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_CARRIER: u16 = 33;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const XDP_ATTACHED_SKB: u8 = 2;
const IFF_UP: u32 = 1;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const INTERFACE_BYTES: usize = 16;

/// A program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OnInterface {
    /// The program's id; zero if there are several (native and generic).
    pub program: u32,
    /// Whether it runs in the slow generic mode.
    pub is_generic: bool,
}

/// What the kernel says of an interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Description {
    pub name: String,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    pub is_up: bool,
    pub has_carrier: bool,
    pub mtu: u32,
    /// `vlan`, `bond`, `veth`, …; none for a device of a driver.
    pub kind: Option<String>,
    /// The interface's index that it is a part of, and what that makes of it (`bond`, `bridge`).
    pub master: Option<u32>,
    pub slave_kind: Option<String>,
    /// The index of the interface below a VLAN's.
    pub parent: Option<u32>,
    pub xdp: Option<OnInterface>,
}

/// The XDP program on the interface with this index, if there is one.
pub(super) fn xdp_program(if_index: u32) -> io::Result<Option<OnInterface>> {
    Ok(describe(if_index)?.xdp)
}

/// The interface with this index.
pub(super) fn describe(if_index: u32) -> io::Result<Description> {
    let mut request = [0; INTERFACE_BYTES];
    request[4..8].copy_from_slice(&if_index.to_ne_bytes());
    let answer = ask(SockProtocol::NetlinkRoute, RTM_GETLINK, &request)?;
    let (header, attributes) = answer.split_at_checked(INTERFACE_BYTES).ok_or_else(short)?;
    let hardware = u16::from_ne_bytes([header[2], header[3]]);
    let flags = header.get(8..).and_then(word).unwrap_or(0);
    let number = |kind| find(attributes, kind).and_then(word);
    let info = find(attributes, IFLA_LINKINFO).unwrap_or_default();
    let name_of = |kind| find(info, kind).map(text);
    Ok(Description {
        name: find(attributes, IFLA_IFNAME).map(text).unwrap_or_default(),
        is_ethernet: matches!(hardware, ARPHRD_ETHER | ARPHRD_LOOPBACK),
        is_up: flags & IFF_UP != 0,
        has_carrier: find(attributes, IFLA_CARRIER).is_none_or(|carrier| carrier.first() == Some(&1)),
        mtu: number(IFLA_MTU).unwrap_or(0),
        kind: name_of(IFLA_INFO_KIND),
        master: number(IFLA_MASTER),
        slave_kind: name_of(IFLA_INFO_SLAVE_KIND),
        parent: number(IFLA_LINK),
        xdp: find(attributes, IFLA_XDP).and_then(program),
    })
}

fn program(xdp: &[u8]) -> Option<OnInterface> {
    let mode = find(xdp, IFLA_XDP_ATTACHED)?.first().copied().filter(|mode| *mode != 0)?;
    let program = find(xdp, IFLA_XDP_PROG_ID).and_then(word).unwrap_or(0);
    Some(OnInterface { program, is_generic: mode == XDP_ATTACHED_SKB })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_of_a_test_machine_is_described() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let lo = describe(index).unwrap();
        assert_eq!((lo.name.as_str(), lo.is_ethernet, lo.xdp), ("lo", true, None));
        assert!(lo.mtu >= 1_280);
    }

    #[test]
    fn an_interface_that_does_not_exist_is_an_error() {
        assert!(xdp_program(u32::MAX >> 1).is_err());
    }
}
