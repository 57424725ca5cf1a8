//! The way that frames of encrypted networks take to other nodes: one WireGuard interface for all of
//! them.
//!
//! Nodes know each other there by link-local addresses, which lead nowhere but by this interface. A VXLAN
//! interface with such an address sends by no other, takes no frame that came by another
//! (`vxlan_vs_find_vni`, drivers/net/vxlan), and goes when this one goes: whatever happens, nothing of
//! an encrypted network is in clear text on the wire, and nothing in clear text gets in.
//!
//! The private key is made in the kernel's interface and kept nowhere else. The other nodes are told the
//! public one with each endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use api::id::{IfName, NodeId};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::desired::Desired;
use super::driver::{Overlay, Tunnel};
use super::mesh;
use super::network::Network;
use super::observed::{self, Link, Observed};
use super::step::Step;
use crate::bpf::Sealed;

const LINK: &str = "wg-hawser";

/// What a node is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PublicKey(pub(crate) [u8; 32]);

/// The interface as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireGuard {
    pub(crate) link: IfName,
    pub(crate) address: Ipv6Addr,
    /// Where the other nodes reach it.
    pub(crate) port: u16,
    pub(crate) mtu: u32,
}

/// Another node at its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Correspondent {
    pub(crate) at: SocketAddr,
    /// The one address that it may send from.
    pub(crate) address: Ipv6Addr,
}

pub(crate) type Correspondents = BTreeMap<PublicKey, Correspondent>;

pub(crate) fn link() -> IfName {
    IfName::parse(LINK).expect("an interface's name")
}

/// A node's address among the nodes.
pub(crate) fn address_of(node: &NodeId) -> Ipv6Addr {
    let [a, b, c, d, e, f, g, h] = mesh::hash(node).to_be_bytes();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a, b),
        pair(c, d),
        pair(e, f),
        pair(g, h),
    )
}

/// Of all nodes.
pub(crate) fn net(address: Ipv6Addr) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}

/// What a packet grows by: WireGuard's header and tag, UDP's and IP's.
pub(super) fn overhead(underlay: IpAddr) -> u32 {
    match underlay {
        IpAddr::V4(_) => 16 + 16 + 8 + 20,
        IpAddr::V6(_) => 16 + 16 + 8 + 40,
    }
}

/// Where nodes whose VXLAN has `port` reach each other's WireGuard.
fn port_beside(port: u16) -> u16 {
    port.checked_add(1).unwrap_or(port - 1)
}

impl Desired {
    /// What this node has to have; nothing while it has no network that is encrypted.
    pub(crate) fn wireguard(&self) -> Option<WireGuard> {
        let ends = self.encrypted().filter_map(|(_network, overlay)| {
            let end = overlay.end()?;
            Some((end, overlay.bridge.mtu.bytes + end.overhead()))
        });
        // A network may have an MTU of its own, and none is to be too long for the interface.
        let (end, mtu) = ends.max_by_key(|(_end, mtu)| *mtu)?;
        Some(WireGuard {
            link: link(),
            address: match end.local {
                IpAddr::V6(address) => address,
                IpAddr::V4(_) => return None,
            },
            port: port_beside(end.port),
            mtu,
        })
    }

    /// The frames that nobody may send in clear text.
    pub(crate) fn sealed(&self) -> Sealed {
        let mut sealed = Sealed::default();
        for (_network, overlay) in self.encrypted() {
            sealed.port = overlay.tunnel.map_or(sealed.port, |tunnel| tunnel.port);
            sealed
                .vnis
                .extend(overlay.segments().map(|segment| segment.vni));
        }
        sealed
    }

    /// The nodes that have endpoints on encrypted networks of this one; nothing while that is not known.
    pub(crate) fn correspondents(&self) -> Option<Correspondents> {
        let mut keys = BTreeMap::new();
        for (network, overlay) in self.encrypted() {
            let Some(tunnel) = overlay.tunnel else {
                continue;
            };
            for (_key, peer) in self.peers.get(&network.id)?.iter() {
                let at = peer.at.filter(|at| *at != tunnel.local);
                let (Some(at), Some(key)) = (at, peer.key) else {
                    continue;
                };
                let at = SocketAddr::new(at, port_beside(tunnel.port));
                // One that changes its key tells so endpoint by endpoint.
                let known = keys.entry(&peer.node).or_insert((key, at));
                *known = (*known).max((key, at));
            }
        }
        let nodes = keys.into_iter();
        let pairs = nodes.map(|(node, (key, at))| {
            let address = address_of(node);
            (key, Correspondent { at, address })
        });
        Some(pairs.collect())
    }

    /// The encrypted networks that lead to other nodes.
    fn encrypted(&self) -> impl Iterator<Item = (&Network, &Overlay)> {
        let overlays = self.networks.values().filter_map(|network| {
            let overlay = network.driver.overlay()?;
            Some((&**network, overlay))
        });
        overlays.filter(|(_network, overlay)| overlay.encrypted && overlay.end().is_some())
    }
}

/// What `network` needs, which `before` lacks.
pub(super) fn create(before: &Desired, network: &Network) -> Vec<Step> {
    let overlay = network.driver.overlay();
    if !overlay.is_some_and(|overlay| overlay.encrypted) {
        return Vec::new();
    }
    let mut after = before.clone();
    let new = Arc::new(network.clone());
    after.networks.insert(network.id.clone(), new);
    let create = after.wireguard().map(Step::CreateWireGuard);
    create.into_iter().chain(follow(before, &after)).collect()
}

