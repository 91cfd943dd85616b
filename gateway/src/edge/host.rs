//! Addresses that the host itself needs: its own, its default routers, its resolvers. They belong on the never-drop
//! list whatever the operator wrote. Read once at start and at each reload.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// The addresses found; what cannot be read is left out.
pub(super) fn vital_addresses() -> Vec<IpNet> {
    let mut addresses = own_addresses();
    // The calling thread's network namespace, which need not be the process's.
    addresses.extend(read("/proc/thread-self/net/route").lines().filter_map(router_v4));
    addresses.extend(read("/proc/thread-self/net/ipv6_route").lines().filter_map(router_v6));
    addresses.extend(read("/etc/resolv.conf").lines().filter_map(resolver));
    addresses.retain(|address| !address.is_loopback() && !address.is_unspecified());
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().map(IpNet::from).collect()
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}

/// proc_net(5): interface, destination, gateway, … in hexadecimal, in memory order.
fn router_v4(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_whitespace();
    let (destination, gateway) = (fields.nth(1)?, fields.next()?);
    if destination != "00000000" {
        return None;
    }
    let word = u32::from_str_radix(gateway, 16).ok()?;
    Some(Ipv4Addr::from(word.to_ne_bytes()).into())
}

/// Destination, its length, source, its length, next hop, …
fn router_v6(line: &str) -> Option<IpAddr> {
    let mut fields = line.split_whitespace();
    let (_, length) = (fields.next()?, fields.next()?);
    let hop = fields.nth(2)?;
    if length != "00" {
        return None;
    }
    Some(Ipv6Addr::from(u128::from_str_radix(hop, 16).ok()?).into())
}

fn resolver(line: &str) -> Option<IpAddr> {
    let address = line.trim().strip_prefix("nameserver")?.trim();
    address.split('%').next()?.parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_and_resolvers_are_read() {
        let line = "eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        let expected = Ipv4Addr::from(0x0102_000a_u32.to_ne_bytes());
        assert_eq!(router_v4(line), Some(expected.into()));
        assert_eq!(router_v4("eth0\t0002000A\t00000000\t0001"), None);
        assert_eq!(router_v4("Iface Destination Gateway Flags"), None);
        let line = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                    fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0";
        assert_eq!(router_v6(line), Some("fe80::1".parse().unwrap()));
        assert_eq!(resolver("nameserver fe80::1%eth0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(resolver("# nameserver 1.1.1.1"), None);
    }

    #[test]
    fn the_loopback_is_not_vital() {
        assert!(vital_addresses().iter().all(|net| !net.addr().is_loopback()));
    }
}
