//! Where the published ports of an endpoint answer: on the host's addresses, or on its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use api::net::PortBinding;
use serde::{Deserialize, Serialize};

use crate::bpf::{Frontend, FrontendAddress};

/// The families in which a network is routed: there, the world knows the containers' own addresses,
/// and a published port answers on the container's and not on the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Routed {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Routed {
    pub(super) fn has(self, v6: bool) -> bool {
        if v6 { self.v6 } else { self.v4 }
    }

    /// One binding for each family, where only one is routed.
    pub(crate) fn by_family(self, binding: &PortBinding) -> Vec<PortBinding> {
        if binding.host_ip.is_some() || self.v4 == self.v6 {
            return vec![*binding];
        }
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let of = |ip| PortBinding {
            host_ip: Some(ip),
            ..*binding
        };
        any.map(of).to_vec()
    }

    /// Whether a binding takes ports of the host, on a network with addresses of these families.
    pub(crate) fn needs_host_port(self, binding: &PortBinding, v4: bool, v6: bool) -> bool {
        let v4 = v4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let v6 = v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let mut backends = on_host(binding, v4, v6).filter_map(|(_, backend)| backend);
        backends.any(|backend| !self.has(backend.is_ipv6()))
    }
}

/// The data plane's entries for the `ports` of an endpoint with these addresses.
///
/// Without a host address, IPv6 clients are served by the IPv4 address where the endpoint has no
/// other: the socket hooks map it.
pub(crate) fn frontends(
    ports: &[PortBinding],
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    routed: Routed,
) -> BTreeMap<Frontend, SocketAddr> {
    let (v4, v6) = (v4.map(IpAddr::from), v6.map(IpAddr::from));
    let mut result = BTreeMap::new();
    for binding in ports {
        let mut add = |address, port, backend| {
            let frontend = Frontend {
                address,
                protocol: binding.protocol,
                port,
                count: binding.count,
            };
            let backend = SocketAddr::new(backend, binding.container_port);
            result.insert(frontend, backend);
        };
        for (address, backend) in on_host(binding, v4, v6) {
            let backend = backend.filter(|backend| !routed.has(backend.is_ipv6()));
            if let (Some(backend), 1..) = (backend, binding.host_port) {
                add(address, binding.host_port, backend);
            }
        }
        for own in [v4, v6].into_iter().flatten() {
            let is_meant = binding
                .host_ip
                .is_none_or(|ip| ip.is_ipv6() == own.is_ipv6());
            if is_meant && routed.has(own.is_ipv6()) {
                add(FrontendAddress::Ip(own), binding.container_port, own);
            }
        }
    }
    if result.len() < MANY {
        return result;
    }
    merged(result)
}

/// From how many entries on it pays to look for runs.
const MANY: usize = 64;

/// Entries that continue each other, on both sides, as one: ten thousand ports asked for one by one
/// cost no more than as a range.
fn merged(frontends: BTreeMap<Frontend, SocketAddr>) -> BTreeMap<Frontend, SocketAddr> {
    let mut result = BTreeMap::new();
    let mut ascending = frontends.into_iter().peekable();
    while let Some((mut frontend, backend)) = ascending.next() {
        while let Some((next, _)) = ascending.next_if(|(next, its_backend)| {
            let after = |port: u16| port.checked_add(frontend.count);
            (next.address, next.protocol) == (frontend.address, frontend.protocol)
                && backend.ip() == its_backend.ip()
                && after(frontend.port) == Some(next.port)
                && after(backend.port()) == Some(its_backend.port())
        }) {
            frontend.count += next.count;
        }
        result.insert(frontend, backend);
    }
    result
}

