//! The directory as facts that stand by themselves, for whoever answers without it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::id::Id;

use super::{Addresses, Directory, Endpoint, Registry};

impl Registry {
    pub(in crate::dns) fn get(&self, id: &Id) -> Option<Arc<Endpoint>> {
        self.endpoints.get(id).cloned()
    }

    pub(in crate::dns) fn directory(&self) -> &Directory {
        &self.directory
    }
}

impl Endpoint {
    pub(in crate::dns) fn id(&self) -> &Id {
        &self.id
    }

    /// Its names (lower-cased wire form), each with its network.
    pub(in crate::dns) fn names(&self) -> impl Iterator<Item = (&Id, &[u8])> {
        self.keys.iter().map(|key| (&self.network, key.as_ref()))
    }

    /// Where its queries come from over IPv4.
    pub(in crate::dns) fn v4_hosts(&self) -> impl Iterator<Item = (&Id, Ipv4Addr)> {
        self.v4.iter().map(|address| (&self.network, *address))
    }
}

impl Directory {
    pub(in crate::dns) fn all_names(&self) -> impl Iterator<Item = (&Id, &[u8], &Addresses)> {
        self.zones.iter().flat_map(|(network, zone)| {
            let names = zone.names.iter();
            names.map(move |(name, addresses)| (network, name.as_ref(), addresses.as_ref()))
        })
    }

    pub(in crate::dns) fn addresses(&self, network: &Id, name: &[u8]) -> Option<&Addresses> {
        self.zones.get(network)?.names.get(name).map(Arc::as_ref)
    }

    /// Where queries may come from over IPv4.
    pub(in crate::dns) fn all_v4_hosts(&self) -> impl Iterator<Item = (&Id, Ipv4Addr)> {
        self.zones.iter().flat_map(|(network, zone)| {
            zone.hosts.iter().filter_map(move |(host, _)| match host {
                IpAddr::V4(host) => Some((network, *host)),
                IpAddr::V6(_) => None,
            })
        })
    }

    /// Those of the endpoint's sandbox.
    pub(in crate::dns) fn v4_hosts_of(
        &self,
        endpoint: &Endpoint,
    ) -> impl Iterator<Item = (&Id, Ipv4Addr)> {
        let endpoints = self.endpoints_of(endpoint.sandbox).iter();
        endpoints.flat_map(|endpoint| endpoint.v4_hosts())
    }

    /// The networks whose names `host`, asking at the socket of `network`, may know, in the order
    /// in which they are looked through. None for a stranger, and for one that has names of its
    /// own for others.
    pub(in crate::dns) fn scope(&self, network: &Id, host: IpAddr) -> Option<Vec<&Id>> {
        let (network, zone) = self.zones.get_key_value(network)?;
        let endpoints = self.endpoints_of(zone.hosts.get(&host)?.sandbox);
        if endpoints.iter().any(|endpoint| !endpoint.links.is_empty()) {
            return None;
        }
        let others = endpoints.iter().map(|endpoint| &endpoint.network);
        let others = others.filter(|other| *other != network);
        Some([network].into_iter().chain(others).collect())
    }
}
