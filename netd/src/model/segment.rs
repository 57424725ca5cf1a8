//! Which part of a network is on which of its bridges.
//!
//! A network has one bridge, whatever its subnets; of an overlay, each has the subnets that are the
//! first of their families, or the second, and so on, and the node routes between them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::id::{IfName, MacAddr};
use ipnet::IpNet;

use super::address;
use super::endpoint::Endpoint;
use super::network::Network;
use super::peer::Peer;
use super::subnet::Subnet;

impl Network {
    /// In the order of the segments.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &IfName> {
        let first = self.bridge().map(|bridge| &bridge.link);
        let overlay = self.driver.overlay().into_iter();
        let more = overlay.flat_map(|overlay| &overlay.more);
        first.into_iter().chain(more.map(|segment| &segment.bridge))
    }

    /// How many there are, of drivers without bridges as well.
    pub(crate) fn segments(&self) -> usize {
        let overlay = self.driver.overlay();
        1 + overlay.map_or(0, |overlay| overlay.more.len())
    }

    pub(crate) fn subnets_in(&self, segment: usize) -> impl Iterator<Item = &Subnet> {
        let (mut v4, mut v6) = (0, 0);
        let last = self.segments() - 1;
        self.subnets.iter().filter(move |subnet| {
            let rank = if subnet.is_ipv6() { &mut v6 } else { &mut v4 };
            *rank += 1;
            segment == last.min(*rank - 1)
        })
    }

    /// The first one where an address is from none of its subnets.
    pub(crate) fn segment_of(&self, address: IpAddr) -> usize {
        let has_it = |segment: &usize| {
            let mut subnets = self.subnets_in(*segment);
            subnets.any(|subnet| subnet.subnet.contains(&address))
        };
        (0..self.segments()).find(has_it).unwrap_or_default()
    }

    pub(super) fn segment_of_peer(&self, peer: &Peer) -> usize {
        self.segment_with(peer.addresses.iter().copied())
    }

    fn segment_with(&self, mut addresses: impl Iterator<Item = IpAddr>) -> usize {
        let first = addresses.next();
        first.map_or(0, |address| self.segment_of(address))
    }

    /// The bridge that the endpoint is on.
    pub(crate) fn bridge_of(&self, endpoint: &Endpoint) -> Option<&IfName> {
        let segment = self.segment_with(endpoint.addresses());
        self.bridges().nth(segment)
    }

    /// Of frames in clear text that were dropped, by VXLAN network number, those of this network; nothing
    /// where it is not encrypted.
    pub(crate) fn exposed(&self, counts: &BTreeMap<u32, u64>) -> Option<u64> {
        let overlay = self.driver.overlay().filter(|overlay| overlay.encrypted)?;
        let counts = overlay
            .segments()
            .filter_map(|segment| counts.get(&segment.vni));
        Some(counts.sum())
    }

    /// The gateways that a segment's bridge is.
    pub(crate) fn gateways_in(&self, segment: usize) -> impl Iterator<Item = IpNet> {
        let subnets: Vec<IpNet> = self.subnets_in(segment).map(Subnet::gateway_net).collect();
        let is_here = move |gateway: &IpNet| subnets.contains(gateway);
        self.gateways().filter(is_here)
    }

    /// The bridge's address: fixed, because a bridge without one takes over its ports' and changes
    /// it as they come and go.
    pub(crate) fn mac(&self, segment: usize) -> MacAddr {
        // The same on every node, so that it is the same gateway wherever a container is.
        if self.driver.overlay().is_some() {
            let gateways = self.gateways_in(segment).map(|gateway| gateway.addr());
            if let Some(gateway) = gateways.min_by_key(IpAddr::is_ipv6) {
                return address::mac_of(gateway);
            }
        }
        let mut octets = [0x02, 0x42, 0, 0, 0, 0];
        for (at, octet) in octets[2..].iter_mut().enumerate() {
            let digits = &self.id.as_str()[at * 2..at * 2 + 2];
            *octet = u8::from_str_radix(digits, 16).unwrap_or_default();
        }
        MacAddr(octets)
    }
}
