//! Published ports: what a binding means in the data plane, and who holds which port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use api::id::Id;
use api::net::{PortBinding, Protocol};

use super::endpoint::{Endpoint, EndpointKey};

/// Where the daemon looks for a port when it is to choose: Linux' default ephemeral range.
const CHOSEN: std::ops::RangeInclusive<u16> = 32768..=60999;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("invalid port mapping {binding}: {why}")]
    Invalid { binding: String, why: &'static str },
    #[error("port {port}/{protocol} is already allocated: published by {holder}")]
    Published {
        port: String,
        protocol: Protocol,
        holder: String,
    },
    #[error("port {port}/{protocol} is already in use by {holder}")]
    Bound {
        port: String,
        protocol: Protocol,
        holder: String,
    },
    #[error("no run of {count} free {protocol} ports is left between {first} and {last}")]
    Exhausted {
        count: u16,
        protocol: Protocol,
        first: u16,
        last: u16,
    },
}

/// A socket that a process of the host has bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundSocket {
    pub(crate) protocol: Protocol,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Whether it waits for peers: a TCP listener, an unconnected UDP socket. Others only make
    /// their port a bad choice.
    pub(crate) listens: bool,
    pub(crate) inode: u64,
}

/// Which sockets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Listening,
    All,
}

impl Bound {
    /// What has to be known to resolve these bindings: only a choice avoids sockets that do not
    /// listen.
    pub(crate) fn needed(requested: &[PortBinding], protocol: Protocol) -> Option<Self> {
        let mut wanted = requested.iter().filter(|b| b.protocol == protocol);
        let first = wanted.next()?;
        let open = |binding: &PortBinding| binding.host_port == 0;
        Some(if open(first) || wanted.any(open) {
            Self::All
        } else {
            Self::Listening
        })
    }
}

/// # Errors
/// [`PortError`] when the binding names no ports or more than there are.
pub(crate) fn check(binding: &PortBinding) -> Result<(), PortError> {
    let invalid = |why| {
        Err(PortError::Invalid {
            binding: format!(
                "{}:{}/{}",
                binding.host_port, binding.container_port, binding.protocol
            ),
            why,
        })
    };
    let last = |first: u16| first.checked_add(binding.count.saturating_sub(1));
    if binding.count == 0 {
        invalid("it has no ports")
    } else if binding.container_port == 0 {
        invalid("the container port is 0")
    } else if last(binding.container_port).is_none() || last(binding.host_port).is_none() {
        invalid("it runs past port 65535")
    } else if binding
        .host_port_last
        .is_some_and(|last| last < binding.host_port)
    {
        invalid("the range of host ports ends before it starts")
    } else if binding.host_port_last.is_some() && binding.host_port == 0 {
        invalid("the range of host ports starts at 0")
    } else {
        Ok(())
    }
}

/// Whether two host addresses, absent for all, have one in common.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        }
    }
}

/// A bound socket's addresses: an IPv6 wildcard usually takes IPv4 as well.
fn bound_overlaps(binding: Option<IpAddr>, bound: IpAddr) -> bool {
    match bound {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => overlap(binding, Some(v4.into())),
            None => overlap(binding, Some(bound)),
        },
        IpAddr::V4(_) => overlap(binding, Some(bound)),
    }
}

/// Who publishes a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortHolder {
    Endpoint(EndpointKey),
    Service(Id),
}

impl From<EndpointKey> for PortHolder {
    fn from(key: EndpointKey) -> Self {
        Self::Endpoint(key)
    }
}

/// One claim to a port: on which host address, all when absent, and whose.
type Holder = (Option<IpAddr>, Arc<PortHolder>);

/// Who holds which published port; derived from the endpoints and services.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    held: BTreeMap<(Protocol, u16), Vec<Holder>>,
}

impl PortTable {
    pub(crate) fn of<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Self {
        let mut table = Self::default();
        for endpoint in endpoints {
            table.insert(&endpoint.key().into(), &endpoint.attachment.ports);
        }
        table
    }

    pub(crate) fn insert(&mut self, holder: &PortHolder, ports: &[PortBinding]) {
        let holder = Arc::new(holder.clone());
        for (binding, port) in each_port(ports) {
            self.held
                .entry((binding.protocol, port))
                .or_default()
                .push((binding.host_ip, Arc::clone(&holder)));
        }
    }

    pub(crate) fn remove(&mut self, holder: &PortHolder, ports: &[PortBinding]) {
        for (binding, port) in each_port(ports) {
            let key = (binding.protocol, port);
            if let Some(holders) = self.held.get_mut(&key) {
                holders.retain(|(_, other)| **other != *holder);
                if holders.is_empty() {
                    self.held.remove(&key);
                }
            }
        }
    }

    fn holder(&self, protocol: Protocol, ip: Option<IpAddr>, port: u16) -> Option<&PortHolder> {
        let holders = self.held.get(&(protocol, port))?;
        holders
            .iter()
            .find(|(held, _)| overlap(*held, ip))
            .map(|(_, holder)| &**holder)
    }

    /// Whether another than `holder` has the port, of any protocol on any address.
    pub(crate) fn is_held_by_another(&self, holder: &PortHolder, port: u16) -> bool {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .filter_map(|protocol| self.held.get(&(protocol, port)))
            .flatten()
            .any(|(_, other)| **other != *holder)
    }
}

