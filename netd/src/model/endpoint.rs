//! Endpoints: checking a request, and the record that is kept.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use api::id::{Id, IfName, MacAddr};
use api::net::{AttachRequest, Attachment, Dns, Link, LinkBy, PortBinding, Route};
use serde::{Deserialize, Serialize};
use sys::netns::NsId;

use super::address::{self, Holders};
use super::endpoints::Endpoints;
use super::ipam::{IpamError, Walks};
use super::network::{Network, Stage};
use super::port::{self, PortError};
use super::published::{self, Routed};
use super::route;
use super::service::{Membership, ServiceError};
use crate::bpf::Frontend;

/// Which endpoint: one interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) container: String,
    pub(crate) ifname: String,
}

impl EndpointKey {
    pub(crate) fn new(container: &str, ifname: &str) -> Self {
        Self {
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        }
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

/// A sandbox's network namespace: where it was found, and which one it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) path: String,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// `SO_NETNS_COOKIE`; absent below Linux 5.14.
    pub(crate) cookie: Option<u64>,
}

impl Sandbox {
    pub(crate) fn id(&self) -> NsId {
        NsId {
            device: self.device,
            inode: self.inode,
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) stage: Stage,
    /// Ascends with every attach: a sandbox's first endpoint carries its default route.
    pub(crate) order: u64,
    pub(crate) attachment: Attachment,
    pub(crate) sandbox: Sandbox,
    /// Resolvers asked for; the embedded server forwards to them.
    pub(crate) upstreams: Vec<IpAddr>,
    /// Names that this sandbox alone sees.
    #[serde(default)]
    pub(crate) links: Vec<Link>,
    #[serde(default)]
    pub(crate) routed: Routed,
    /// The default routes it can carry; those it does are among the attachment's.
    #[serde(default)]
    pub(crate) defaults: Vec<Route>,
    #[serde(default)]
    pub(crate) memberships: Vec<Membership>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error(
        "invalid container id {id:?}: expected [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 253 characters"
    )]
    Container { id: String },
    #[error(
        "invalid name {name:?}: 1 to 253 letters, digits, '-', '_' and '.', labels of at most 63"
    )]
    Name { name: String },
    #[error("container {container} has no interface {ifname} on any network")]
    NotFound { container: String, ifname: IfName },
    #[error(
        "interface {ifname} of container {container} is on network {network} already: detach it first, or choose another name"
    )]
    Conflict {
        container: String,
        ifname: IfName,
        network: String,
    },
    #[error("container {container} is on network {network} already, as {ifname}")]
    Twice {
        container: String,
        ifname: IfName,
        network: String,
    },
    #[error("network namespace {path} of container {container} has an interface {ifname} already")]
    LinkExists {
        container: String,
        path: String,
        ifname: IfName,
    },
    #[error("{path} is the daemon's own network namespace: a container needs one of its own")]
    HostNamespace { path: String },
    #[error(
        "network {network} (driver {driver}) has no endpoints: containers on it get no interface"
    )]
    NoEndpoints {
        network: String,
        driver: &'static str,
    },
    #[error("network {network} has no IPv6 subnet: create it with --ipv6 to use address {address}")]
    NoIpv6 { network: String, address: Ipv6Addr },
    #[error("MAC address {mac} is used by container {container} on network {network} already")]
    MacInUse {
        mac: MacAddr,
        container: String,
        network: String,
    },
    #[error("network {network} limits no rates: its interfaces are not made here")]
    Bandwidth { network: String },
    #[error("invalid owner {owner:?}: 1 to 253 printable characters")]
    Owner { owner: String },
    #[error("{given} addresses for container {container}: one of each family at most")]
    Addresses { container: String, given: usize },
    #[error(
        "network {network} (driver {driver}) shares its parent's MAC address: {mac} cannot be used"
    )]
    SharedMac {
        network: String,
        driver: &'static str,
        mac: MacAddr,
    },
    #[error(
        "network {network} takes one container, which is {container}: its macvlan mode is passthru"
    )]
    Exclusive { network: String, container: String },
    #[error(
        "network {network} (driver {driver}) publishes no ports: containers are reached at their own addresses"
    )]
    NoPorts {
        network: String,
        driver: &'static str,
    },
    #[error(
        "addresses {v4} and {v6} are of different segments of network {network}: choose them from its \
         first subnets of IPv4 and IPv6, or from its second ones, and so on"
    )]
    Apart {
        network: String,
        v4: IpAddr,
        v6: IpAddr,
    },
    #[error("network {network} has no IPv4 subnet: address {address} cannot be used")]
    NoIpv4 { network: String, address: Ipv4Addr },
    #[error(
        "network {network} is not manually attachable: only services' containers join it, unless it is \
         created with --attachable"
    )]
    NotAttachable { network: String },
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl EndpointError {
    /// Whether another endpoint has what was asked for: it may be one whose sandbox is gone.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(
            self,
            Self::MacInUse { .. }
                | Self::Ipam(IpamError::InUse { .. } | IpamError::Exhausted { .. })
                | Self::Port(PortError::Published { .. } | PortError::Exhausted { .. })
        )
    }
}

