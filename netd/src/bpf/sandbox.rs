//! The network namespaces whose sockets the hooks act on.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use abi::map::{SANDBOX_APART, SANDBOX_HOST, SANDBOXES, SandboxValue};
use abi::socket::DNS_ADDRESS;
use abi::{Address, Be16};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};

use super::Change;
use super::error::{BpfError, optional};
use super::frontend::{address, ip};
use super::object;

/// What the hooks do for a network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Sandbox {
    /// The host's own: its loopback reaches published ports, and its processes cannot bind them.
    pub host: bool,
    /// On no network that leads to the containers behind published ports: the host's addresses mean
    /// what they say.
    pub apart: bool,
    /// Where 127.0.0.11:53 leads.
    pub dns: Option<SocketAddr>,
    /// Where it leads sockets that are bound to loopback: on 127.0.0.11, inside.
    pub dns_inside: Option<SocketAddr>,
}

impl Sandbox {
    pub(crate) const HOST: Self = Self {
        host: true,
        apart: false,
        dns: None,
        dns_inside: None,
    };

    fn value(self) -> SandboxValue {
        let (dns_address, dns_port) = match self.dns {
            Some(dns) => (address(dns.ip()), Be16::new(dns.port())),
            None => (Address::default(), Be16::ZERO),
        };
        SandboxValue {
            dns_address,
            dns_port,
            dns_inside_port: self
                .dns_inside
                .map_or(Be16::ZERO, |inside| Be16::new(inside.port())),
            flags: if self.host { SANDBOX_HOST } else { 0 }
                | if self.apart { SANDBOX_APART } else { 0 },
        }
    }

    fn from_value(value: &SandboxValue) -> Self {
        let dns = SocketAddr::new(ip(value.dns_address), value.dns_port.get());
        let inside = SocketAddr::new(ip(DNS_ADDRESS), value.dns_inside_port.get());
        Self {
            host: value.flags & SANDBOX_HOST != 0,
            apart: value.flags & SANDBOX_APART != 0,
            dns: Some(dns).filter(|dns| dns.port() != 0),
            dns_inside: Some(inside).filter(|inside| inside.port() != 0),
        }
    }
}

pub(super) struct Sandboxes {
    map: HashMap<MapData, u64, SandboxValue>,
}

impl Sandboxes {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: object::take(object, SANDBOXES)?,
        })
    }

    pub(super) fn set(&mut self, cookie: u64, sandbox: Sandbox) -> Result<Change, BpfError> {
        let failed = BpfError::map(SANDBOXES);
        let value = sandbox.value();
        let change = match optional(self.map.get(&cookie, 0)).map_err(&failed)? {
            Some(old) if old == value => return Ok(Change::Unchanged),
            Some(_) => Change::Changed,
            None => Change::Created,
        };
        self.map.insert(cookie, value, 0).map_err(&failed)?;
        Ok(change)
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Result<Change, BpfError> {
        let removed = optional(self.map.remove(&cookie)).map_err(BpfError::map(SANDBOXES))?;
        Ok(removed.map_or(Change::Unchanged, |()| Change::Changed))
    }

    pub(super) fn all(&self) -> Result<BTreeMap<u64, Sandbox>, BpfError> {
        self.map
            .iter()
            .map(|entry| entry.map(|(cookie, value)| (cookie, Sandbox::from_value(&value))))
            .collect::<Result<_, _>>()
            .map_err(BpfError::map(SANDBOXES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        for sandbox in [
            Sandbox::HOST,
            Sandbox {
                host: false,
                apart: true,
                dns: Some("172.18.0.1:10053".parse().unwrap()),
                dns_inside: Some("127.0.0.11:10054".parse().unwrap()),
            },
            Sandbox {
                host: false,
                apart: false,
                dns: Some("[fd00::1]:53".parse().unwrap()),
                dns_inside: None,
            },
        ] {
            assert_eq!(Sandbox::from_value(&sandbox.value()), sandbox);
        }
    }
}
