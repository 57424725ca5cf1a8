//! The address and port the world sees, and how the maps spell it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use abi::map::FrontendKey;
use abi::{Address, Be16, protocol};
use api::net::Protocol;

/// Where a published port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    /// Every IPv4 address of the host.
    Any4,
    /// Every IPv6 address of the host.
    Any6,
    Ip(IpAddr),
}

/// A published port, a range of them, or all ports of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub address: FrontendAddress,
    pub protocol: Protocol,
    pub port: u16,
    /// How many ports from `port` on; zero for all there are.
    pub count: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = match self.address {
            FrontendAddress::Any4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            FrontendAddress::Any6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            FrontendAddress::Ip(ip) => ip,
        };
        if self.is_vip() {
            return write!(f, "{ip}/{}", self.protocol);
        }
        write!(f, "{}", SocketAddr::new(ip, self.port))?;
        if self.count > 1 {
            write!(f, "-{}", self.last_port())?;
        }
        write!(f, "/{}", self.protocol)
    }
}

impl Frontend {
    fn last_port(&self) -> u16 {
        self.port.saturating_add(self.count.saturating_sub(1))
    }

    /// All ports of an address that stands for a service on its own network. It is not published:
    /// no socket of the host is in its way, and its packets go where those to a backend's own address
    /// may. Its backends have port zero, and connections keep theirs.
    pub const fn vip(address: IpAddr, protocol: Protocol) -> Self {
        Self {
            address: FrontendAddress::Ip(address),
            protocol,
            port: 0,
            count: 0,
        }
    }

    pub const fn is_vip(&self) -> bool {
        self.count == 0
    }

    /// Whether it is more than one port.
    pub(super) fn is_range(&self) -> bool {
        self.count != 1
    }

    /// How many ports there are from `port` on.
    pub(super) fn ports(&self) -> u32 {
        match self.count {
            0 => 1 << 16,
            count => count.into(),
        }
    }

    /// The keys of its ports, each by itself.
    pub(super) fn keys(&self) -> impl Iterator<Item = FrontendKey> + use<> {
        let first = self.key();
        let ports = self.port..=self.last_port();
        ports.map(move |port| FrontendKey {
            port: Be16::new(port),
            ..first
        })
    }

    /// The key of its first port.
    pub(super) fn key(&self) -> FrontendKey {
        let address = match self.address {
            FrontendAddress::Any4 => Address::ANY4,
            FrontendAddress::Any6 => Address::ANY6,
            // The unspecified address as a literal means the same as the wildcard.
            FrontendAddress::Ip(ip) => address(ip),
        };
        FrontendKey {
            address,
            port: Be16::new(self.port),
            protocol: self.protocol.number(),
            scope: 0,
        }
    }

    /// `None` for a key that this version never writes.
    pub(super) fn from_key(key: &FrontendKey) -> Option<Self> {
        let protocol = known_protocol(key.protocol)?;
        let address = match key.address {
            Address::ANY4 => FrontendAddress::Any4,
            Address::ANY6 => FrontendAddress::Any6,
            address => FrontendAddress::Ip(ip(address)),
        };
        Some(Self {
            address,
            protocol,
            port: key.port.get(),
            count: 1,
        })
    }
}

/// `None` for one that nobody publishes.
pub(super) fn known_protocol(number: u8) -> Option<Protocol> {
    match number {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        protocol::SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

pub(super) fn address(ip: IpAddr) -> Address {
    Address::from_octets(match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    })
}

pub(super) fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(address.octets()).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for address in [
            FrontendAddress::Any4,
            FrontendAddress::Any6,
            FrontendAddress::Ip("127.0.0.1".parse().unwrap()),
            FrontendAddress::Ip("fd00::1".parse().unwrap()),
        ] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let frontend = Frontend {
                    address,
                    protocol,
                    port: 5353,
                    count: 1,
                };
                assert_eq!(Frontend::from_key(&frontend.key()), Some(frontend));
            }
        }
    }

    #[test]
    fn frontends_are_shown_as_people_write_them() {
        let frontend = Frontend {
            address: FrontendAddress::Any6,
            protocol: Protocol::Sctp,
            port: 9,
            count: 2,
        };
        assert_eq!(frontend.to_string(), "[::]:9-10/sctp");
        let vip = Frontend::vip("fd00::5".parse().unwrap(), Protocol::Tcp);
        assert_eq!(vip.to_string(), "fd00::5/tcp");
    }
}