/// What only the caller knows about a new endpoint.
pub(crate) struct NewEndpoint<'a> {
    pub(crate) id: Id,
    pub(crate) order: u64,
    pub(crate) sandbox: Sandbox,
    /// The host ports are resolved.
    pub(crate) ports: Vec<PortBinding>,
    pub(crate) dns: Dns,
    /// The link address of the network's parent, if it has one.
    pub(crate) parent_mac: Option<MacAddr>,
    /// All that exist, of other networks as well.
    pub(crate) holders: Holders<'a>,
    /// Its part in services, which are on its network.
    pub(crate) memberships: Vec<Membership>,
    /// How far the walk through each subnet has come.
    pub(crate) walks: &'a Walks,
}

/// Checks what can be without looking at anything else.
pub(crate) fn check(request: &AttachRequest) -> Result<(), EndpointError> {
    if !is_container_id(&request.container_id) {
        return Err(EndpointError::Container {
            id: request.container_id.chars().take(64).collect(),
        });
    }
    let links = request.links.iter().map(|link| &link.alias);
    for name in request.name.iter().chain(&request.aliases).chain(links) {
        check_name(name)?;
    }
    for binding in &request.ports {
        port::check(binding)?;
    }
    if let Some(owner) = request.owner.as_ref().filter(|owner| !is_owner(owner)) {
        return Err(EndpointError::Owner {
            owner: owner.chars().take(64).collect(),
        });
    }
    if request.bandwidth.is_some() && request.link == LinkBy::Others {
        return Err(EndpointError::Bandwidth {
            network: request.network.clone(),
        });
    }
    Ok(())
}

/// Checks a name that is to resolve.
pub(crate) fn check_name(name: &str) -> Result<(), EndpointError> {
    if is_host_name(name) {
        return Ok(());
    }
    Err(EndpointError::Name {
        name: name.chars().take(64).collect(),
    })
}

impl Endpoint {
    /// Chooses the addresses and writes the attachment down.
    pub(crate) fn create(
        request: &AttachRequest,
        network: &Network,
        new: NewEndpoint<'_>,
    ) -> Result<Self, EndpointError> {
        let mtu = check_driver(request, network, new.holders.endpoints)?;
        let addresses = address::choose(request, network, &new)?;
        let is_ours = request.link == LinkBy::Hawser;
        let mac = match request.mac {
            Some(mac) => Some(address::check_mac(mac, network, new.holders.endpoints)?),
            None if !is_ours => None,
            None if network.driver.has_own_macs() => Some(address::derived_mac(&addresses)),
            None => new.parent_mac,
        };
        let has_pair = is_ours && network.bridge().is_some();
        let host_ifname = has_pair.then(|| host_ifname(&new.id));
        let routes = route::choose(request, network, &addresses);
        let defaults = routes.iter().filter(|route| route::is_default(route));
        let defaults = defaults.copied().collect();
        let attachment = Attachment {
            network: network.name.clone(),
            network_id: network.id.clone(),
            endpoint_id: new.id,
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
            netns: request.netns.clone(),
            host_ifname,
            mac,
            mtu,
            routes,
            addresses,
            name: request.name.clone(),
            aliases: request.aliases.clone(),
            ports: new.ports,
            dns: new.dns,
            link: request.link,
            bandwidth: request.bandwidth,
            owner: request.owner.clone(),
            gw_priority: request.gw_priority,
        };
        Ok(Self {
            stage: Stage::Pending,
            order: new.order,
            attachment,
            sandbox: new.sandbox,
            upstreams: request.dns.nameservers.clone(),
            links: request.links.clone(),
            routed: network.routed(),
            defaults,
            memberships: new.memberships,
        })
    }

    pub(crate) fn key(&self) -> EndpointKey {
        EndpointKey::new(
            &self.attachment.container_id,
            self.attachment.ifname.as_str(),
        )
    }

    pub(crate) fn is_on(&self, network: &Id) -> bool {
        self.attachment.network_id == *network
    }

    pub(crate) fn membership(&self, service: &Id) -> Option<&Membership> {
        let mut memberships = self.memberships.iter();
        memberships.find(|membership| membership.service == *service)
    }

