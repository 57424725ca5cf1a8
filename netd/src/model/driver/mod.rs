//! Network drivers: what carries a network's frames, and what that means for its endpoints.
//!
//! A driver is a value of [`Driver`]; everything else asks it by the methods here and never which
//! one it is. The options are Docker's, by Docker's names.

mod bridge;
mod ipvlan;
mod macvlan;
mod option;
mod overlay;
mod parent;

use std::collections::{BTreeMap, BTreeSet};

use api::id::{Id, IfName, InvalidId};
use serde::{Deserialize, Serialize};

use super::observed::Link;

pub(crate) use bridge::{BRIDGE_NAME, Bridge, GatewayMode};
pub(crate) use ipvlan::{Ipvlan, IpvlanFlag, IpvlanMode};
pub(crate) use macvlan::{Macvlan, MacvlanMode};
pub(crate) use option::Options;
pub(crate) use overlay::{LINK_PREFIX, Overlay, Segment, Tunnel, VXLAN_IDS};
pub(crate) use parent::{Made, Parent, ParentError, ParentUse, Sharing};

/// The driver of networks that are nothing but addresses.
const POOL: &str = "pool";

/// What carries a network's frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Driver {
    Bridge(Bridge),
    Macvlan(Macvlan),
    Ipvlan(Ipvlan),
    Overlay(Overlay),
    /// The host's own namespace. There is nothing to attach.
    Host,
    /// No interface but loopback. There is nothing to attach.
    Null,
    /// Addresses only: others make the interfaces, and ask for addresses.
    Pool,
}

/// Largest packet of a network's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mtu {
    pub(crate) bytes: u32,
    /// Asked for by an option: it does not follow the underlay.
    pub(crate) fixed: bool,
}

/// What a driver's options are checked against.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) id: &'a Id,
    /// MTU of networks that ask for none and have no parent.
    pub(crate) mtu: u32,
    /// Links of the host.
    pub(crate) links: &'a BTreeMap<IfName, Link>,
    /// Interfaces that other networks are made from.
    pub(crate) parents: &'a [ParentUse],
    /// VXLAN network numbers of other networks.
    pub(crate) vnis: &'a BTreeSet<u32>,
    pub(crate) internal: bool,
    /// How many subnets of one family there are to be, at most.
    pub(crate) segments: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    #[error("unknown network driver {0:?}: expected bridge, overlay, macvlan, ipvlan or {POOL}")]
    Unknown(String),
    #[error("VXLAN network number {0} is that of another network already: choose another one")]
    VniTaken(u32),
    #[error("VXLAN network number {0} is given twice: each subnet has one of its own")]
    VniTwice(u32),
    #[error("{given} VXLAN network numbers for {segments} subnets: give one for each")]
    VniCount { given: usize, segments: usize },
    #[error("no VXLAN network number is left: remove unused networks")]
    NoVni,
    #[error("only one {0} network is allowed")]
    Single(String),
    #[error("unknown option {key:?} of the {driver} driver: known are {known}")]
    Option {
        driver: &'static str,
        key: String,
        known: String,
    },
    #[error("invalid value {value:?} of option {key}: expected {expected}")]
    Value {
        key: String,
        value: String,
        expected: &'static str,
    },
    #[error("option {key}: {source}")]
    Name {
        key: &'static str,
        source: InvalidId,
    },
    #[error("option {key}={value} needs {needs}")]
    Needs {
        key: String,
        value: String,
        needs: &'static str,
    },
    #[error("{kind} is not in this kernel ({config}): {way_out}")]
    NoKernelSupport {
        kind: LinkKind,
        config: &'static str,
        way_out: &'static str,
    },
    #[error(transparent)]
    Parent(#[from] ParentError),
}

/// Kinds of links that a kernel may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    Macvlan,
    Ipvlan,
    Vlan,
    Vxlan,
    WireGuard,
}

impl LinkKind {
    /// As the kernel calls it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Vxlan => "vxlan",
            Self::WireGuard => "wireguard",
        }
    }

    pub(crate) fn missing(self) -> DriverError {
        let (config, way_out) = match self {
            Self::Macvlan => ("CONFIG_MACVLAN", "use another driver"),
            Self::Ipvlan => ("CONFIG_IPVLAN", "use driver macvlan"),
            Self::Vlan => (
                "CONFIG_VLAN_8021Q",
                "name a parent interface that exists already",
            ),
            Self::Vxlan => ("CONFIG_VXLAN", "use another driver"),
            Self::WireGuard => (
                "CONFIG_WIREGUARD",
                "boot one that has it, on every node of the network, or leave option encrypted out",
            ),
        };
        DriverError::NoKernelSupport {
            kind: self,
            config,
            way_out,
        }
    }
}