/// The addresses of the host that a binding means, each with who serves it.
fn on_host(
    binding: &PortBinding,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
) -> impl Iterator<Item = (FrontendAddress, Option<IpAddr>)> + use<> {
    let any4 = (FrontendAddress::Any4, v4);
    let any6 = (FrontendAddress::Any6, v6.or(v4));
    let [first, second] = match binding.host_ip {
        None => [Some(any4), Some(any6)],
        Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => [Some(any4), None],
        Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => [Some(any6), None],
        Some(ip @ IpAddr::V4(_)) => [Some((FrontendAddress::Ip(ip), v4)), None],
        Some(ip @ IpAddr::V6(_)) => [Some((FrontendAddress::Ip(ip), v6.or(v4))), None],
    };
    first.into_iter().chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    const NAT: Routed = Routed {
        v4: false,
        v6: false,
    };
    const ALL: Routed = Routed { v4: true, v6: true };
    const SIX: Routed = Routed {
        v4: false,
        v6: true,
    };

    fn binding(host_ip: Option<&str>) -> PortBinding {
        let host_ip = host_ip.map_or("null".to_owned(), |ip| format!("{ip:?}"));
        let json = format!(
            r#"{{"protocol":"tcp","container_port":80,"host_port":8080,"host_ip":{host_ip}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn shown(
        host_ip: Option<&str>,
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
        routed: Routed,
    ) -> String {
        let all = frontends(&[binding(host_ip)], v4, v6, routed);
        let all: Vec<String> = all.iter().map(|(f, b)| format!("{f}>{b}")).collect();
        all.join(" ")
    }

    #[test]
    fn a_routed_family_answers_on_the_containers_address_alone() {
        let both = (Some(OWN4), Some(OWN6));
        for ((host_ip, (v4, v6), routed), expected) in [
            (
                (None, both, NAT),
                "0.0.0.0:8080/tcp>10.0.0.2:80 [::]:8080/tcp>[fd00::2]:80",
            ),
            (
                (None, (Some(OWN4), None), NAT),
                "0.0.0.0:8080/tcp>10.0.0.2:80 [::]:8080/tcp>10.0.0.2:80",
            ),
            ((Some("0.0.0.0"), both, NAT), "0.0.0.0:8080/tcp>10.0.0.2:80"),
            (
                (None, both, ALL),
                "10.0.0.2:80/tcp>10.0.0.2:80 [fd00::2]:80/tcp>[fd00::2]:80",
            ),
            (
                (None, both, SIX),
                "0.0.0.0:8080/tcp>10.0.0.2:80 [fd00::2]:80/tcp>[fd00::2]:80",
            ),
            ((Some("::"), both, SIX), "[fd00::2]:80/tcp>[fd00::2]:80"),
            ((Some("0.0.0.0"), both, SIX), "0.0.0.0:8080/tcp>10.0.0.2:80"),
            (
                (Some("192.0.2.1"), both, SIX),
                "192.0.2.1:8080/tcp>10.0.0.2:80",
            ),
            (
                (None, (Some(OWN4), None), ALL),
                "10.0.0.2:80/tcp>10.0.0.2:80",
            ),
            (
                (None, (None, Some(OWN6)), SIX),
                "[fd00::2]:80/tcp>[fd00::2]:80",
            ),
        ] {
            assert_eq!(shown(host_ip, v4, v6, routed), expected, "{host_ip:?}");
        }
    }

    #[test]
    fn a_port_of_the_host_is_needed_where_one_family_is_not_routed() {
        let needs = |host_ip, routed: Routed| routed.needs_host_port(&binding(host_ip), true, true);
        assert!(needs(None, NAT) && needs(None, SIX) && !needs(None, ALL));
        assert!(needs(Some("0.0.0.0"), SIX) && !needs(Some("::"), SIX));
        let v4_only = |routed: Routed| routed.needs_host_port(&binding(None), true, false);
        assert!(v4_only(SIX) && !v4_only(ALL));
        // Nothing is taken that will not answer.
        let mut open = binding(None);
        open.host_port = 0;
        let served = frontends(&[open], Some(OWN4), Some(OWN6), SIX);
        assert_eq!(served.len(), 1);
    }

    #[test]
    fn many_ports_that_continue_each_other_are_published_as_one() {
        let ports = |count: u16, container_port: fn(u16) -> u16| -> Vec<String> {
            let bindings = (20_000..20_000 + count).map(|port| PortBinding {
                protocol: api::net::Protocol::Tcp,
                container_port: container_port(port),
                host_port: port,
                host_port_last: None,
                count: 1,
                host_ip: Some(Ipv4Addr::UNSPECIFIED.into()),
            });
            let bindings: Vec<PortBinding> = bindings.collect();
            frontends(&bindings, Some(OWN4), None, NAT)
                .iter()
                .map(|(frontend, backend)| format!("{frontend} {backend}"))
                .collect()
        };
        assert_eq!(
            ports(10_000, |port| port),
            ["0.0.0.0:20000-29999/tcp 10.0.0.2:20000"]
        );
        assert_eq!(
            ports(10_000, |port| port + u16::from(port >= 20_100)),
            [
                "0.0.0.0:20000-20099/tcp 10.0.0.2:20000",
                "0.0.0.0:20100-29999/tcp 10.0.0.2:20101"
            ]
        );
        assert_eq!(ports(100, |_port| 80).len(), 100);
        // Where there are few, each is counted by itself.
        assert_eq!(ports(2, |port| port).len(), 2);
    }
}
