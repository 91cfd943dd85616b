//! Kong's `ip-restriction`: lets clients through, or keeps them out, by address. Whose address that is (the peer's, or what
//! a trusted peer says) was settled before.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::StatusCode;
use ipnet::{IpNet, Ipv4Net};

use crate::document::{Fields, Place};
use crate::plugins::{Flow, Kind, Plugin, Setup};
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reply;

/// Kong's `ip-restriction`.
pub const KIND: Kind = Kind { name: "ip-restriction", priority: 990, consumer_scope: true, compile };

struct IpRestriction {
    allow: Networks,
    deny: Networks,
    status: StatusCode,
    message: Option<String>,
}

fn compile(fields: &Fields<'_>, _setup: &Setup<'_>) -> Option<Arc<dyn Plugin>> {
    let allow = Networks::read(fields, "allow");
    let deny = Networks::read(fields, "deny");
    let status = fields.integer("status", 200..=599).unwrap_or(403);
    let status = u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok());
    let message = fields.string("message");
    if fields.node("allow").is_none() && fields.node("deny").is_none() {
        fields.report.mismatch(fields.place(), "ip-restriction lacks `allow` or `deny`", "at least one of them");
        return None;
    }
    Some(Arc::new(IpRestriction { allow: allow?, deny: deny?, status: status?, message }))
}

impl Plugin for IpRestriction {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let ip = exchange.client.ip.to_canonical();
        if self.admits(ip) {
            return Flow::Continue;
        }
        let message = self.message.clone().unwrap_or_else(|| format!("IP address not allowed: {ip}"));
        Reply::templated(KIND.name, self.status, message).into()
    }

    fn on_connection(&self, client: IpAddr) -> bool {
        self.admits(client.to_canonical())
    }
}

impl IpRestriction {
    fn admits(&self, ip: IpAddr) -> bool {
        !self.deny.contain(ip) && (self.allow.is_empty() || self.allow.contain(ip))
    }
}

/// Networks without overlap, in order, so that a search takes logarithmic time.
struct Networks(Vec<IpNet>);

impl Networks {
    fn read(fields: &Fields<'_>, field: &'static str) -> Option<Self> {
        let entries = fields.strings(field).unwrap_or_default();
        let count = entries.len();
        let nets: Vec<IpNet> = entries.iter().filter_map(|(place, text)| network(fields, *place, text)).collect();
        if nets.len() != count {
            return None;
        }
        let mut nets = IpNet::aggregate(&nets);
        nets.sort_by_key(|net| (net.network(), net.prefix_len()));
        Some(Networks(nets))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contain(&self, ip: IpAddr) -> bool {
        let after = self.0.partition_point(|net| net.network() <= ip);
        after.checked_sub(1).is_some_and(|at| self.0[at].contains(&ip))
    }
}

fn network(fields: &Fields<'_>, place: Place, text: &str) -> Option<IpNet> {
    let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match parsed {
        Ok(net) => Some(unmapped(net).trunc()),
        Err(_) => {
            fields.report.mismatch(place, "not an address", "an IPv4 or IPv6 address or CIDR such as 10.0.0.0/8");
            None
        }
    }
}

/// An IPv4 network that is written as IPv6 (`::ffff:10.0.0.0/104`) in its own family.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4: Option<Ipv4Addr> = v6.addr().to_ipv4_mapped();
    let mapped = v4.zip(v6.prefix_len().checked_sub(96)).and_then(|(ip, length)| Ipv4Net::new(ip, length).ok());
    mapped.map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    fn verdict(config: &str, ip: &str) -> String {
        let plugin = plugin("ip-restriction", config, &identities(Vec::new()));
        let mut exchange = Exchange::for_test("GET", "/", &[("x-forwarded-for", "9.9.9.9")]);
        exchange.client.ip = ip.parse().expect("address");
        answer(&plugin, &mut exchange)
    }

    #[test]
    fn addresses_decide() {
        let v4 = "{allow: [10.0.0.0/8, 192.0.2.7], deny: [10.1.0.0/16]}";
        for (config, ip, passes) in [
            (v4, "10.0.0.1", true),
            (v4, "10.1.2.3", false),
            (v4, "10.255.255.255", true),
            (v4, "11.0.0.0", false),
            (v4, "192.0.2.7", true),
            (v4, "192.0.2.8", false),
            (v4, "::ffff:192.0.2.7", true),
            (v4, "::ffff:10.1.2.3", false),
            (v4, "::1", false),
            ("deny: [::ffff:10.0.0.0/104]", "10.9.9.9", false),
            ("deny: ['::ffff:192.0.2.1']", "192.0.2.1", false),
            ("deny: [10.0.0.1]", "10.0.0.2", true),
            ("deny: [0.0.0.0/0]", "::1", true),
            ("allow: ['::/0']", "::1", true),
            ("allow: ['::/0']", "127.0.0.1", false),
            ("allow: ['fe80::/8', '2001:db8::1']", "2001:db8::1", true),
            ("allow: ['fe80::/8', '2001:db8::1']", "2001:db8::2", false),
            ("allow: ['fe80::/8']", "fe12::1", true),
            ("deny: [10.0.0.0/8, 10.1.0.0/16, 10.0.0.7]", "10.200.0.1", false),
            ("allow: [10.1.2.3/8]", "10.200.0.1", true),
            ("{allow: [], deny: []}", "127.0.0.1", true),
        ] {
            let expected =
                if passes { "continue".into() } else { format!("403 IP address not allowed: {}", canonical(ip)) };
            assert_eq!(verdict(config, ip), expected, "{config} {ip}");
        }
    }

    fn canonical(ip: &str) -> IpAddr {
        ip.parse::<IpAddr>().expect("address").to_canonical()
    }

    #[test]
    fn status_and_message_can_be_chosen() {
        assert_eq!(verdict("{deny: [127.0.0.1], status: 401, message: Go away}", "127.0.0.1"), "401 Go away");
    }

    #[test]
    fn wrong_configuration_has_a_place() {
        assert!(problems("ip-restriction", "{}").contains("lacks `allow` or `deny`"));
        let words = problems("ip-restriction", "allow: [10.0.0.1, 10.0.0/8, '1.2.3.4/33', host]");
        for column in [19, 29, 43] {
            assert!(words.contains(&format!("k.yml:1:{column}: error: not an address")), "{words}");
        }
        assert!(problems("ip-restriction", "{deny: [::1], status: 99}").contains("an integer from 200 to 599"));
    }
}