    /// The address of a family.
    pub(crate) fn address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses().find(|address| address.is_ipv6() == v6)
    }

    /// How people know the container.
    pub(crate) fn display_name(&self) -> &str {
        let attachment = &self.attachment;
        attachment
            .name
            .as_deref()
            .unwrap_or(&attachment.container_id)
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.attachment.addresses.iter().map(|a| a.address.addr())
    }

    pub(crate) fn frontends(&self) -> impl Iterator<Item = (Frontend, SocketAddr)> {
        let mut v4: Option<Ipv4Addr> = None;
        let mut v6: Option<Ipv6Addr> = None;
        for address in self.addresses() {
            match address {
                IpAddr::V4(address) => v4 = v4.or(Some(address)),
                IpAddr::V6(address) => v6 = v6.or(Some(address)),
            }
        }
        published::frontends(&self.attachment.ports, v4, v6, self.routed).into_iter()
    }

    pub(crate) fn host_ports(&self) -> impl Iterator<Item = u16> {
        let ports = self.attachment.ports.iter();
        let on_host = ports.filter(|binding| binding.host_port != 0);
        on_host.flat_map(|binding| (0..binding.count).map(|offset| binding.host_port + offset))
    }

    /// The device that limits what the sandbox sends, when that is limited.
    pub(crate) fn buffer(&self) -> Option<IfName> {
        let limits = self.attachment.bandwidth?;
        let id = self.attachment.endpoint_id.as_str();
        (limits.egress_rate > 0)
            .then(|| IfName::parse(&format!("rate{}", &id[..8])).expect("12 plain bytes"))
    }

    pub(crate) fn has_default_route(&self) -> bool {
        self.attachment.routes.iter().any(route::is_default)
    }

    /// The default routes of a family that it can carry.
    pub(crate) fn offered(&self, v6: bool) -> impl Iterator<Item = &Route> {
        // A record without them is one of before they were kept.
        let known = match self.defaults.as_slice() {
            [] => &self.attachment.routes,
            defaults => defaults,
        };
        known.iter().filter(move |route| is_default_of(route, v6))
    }

    /// Whether it carries the default route of a family.
    pub(crate) fn carries(&self, v6: bool) -> bool {
        let mut routes = self.attachment.routes.iter();
        routes.any(|route| is_default_of(route, v6))
    }

    /// Lets it carry the default route of a family, or not; whether that is a change.
    pub(crate) fn carry(&mut self, v6: bool, carries: bool) -> bool {
        if self.carries(v6) == carries {
            return false;
        }
        let offered: Vec<Route> = self.offered(v6).copied().collect();
        let routes = &mut self.attachment.routes;
        match carries {
            true => routes.extend(offered),
            false => routes.retain(|route| !is_default_of(route, v6)),
        }
        true
    }
}

fn is_default_of(route: &Route, v6: bool) -> bool {
    route::is_default(route) && route.dst.addr().is_ipv6() == v6
}

fn host_ifname(id: &Id) -> IfName {
    IfName::parse(&format!("veth{}", &id.as_str()[..8])).expect("12 bytes without separators")
}

/// Refuses what the network's driver cannot do; the interface's MTU, 0 where others make it and the
/// network has none.
fn check_driver(
    request: &AttachRequest,
    network: &Network,
    others: &Endpoints,
) -> Result<u32, EndpointError> {
    let driver = &network.driver;
    let mtu = match (driver.mtu(), request.link) {
        (Some(mtu), _) => mtu.bytes,
        (None, LinkBy::Others) if !network.subnets.is_empty() => 0,
        (None, _) => {
            return Err(EndpointError::NoEndpoints {
                network: network.name.to_string(),
                driver: driver.name(),
            });
        }
    };
    if request.link == LinkBy::Others {
        return Ok(mtu);
    }
    let mut neighbours = others.values().filter(|e| e.is_on(&network.id));
    if driver.is_exclusive()
        && let Some(other) = neighbours.next()
    {
        return Err(EndpointError::Exclusive {
            network: network.name.to_string(),
            container: other.display_name().to_owned(),
        });
    }
    if let (Some(mac), false) = (request.mac, driver.has_own_macs()) {
        return Err(EndpointError::SharedMac {
            network: network.name.to_string(),
            driver: driver.name(),
            mac,
        });
    }
    if !request.ports.is_empty() && driver.parent().is_some() {
        return Err(EndpointError::NoPorts {
            network: network.name.to_string(),
            driver: driver.name(),
        });
    }
    Ok(mtu)
}

fn is_container_id(id: &str) -> bool {
    (1..=253).contains(&id.len())
        && id.as_bytes()[0].is_ascii_alphanumeric()
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_owner(owner: &str) -> bool {
    (1..=253).contains(&owner.len()) && owner.chars().all(|c| !c.is_control())
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        })
}