fn each_port(ports: &[PortBinding]) -> impl Iterator<Item = (&PortBinding, u16)> {
    // One that takes no port of the host has none.
    let on_host = ports.iter().filter(|binding| binding.host_port != 0);
    on_host.flat_map(|binding| (0..binding.count).map(move |o| (binding, binding.host_port + o)))
}

/// Names the holder of a port for an error message.
pub(crate) trait HolderNames {
    fn holder(&self, holder: &PortHolder) -> String;
    fn process(&self, socket: &BoundSocket) -> String;
}

/// Fills in the host ports left open and checks that every port is free.
///
/// # Errors
/// [`PortError::Published`] and [`PortError::Bound`] name the holder.
pub(crate) fn resolve(
    requested: &[PortBinding],
    table: &PortTable,
    bound: &[BoundSocket],
    names: &dyn HolderNames,
) -> Result<Vec<PortBinding>, PortError> {
    let mut result: Vec<PortBinding> = Vec::with_capacity(requested.len());
    let bound = BoundPorts::of(bound);
    let mut own = PortTable::default();
    let itself = PortHolder::Endpoint(EndpointKey::new("", ""));
    // Given ports first, so that no chosen one takes them.
    let is_given = |b: &&PortBinding| b.host_port != 0 && b.host_port_last.is_none();
    let (given, open): (Vec<_>, Vec<_>) = requested.iter().partition(is_given);
    for binding in given.into_iter().copied() {
        let range = Range::of(&binding);
        if let Some((port, _itself)) = range.published(&own) {
            return Err(PortError::Published {
                port: show(binding.host_ip, port),
                protocol: binding.protocol,
                holder: "this request itself".to_owned(),
            });
        }
        range.check_published(table, names)?;
        range.check_bound(&bound, names)?;
        own.insert(&itself, &[binding]);
        result.push(binding);
    }
    for binding in open {
        let mut chosen = *binding;
        chosen.host_port = choose(&chosen, [&own, table], &bound)?;
        chosen.host_port_last = None;
        own.insert(&itself, &[chosen]);
        result.push(chosen);
    }
    Ok(result)
}

/// Sockets by their ports: a busy host has thousands of each.
struct BoundPorts<'a>(BTreeMap<u16, Vec<&'a BoundSocket>>);

impl<'a> BoundPorts<'a> {
    fn of(sockets: &'a [BoundSocket]) -> Self {
        let mut ports = BTreeMap::<u16, Vec<&BoundSocket>>::new();
        for socket in sockets {
            ports.entry(socket.port).or_default().push(socket);
        }
        Self(ports)
    }

    fn within(&self, range: Range) -> impl Iterator<Item = &'a BoundSocket> {
        let last = u16::try_from(range.last()).unwrap_or(u16::MAX);
        let ports = self.0.range(range.first..=last);
        ports
            .flat_map(|(_port, sockets)| sockets.iter().copied())
            .filter(move |socket| range.includes(socket))
    }
}

fn choose(
    binding: &PortBinding,
    tables: [&PortTable; 2],
    bound: &BoundPorts<'_>,
) -> Result<u16, PortError> {
    let (first, last) = match binding.host_port_last {
        Some(last) => (binding.host_port, last),
        None => CHOSEN.into_inner(),
    };
    (first..=last)
        .find(|first| {
            let range = Range {
                first: *first,
                ..Range::of(binding)
            };
            range.last() <= u32::from(last)
                && tables.iter().all(|table| range.published(table).is_none())
                && bound.within(range).next().is_none()
        })
        .ok_or(PortError::Exhausted {
            count: binding.count,
            protocol: binding.protocol,
            first,
            last,
        })
}

/// Host ports of one binding.
#[derive(Debug, Clone, Copy)]
struct Range {
    protocol: Protocol,
    ip: Option<IpAddr>,
    first: u16,
    count: u16,
}

impl Range {
    fn of(binding: &PortBinding) -> Self {
        Self {
            protocol: binding.protocol,
            ip: binding.host_ip,
            first: binding.host_port,
            count: binding.count,
        }
    }

    fn last(self) -> u32 {
        u32::from(self.first) + u32::from(self.count) - 1
    }

    fn includes(self, socket: &BoundSocket) -> bool {
        self.protocol == socket.protocol
            && (u32::from(self.first)..=self.last()).contains(&u32::from(socket.port))
            && bound_overlaps(self.ip, socket.address)
    }

    fn published(self, table: &PortTable) -> Option<(u16, &PortHolder)> {
        (0..self.count).find_map(|offset| {
            let port = self.first.checked_add(offset)?;
            let holder = table.holder(self.protocol, self.ip, port)?;
            Some((port, holder))
        })
    }

    fn check_published(self, table: &PortTable, names: &dyn HolderNames) -> Result<(), PortError> {
        match self.published(table) {
            None => Ok(()),
            Some((port, holder)) => Err(PortError::Published {
                port: show(self.ip, port),
                protocol: self.protocol,
                holder: names.holder(holder),
            }),
        }
    }

    fn check_bound(self, bound: &BoundPorts<'_>, names: &dyn HolderNames) -> Result<(), PortError> {
        match bound.within(self).find(|socket| socket.listens) {
            None => Ok(()),
            Some(socket) => Err(PortError::Bound {
                port: show(self.ip, socket.port),
                protocol: self.protocol,
                holder: names.process(socket),
            }),
        }
    }
}

fn show(ip: Option<IpAddr>, port: u16) -> String {
    match ip {
        Some(ip) => SocketAddr::new(ip, port).to_string(),
        None => port.to_string(),
    }
}

#[cfg(test)]
mod tests;
