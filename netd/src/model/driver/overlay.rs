//! VXLAN between the nodes of a cluster: a bridge on each, with a port to all others.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use api::id::{Id, IfName};
use serde::{Deserialize, Serialize};

use super::bridge::{self, Bridge, SPOOF_CHECK};
use super::option::{Given, Options};
use super::{DriverError, Surroundings};
use crate::model::observed::{Link, Observed};
use crate::model::wireguard;

const DRIVER: &str = "overlay";
pub(crate) const VXLAN_IDS: &str = "com.docker.network.driver.overlay.vxlanid_list";
const ENCRYPTED: &str = "encrypted";
/// What our VXLAN interfaces are called, before twelve digits of the network's id.
pub(crate) const LINK_PREFIX: &str = "vx-";
/// Numbers below are left to those who choose by hand; those from the end on are the routing mesh's.
const CHOSEN: Range<u32> = 4096..MESH;
const MESH: u32 = 0x00f0_0000;

/// What one node has of a network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// That of the first segment, and what all bridges have in common.
    pub(crate) bridge: Bridge,
    pub(crate) link: IfName,
    pub(crate) vni: u32,
    /// The segments after the first: one for each further subnet of a family.
    #[serde(default)]
    pub(crate) more: Vec<Segment>,
    /// This node's end of the tunnels; a host that is alone has none.
    pub(crate) tunnel: Option<Tunnel>,
    /// Nothing of it leaves a node in clear text.
    #[serde(default)]
    pub(crate) encrypted: bool,
    /// Of an encrypted one, this node's address among the nodes.
    #[serde(default)]
    pub(crate) inner: Option<Ipv6Addr>,
}

/// One switch over all nodes: a bridge on each, and a VXLAN interface between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) bridge: IfName,
    pub(crate) link: IfName,
    pub(crate) vni: u32,
}

/// Where a node takes encapsulated packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tunnel {
    pub(crate) local: IpAddr,
    pub(crate) port: u16,
}

impl Tunnel {
    /// What encapsulation adds to a packet: an Ethernet header, VXLAN's, UDP's and IP's.
    pub(crate) fn overhead(self) -> u32 {
        match self.local {
            IpAddr::V4(_) => 14 + 8 + 8 + 20,
            IpAddr::V6(_) => 14 + 8 + 8 + 40,
        }
    }

    fn at(self, local: Ipv6Addr) -> Self {
        let local = local.into();
        Self { local, ..self }
    }

    /// Whether it begins at an address that is nothing without its link.
    pub(crate) fn is_local_to_link(self) -> bool {
        matches!(self.local, IpAddr::V6(local) if local.is_unicast_link_local())
    }
}

impl Overlay {
    /// In the order of their subnets.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        let first = Segment {
            bridge: self.bridge.link.clone(),
            link: self.link.clone(),
            vni: self.vni,
        };
        [first].into_iter().chain(self.more.iter().cloned())
    }

    /// Where the VXLAN interface begins: nowhere, as long as it could only send in clear text what it
    /// must not.
    pub(crate) fn end(&self) -> Option<Tunnel> {
        let tunnel = self.tunnel?;
        match self.encrypted {
            true => Some(tunnel.at(self.inner?)),
            false => Some(tunnel),
        }
    }

    /// What fits the link that carries this node's tunnels, or the host's where there are none.
    pub(crate) fn mtu(&self, observed: &Observed, configured: Option<u32>) -> Option<u32> {
        let Some(tunnel) = self.tunnel else {
            return configured.or(observed.underlay_mtu);
        };
        let has_it = |link: &&Link| link.addresses.iter().any(|a| a.net.addr() == tunnel.local);
        let link = observed.links.values().find(has_it);
        let below = link.map(|link| link.mtu).or(observed.underlay_mtu)?;
        let around = match self.inner {
            Some(inner) => wireguard::overhead(tunnel.local) + tunnel.at(inner).overhead(),
            None => tunnel.overhead(),
        };
        let fits = below.saturating_sub(around);
        Some(configured.map_or(fits, |configured| configured.min(fits)))
    }

    pub(super) fn parse(
        options: &Options<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Self, DriverError> {
        let mut bridge = Bridge::plain(around.id, options.mtu(around.mtu)?);
        let (mut asked, mut encrypted) = (None, false);
        for given in options.iter() {
            match given.key {
                VXLAN_IDS => asked = Some(numbers(given, around)?),
                ENCRYPTED => encrypted = is_on(given)?,
                SPOOF_CHECK => bridge.spoof_check = given.flag()?,
                _ => given.common(DRIVER, &[VXLAN_IDS, ENCRYPTED, SPOOF_CHECK])?,
            }
        }
        let free = CHOSEN.filter(|vni| !around.vnis.contains(vni));
        let vnis = asked.unwrap_or_else(|| free.take(around.segments).collect());
        if vnis.len() < around.segments {
            return Err(DriverError::NoVni);
        }
        let mut segments = vnis.into_iter().enumerate().map(|(at, vni)| Segment {
            bridge: match at {
                0 => bridge.link.clone(),
                _ => name(bridge::LINK_PREFIX, at, around.id),
            },
            link: name(LINK_PREFIX, at, around.id),
            vni,
        });
        let first = segments.next().ok_or(DriverError::NoVni)?;
        let more = segments.collect();
        Ok(Self {
            bridge,
            link: first.link,
            vni: first.vni,
            more,
            tunnel: None,
            encrypted,
            inner: None,
        })
    }
}

/// An option that may go without a value; stack files say yes.
fn is_on(given: Given<'_>) -> Result<bool, DriverError> {
    match given.value {
        "" | "yes" => Ok(true),
        "no" => Ok(false),
        _ => given.flag(),
    }
}

/// Docker's list: a number for each segment.
fn numbers(given: Given<'_>, around: &Surroundings<'_>) -> Result<Vec<u32>, DriverError> {
    let mut vnis = Vec::new();
    for number in given.value.split(',') {
        let number = number.trim().parse().ok();
        let vni = number.filter(|vni| (1..MESH).contains(vni));
        let vni =
            vni.ok_or_else(|| given.invalid("numbers from 1 to 15728639, separated by commas"))?;
        if around.vnis.contains(&vni) {
            return Err(DriverError::VniTaken(vni));
        }
        if vnis.contains(&vni) {
            return Err(DriverError::VniTwice(vni));
        }
        vnis.push(vni);
    }
    if vnis.len() != around.segments {
        return Err(DriverError::VniCount {
            given: vnis.len(),
            segments: around.segments,
        });
    }
    Ok(vnis)
}

/// A prefix and twelve digits of the network's id, of which the number of a further segment takes the
/// last ones.
fn name(prefix: &str, segment: usize, id: &Id) -> IfName {
    let number = match segment {
        0 => String::new(),
        _ => format!("-{segment}"),
    };
    let (digits, _) = id
        .short()
        .split_at(id.short().len().saturating_sub(number.len()));
    IfName::parse(&format!("{prefix}{digits}{number}")).expect("15 bytes without separators")
}
