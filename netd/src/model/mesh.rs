//! The way that packets for published ports take to backends on other nodes: one VXLAN interface for
//! all of them, whose link addresses tell the rest (`abi::tunnel`).
//!
//! It is there while a service of the cluster publishes a port, and leads to the nodes that have members
//! of such services.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::id::{IfName, MacAddr, NodeId};
use ipnet::{IpNet, Ipv4Net};

use super::desired::Desired;
use super::forwarding::Forwarding;
use super::observed::{Link, Observed};
use super::service::{At, ingress};
use super::step::{Mesh, Step};
use crate::bpf::Underlay;

/// Its network number: overlays' are smaller.
pub(crate) const VNI: u32 = 0xf0_0000;
/// Of overlays too: what begins with `vx-` is ours.
const LINK: &str = "vx-mesh";
/// An address that nobody is asked for (RFC 7600): without any, a kernel that looks at senders takes no
/// packet of a client that is elsewhere.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Of a link that nobody has said anything of (RFC 894).
const ETHERNET: u32 = 1500;

/// The interface as the data plane has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MeshEnd {
    pub(crate) index: u32,
    pub(crate) underlay: Underlay,
}

pub(crate) fn link() -> IfName {
    IfName::parse(LINK).expect("an interface's name")
}

pub(crate) fn address() -> IpNet {
    IpNet::V4(Ipv4Net::from(ADDRESS))
}

/// A node's link address there: what it is called, folded into five bytes, behind a first one
/// that nothing else of ours begins with.
pub(crate) fn mac_of(node: &NodeId) -> MacAddr {
    let [a, b, c, d, e, f, g, h] = hash(node).to_be_bytes();
    MacAddr([0x06, a ^ f, b ^ g, c ^ h, d, e])
}

/// What a node is called, in eight bytes (FNV-1a).
pub(super) fn hash(node: &NodeId) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    node.as_str().as_bytes().iter().fold(BASIS, fold)
}

impl Desired {
    /// Where the mesh leads; nothing while there is none.
    pub(crate) fn mesh_nodes(&self) -> Forwarding {
        let mut nodes = BTreeMap::new();
        for service in self.services.values().filter(|s| s.is_published()) {
            let Some(shared) = &service.shared else {
                continue;
            };
            for member in self.members(&service.id) {
                if let At::Elsewhere { peer, .. } = member.at
                    && let Some(at) = peer.at.filter(|at| *at != shared.tunnel.local)
                {
                    nodes.insert(mac_of(&peer.node), at);
                }
            }
        }
        Forwarding {
            nodes,
            ..Forwarding::default()
        }
    }
}

impl super::service::Service {
    /// Whether all nodes of the cluster answer for a port of it.
    pub(crate) fn is_published(&self) -> bool {
        self.shared.is_some() && ingress(&self.ports).next().is_some()
    }
}

/// The MTU of what packets to other nodes go over.
fn underlay_mtu(observed: &Observed, local: IpAddr) -> u32 {
    let has_it = |link: &&Link| {
        let mut addresses = link.addresses.iter();
        addresses.any(|address| address.net.addr() == local)
    };
    let carrier = observed.links.values().find(has_it).map(|link| link.mtu);
    carrier.or(observed.underlay_mtu).unwrap_or(ETHERNET)
}

/// What of the mesh is not as it should be.
pub(crate) fn repair(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let link = link();
    let found = observed.links.get(&link);
    let delete = Step::DeleteLink { link: link.clone() };
    let Some(mesh) = wanted(desired, observed) else {
        return found
            .filter(|found| is_mesh(found))
            .map(|_| delete)
            .into_iter()
            .collect();
    };
    let nothing = Forwarding::default();
    let fits = |found: &&Link| {
        let vxlan = found.vxlan.as_ref();
        vxlan.is_some_and(|vxlan| vxlan.tunnel == Some(mesh.tunnel))
            && is_mesh(found)
            && found.mac == Some(mesh.mac)
    };
    let is_whole = |found: &&Link| {
        found.up && found.mtu == mesh.mtu && found.addresses.iter().any(|a| a.net == address())
    };
    let mut steps = Vec::new();
    if found.is_some_and(|found| !fits(&found)) {
        steps.push(delete);
    }
    let kept = found.filter(fits);
    if !kept.is_some_and(|kept| is_whole(&kept)) {
        steps.push(Step::CreateMesh(mesh));
    }
    let seen = kept.and_then(|_| observed.forwarding.get(&link));
    steps.extend(lead(seen.unwrap_or(&nothing), &desired.mesh_nodes()));
    steps
}

fn is_mesh(link: &Link) -> bool {
    link.vxlan.is_some_and(|vxlan| vxlan.vni == VNI)
}

/// Whether a port is the whole cluster's.
pub(crate) fn is_wanted(desired: &Desired) -> bool {
    desired.services.values().any(|s| s.is_published())
}

fn wanted(desired: &Desired, observed: &Observed) -> Option<Mesh> {
    let mut published = desired.services.values().filter(|s| s.is_published());
    let shared = published.find_map(|service| service.shared.as_ref())?;
    Some(Mesh {
        link: link(),
        mac: mac_of(&shared.node),
        tunnel: shared.tunnel,
        mtu: underlay_mtu(observed, shared.tunnel.local),
    })
}

/// Follows a change of who is where.
pub(crate) fn lead(from: &Forwarding, to: &Forwarding) -> Option<Step> {
    let (gone, new) = (from.beyond(to), to.beyond(from));
    (!gone.is_empty() || !new.is_empty()).then(|| Step::Forward {
        link: link(),
        bridge: None,
        gone,
        new,
    })
}

/// The interface, where it is as it should be.
pub(crate) fn end(desired: &Desired, observed: &Observed) -> Option<MeshEnd> {
    let mesh = wanted(desired, observed)?;
    let found = observed
        .links
        .get(&mesh.link)
        .filter(|link| is_mesh(link))?;
    Some(MeshEnd {
        index: found.index,
        underlay: Underlay {
            mtu: u16::try_from(mesh.mtu).unwrap_or(u16::MAX),
            v6: mesh.tunnel.local.is_ipv6(),
        },
    })
}

/// The data plane's part in it.
pub(crate) fn attach(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let end = end(desired, observed);
    let attached = observed.data_plane.tunnels.iter();
    let stale = attached.filter(|index| end.is_none_or(|end| end.index != **index));
    let stale = stale.map(|index| Step::DetachTunnel { index: *index });
    let new = end.map(|end| Step::AttachTunnel {
        index: end.index,
        name: link(),
        underlay: end.underlay,
    });
    stale.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses_of_their_own() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..10_000_u128 {
            let mac = mac_of(&NodeId::from_bytes(number.to_be_bytes()));
            assert_eq!(mac.0[0], 6, "no sender of a backend");
            assert!(seen.insert(mac), "{number}");
        }
    }
}
