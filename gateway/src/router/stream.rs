//! Finds the route of a connection that is not HTTP, by where it comes from, where it goes and the name that it asks for
//! (Kong's stream routes). Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::pattern::HostPattern;

/// One of `sources` or `destinations`: any network when there is no address, any port when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Address or network.
    pub net: Option<IpNet>,
    /// Port.
    pub port: Option<u16>,
}

impl End {
    fn holds(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.net.is_none_or(|net| net.contains(&ip)) && self.port.is_none_or(|port| port == address.port())
    }

    /// Kong's bits: an address, a port, a network.
    fn rank(&self) -> u64 {
        let single = self.net.is_some_and(|net| net.prefix_len() == net.max_prefix_len());
        u64::from(single) << 2 | u64::from(self.port.is_some()) << 1 | u64::from(self.net.is_some() && !single)
    }
}

/// How a connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// In the clear (`tcp`).
    Tcp,
    /// TLS ends here (`tls`).
    Tls,
    /// TLS goes through unread (`tls_passthrough`).
    Passthrough,
    /// In datagrams (`udp`).
    Udp,
}

/// What a route asks.
#[derive(Clone, Debug, Default)]
pub struct StreamMatchers {
    /// `sources`.
    pub sources: Vec<End>,
    /// `destinations`.
    pub destinations: Vec<End>,
    /// `snis`.
    pub snis: Vec<HostPattern>,
    /// How it carries.
    pub carriages: Vec<Carriage>,
    /// Decides ties: the higher wins.
    pub uuid: u128,
    /// Place of the route in the snapshot.
    pub route: usize,
}

impl StreamMatchers {
    /// Kong's order: a name, or both ends; then how exactly the source is named; then the destination.
    fn rank(&self) -> (bool, u64, u64, u128) {
        let best = |ends: &[End]| ends.iter().map(End::rank).max().unwrap_or(0);
        let both = !self.sources.is_empty() && !self.destinations.is_empty();
        (!self.snis.is_empty() || both, best(&self.sources), best(&self.destinations), self.uuid)
    }

    fn fits(&self, facts: &StreamFacts<'_>) -> bool {
        let any = |ends: &[End], address| ends.is_empty() || ends.iter().any(|end| end.holds(address));
        self.carriages.contains(&facts.carriage)
            && any(&self.sources, facts.source)
            && any(&self.destinations, facts.destination)
            && (self.snis.is_empty()
                || facts.sni.is_some_and(|sni| self.snis.iter().any(|s| s.matches(sni, facts.destination.port()))))
    }
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct StreamFacts<'a> {
    /// How it is to be carried.
    pub carriage: Carriage,
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
    /// The name that its ClientHello asks for, in lower case.
    pub sni: Option<&'a str>,
}

/// The stream routes, best first.
#[derive(Debug, Default)]
pub struct StreamRouter(Vec<StreamMatchers>);

impl StreamRouter {
    /// A table of routes.
    #[must_use]
    pub fn new(mut routes: Vec<StreamMatchers>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.rank()));
        StreamRouter(routes)
    }

    /// The route of a connection.
    #[must_use]
    pub fn find(&self, facts: &StreamFacts<'_>) -> Option<usize> {
        self.0.iter().find(|route| route.fits(facts)).map(|route| route.route)
    }

    /// Whether any route carries in this way.
    #[must_use]
    pub fn carries(&self, carriage: Carriage) -> bool {
        self.0.iter().any(|route| route.carriages.contains(&carriage))
    }
}

/// An `ip` of a route's end.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| IpNet::from(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(ip: &str, port: u16) -> End {
        End { net: network(ip), port: (port > 0).then_some(port) }
    }

    fn route(
        route: usize,
        sources: Vec<End>,
        destinations: Vec<End>,
        snis: &[&str],
        carriage: Carriage,
    ) -> StreamMatchers {
        let snis = snis.iter().map(|sni| HostPattern::parse(sni).expect("name")).collect();
        StreamMatchers { sources, destinations, snis, carriages: vec![carriage], uuid: route as u128, route }
    }

    #[test]
    fn the_most_exact_route_wins() {
        let router = StreamRouter::new(vec![
            route(0, vec![end("10.0.0.0/8", 0)], vec![], &[], Carriage::Tcp),
            route(1, vec![end("10.0.0.1", 0)], vec![], &[], Carriage::Tcp),
            route(2, vec![], vec![end("", 9000)], &[], Carriage::Tcp),
            route(3, vec![end("10.0.0.0/8", 0)], vec![end("", 9001)], &[], Carriage::Tcp),
            route(4, vec![], vec![], &["*.a.test"], Carriage::Passthrough),
            route(5, vec![], vec![], &["b.test"], Carriage::Tls),
        ]);
        let find = |carriage, source: &str, port: u16, sni| {
            let source = SocketAddr::new(source.parse().expect("address"), 50_000);
            let destination = SocketAddr::new("127.0.0.1".parse().expect("address"), port);
            router.find(&StreamFacts { carriage, source, destination, sni })
        };
        assert_eq!(find(Carriage::Tcp, "10.0.0.1", 9000, None), Some(1));
        assert_eq!(find(Carriage::Tcp, "10.0.0.2", 9000, None), Some(0));
        assert_eq!(find(Carriage::Tcp, "10.0.0.1", 9001, None), Some(3));
        assert_eq!(find(Carriage::Tcp, "192.0.2.1", 9000, None), Some(2));
        assert_eq!(find(Carriage::Tcp, "192.0.2.1", 9002, None), None);
        assert_eq!(find(Carriage::Passthrough, "192.0.2.1", 1, Some("x.a.test")), Some(4));
        assert_eq!(find(Carriage::Passthrough, "192.0.2.1", 1, Some("b.test")), None);
        assert_eq!(find(Carriage::Passthrough, "192.0.2.1", 1, None), None);
        assert_eq!(find(Carriage::Tls, "192.0.2.1", 1, Some("b.test")), Some(5));
        assert!(router.carries(Carriage::Tls));
    }
}