impl std::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Driver {
    /// The driver called `name`, as `options` want it.
    pub(crate) fn parse(
        name: &str,
        options: &Options<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Self, DriverError> {
        match name {
            "bridge" => Bridge::parse(options, around).map(Self::Bridge),
            "macvlan" => Macvlan::parse(options, around).map(Self::Macvlan),
            "ipvlan" => Ipvlan::parse(options, around).map(Self::Ipvlan),
            POOL => options.none(POOL).map(|()| Self::Pool),
            "overlay" => Overlay::parse(options, around).map(Self::Overlay),
            "host" | "null" => Err(DriverError::Single(name.to_owned())),
            _ => Err(DriverError::Unknown(name.chars().take(64).collect())),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(_) => "ipvlan",
            Self::Overlay(_) => "overlay",
            Self::Host => "host",
            Self::Null => "null",
            Self::Pool => POOL,
        }
    }

    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        match self {
            Self::Bridge(bridge) => Some(bridge),
            Self::Overlay(overlay) => Some(&overlay.bridge),
            _ => None,
        }
    }

    pub(crate) fn overlay(&self) -> Option<&Overlay> {
        match self {
            Self::Overlay(overlay) => Some(overlay),
            _ => None,
        }
    }

    /// Who knows the driver's networks: this host, or the cluster.
    pub(crate) fn scope(&self) -> &'static str {
        match self {
            Self::Overlay(_) => "swarm",
            _ => "local",
        }
    }

    /// The interface that endpoints are made from, of drivers that have one.
    pub(crate) fn parent(&self) -> Option<&Parent> {
        match self {
            Self::Macvlan(macvlan) => Some(&macvlan.parent),
            Self::Ipvlan(ipvlan) => Some(&ipvlan.parent),
            Self::Bridge(_) | Self::Overlay(_) | Self::Host | Self::Null | Self::Pool => None,
        }
    }

    /// The MTU of the network's links; drivers without endpoints have none.
    pub(crate) fn mtu(&self) -> Option<Mtu> {
        match self {
            Self::Bridge(bridge) => Some(bridge.mtu),
            Self::Macvlan(macvlan) => Some(macvlan.mtu),
            Self::Ipvlan(ipvlan) => Some(ipvlan.mtu),
            Self::Overlay(overlay) => Some(overlay.bridge.mtu),
            Self::Host | Self::Null | Self::Pool => None,
        }
    }

    /// Follows the underlay, unless an option fixed the MTU.
    pub(crate) fn follow_mtu(&mut self, bytes: u32) {
        let mtu = match self {
            Self::Bridge(bridge) => &mut bridge.mtu,
            Self::Macvlan(macvlan) => &mut macvlan.mtu,
            Self::Ipvlan(ipvlan) => &mut ipvlan.mtu,
            Self::Overlay(overlay) => &mut overlay.bridge.mtu,
            Self::Host | Self::Null | Self::Pool => return,
        };
        if !mtu.fixed {
            mtu.bytes = bytes;
        }
    }

    /// Whether containers get an interface from us.
    pub(crate) fn has_endpoints(&self) -> bool {
        self.mtu().is_some()
    }

    /// Whether each endpoint has a link address of its own, and not its parent's.
    pub(crate) fn has_own_macs(&self) -> bool {
        match self {
            Self::Macvlan(macvlan) => macvlan.mode != MacvlanMode::Passthru,
            Self::Ipvlan(_) => false,
            Self::Bridge(_) | Self::Overlay(_) | Self::Host | Self::Null | Self::Pool => true,
        }
    }

    /// Whether one endpoint takes the whole network.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(self, Self::Macvlan(macvlan) if macvlan.mode == MacvlanMode::Passthru)
    }

    /// Whether a gateway is a neighbour on the network. Where it is not, routes name the interface
    /// alone.
    pub(crate) fn has_gateway(&self) -> bool {
        !matches!(self, Self::Ipvlan(ipvlan) if ipvlan.mode.is_layer3())
    }

    /// The kinds of links that the kernel must know.
    pub(crate) fn link_kinds(&self) -> impl Iterator<Item = LinkKind> {
        let own = match self {
            Self::Macvlan(_) => Some(LinkKind::Macvlan),
            Self::Ipvlan(_) => Some(LinkKind::Ipvlan),
            Self::Overlay(_) => Some(LinkKind::Vxlan),
            Self::Bridge(_) | Self::Host | Self::Null | Self::Pool => None,
        };
        let parent = self.parent().and_then(|parent| match parent.made {
            Some(Made::Vlan { .. }) => Some(LinkKind::Vlan),
            _ => None,
        });
        let encrypted = self.overlay().is_some_and(|overlay| overlay.encrypted);
        let encryption = encrypted.then_some(LinkKind::WireGuard);
        own.into_iter().chain(parent).chain(encryption)
    }
}

#[cfg(test)]
mod tests;