/// What nobody needs without `network`, which `after` lacks.
pub(super) fn remove(after: &Desired, network: &Network) -> Option<Step> {
    network
        .driver
        .overlay()
        .filter(|overlay| overlay.encrypted)?;
    let mut before = after.clone();
    let old = Arc::new(network.clone());
    before.networks.insert(network.id.clone(), old);
    before.wireguard()?;
    match after.wireguard() {
        None => Some(Step::DeleteLink { link: link() }),
        Some(_) => follow(&before, after),
    }
}

/// What is not as it should be.
pub(crate) fn repair(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let link = link();
    let found = observed.links.get(&link);
    let delete = Step::DeleteLink { link };
    let Some(wanted) = desired.wireguard() else {
        let ours = found.filter(|found| found.wireguard.is_some());
        return ours.map(|_| delete).into_iter().collect();
    };
    let has = |found: &Link| found.addresses.iter().any(|a| a.net == net(wanted.address));
    let is_whole = |found: &Link| {
        let wireguard = found.wireguard.as_ref();
        wireguard.is_some_and(|w| w.key.is_some() && w.port == wanted.port)
            && found.up
            && found.mtu == wanted.mtu
            && has(found)
    };
    // Of a cluster that the node was in before.
    let is_stale =
        |found: &&Link| found.wireguard.is_some() && !found.addresses.is_empty() && !has(found);
    let mut steps = Vec::new();
    steps.extend(found.filter(is_stale).map(|_| delete));
    let kept = found.filter(|found| !is_stale(found));
    if !kept.is_some_and(is_whole) {
        steps.push(Step::CreateWireGuard(wanted));
    }
    let seen = kept.and_then(|found| found.wireguard.as_ref());
    let nobody = BTreeMap::new();
    let seen = seen.map_or(&nobody, |wireguard| &wireguard.peers);
    // Until it is known who is where, what leads there stays.
    let Some(correspondents) = desired.correspondents() else {
        return steps;
    };
    steps.extend(correct(seen, correspondents));
    steps
}

fn correct(
    seen: &BTreeMap<PublicKey, BTreeSet<IpNet>>,
    mut wanted: Correspondents,
) -> Option<Step> {
    let strangers = seen.keys().filter(|key| !wanted.contains_key(key));
    let gone: BTreeSet<PublicKey> = strangers.copied().collect();
    wanted.retain(|key, correspondent| {
        let only = IpNet::from(IpAddr::from(correspondent.address));
        seen.get(key) != Some(&[only].into())
    });
    change(gone, wanted)
}

/// Follows a change of who is where.
fn follow(before: &Desired, after: &Desired) -> Option<Step> {
    after.wireguard()?;
    let from = before.correspondents().unwrap_or_default();
    turn(&from, &after.correspondents()?)
}

/// From whom the interface knew to whom it has to know.
pub(crate) fn turn(from: &Correspondents, to: &Correspondents) -> Option<Step> {
    let gone = from.keys().filter(|key| !to.contains_key(key)).copied();
    let new = to
        .iter()
        .filter(|(key, value)| from.get(key) != Some(value));
    change(
        gone.collect(),
        new.map(|(key, value)| (*key, *value)).collect(),
    )
}

fn change(gone: BTreeSet<PublicKey>, new: Correspondents) -> Option<Step> {
    (!gone.is_empty() || !new.is_empty()).then(|| Step::Correspond {
        link: link(),
        gone,
        new,
    })
}

/// What this node is known by, while it is.
pub(crate) fn key(desired: &Desired, observed: &Observed) -> Option<PublicKey> {
    let wanted = desired.wireguard()?;
    observed.links.get(&wanted.link)?.wireguard.as_ref()?.key
}

/// Whether a VXLAN interface sends and takes frames where `tunnel` says, and no other way.
pub(super) fn is_below(vxlan: &observed::Vxlan, tunnel: Tunnel, observed: &Observed) -> bool {
    let below = observed
        .links
        .get(&link())
        .filter(|l| l.wireguard.is_some());
    !tunnel.is_local_to_link() || below.is_some_and(|below| vxlan.below == Some(below.index))
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        hex::encode(key.0)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key)?;
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses_of_their_own_that_mean_nothing_elsewhere() {
        let mut seen = BTreeSet::new();
        for number in 0..10_000_u128 {
            let address = address_of(&NodeId::from_bytes(number.to_be_bytes()));
            assert!(address.is_unicast_link_local(), "{address}");
            assert!(seen.insert(address), "{number}");
        }
    }

    #[test]
    fn a_key_is_told_in_hexadecimal() {
        let key = PublicKey([0xa7; 32]);
        let told = serde_json::to_string(&key).unwrap();
        assert_eq!(told, format!("\"{}\"", "a7".repeat(32)));
        assert_eq!(serde_json::from_str::<PublicKey>(&told).unwrap(), key);
        for wrong in ["\"\"", "\"a7\"", "7"] {
            assert!(serde_json::from_str::<PublicKey>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_port_is_beside_that_of_vxlan() {
        assert_eq!((port_beside(4789), port_beside(u16::MAX)), (4790, 65534));
    }
}
