//! Where a node's overlay networks lead: what is static in the kernel's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::id::MacAddr;

/// The entries of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forwarding {
    /// On the VXLAN interface: the node that each link address is on.
    pub(crate) nodes: BTreeMap<MacAddr, IpAddr>,
    /// On the bridge: link addresses that are behind the VXLAN interface.
    pub(crate) behind: BTreeSet<MacAddr>,
    /// On the bridge: what is answered to who asks for an address.
    pub(crate) neighbours: BTreeMap<IpAddr, MacAddr>,
}

impl Forwarding {
    pub(crate) fn add(&mut self, mac: MacAddr, node: IpAddr, addresses: &[IpAddr]) {
        self.nodes.insert(mac, node);
        self.behind.insert(mac);
        let neighbours = addresses.iter().map(|address| (*address, mac));
        self.neighbours.extend(neighbours);
    }

    /// What this has that `other` lacks, or has otherwise.
    pub(crate) fn beyond(&self, other: &Self) -> Self {
        Self {
            nodes: difference(&self.nodes, &other.nodes),
            behind: self.behind.difference(&other.behind).copied().collect(),
            neighbours: difference(&self.neighbours, &other.neighbours),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn difference<K: Ord + Copy, V: PartialEq + Copy>(
    of: &BTreeMap<K, V>,
    other: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    let differs = |(key, value): &(&K, &V)| other.get(key) != Some(value);
    let pairs = of.iter().filter(differs);
    pairs.map(|(key, value)| (*key, *value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_what_is_new_or_changed() {
        let mac = |last| MacAddr([2, 0x42, 10, 0, 0, last]);
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let (mut was, mut is) = (Forwarding::default(), Forwarding::default());
        was.add(mac(2), ip(102), &[ip(2)]);
        was.add(mac(3), ip(103), &[ip(3)]);
        is.add(mac(2), ip(102), &[ip(2)]);
        is.add(mac(3), ip(104), &[ip(3)]);
        let new = is.beyond(&was);
        assert_eq!(new.nodes, [(mac(3), ip(104))].into());
        assert!(new.behind.is_empty() && new.neighbours.is_empty());
        assert_eq!(was.beyond(&is).nodes, [(mac(3), ip(103))].into());
        assert!(is.beyond(&is).is_empty());
        assert_eq!(is.beyond(&Forwarding::default()), is);
    }
}
