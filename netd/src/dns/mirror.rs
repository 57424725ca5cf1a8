//! The directory as the data plane knows it, which answers what it can before a packet reaches us.
//!
//! Only facts of the directory go there, after each change and before the change is acknowledged.
//! What the data plane makes of them must equal our own answers; the tests compare both.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::id::Id;

use super::zone::{Directory, Endpoint};
use crate::bpf::{BpfError, DataPlane, NameAddresses, NameFact};

#[derive(Debug)]
pub(super) struct Mirror {
    data_plane: Arc<DataPlane>,
    ttl: u32,
    /// Whether it has everything. Without, nobody is answered there.
    complete: bool,
}

impl Mirror {
    /// Knows nothing before the first [`Self::replace`].
    pub(super) fn new(data_plane: Arc<DataPlane>, ttl: u32) -> Self {
        Self {
            data_plane,
            ttl,
            complete: false,
        }
    }

    /// Writes everything, unless it is there.
    pub(super) fn replace(&mut self, directory: &Directory) {
        if self.complete {
            return;
        }
        let names = directory.all_names();
        let names = names.map(|(network, name, addresses)| NameFact::Name {
            network,
            name,
            addresses: Some(NameAddresses {
                v4: &addresses.v4,
                v6: &addresses.v6,
            }),
            ttl: self.ttl,
        });
        let scopes: Vec<_> = directory
            .all_v4_hosts()
            .map(|host| scope(directory, host))
            .collect();
        let askers = scopes.iter().map(Scope::fact);
        let done = self.data_plane.replace_names(names.chain(askers));
        self.complete = self.settle(done);
    }

    /// Writes what the change of endpoints has changed, of which there are those before it and those after.
    pub(super) fn update(&mut self, directory: &Directory, endpoints: &[Arc<Endpoint>]) {
        if !self.complete {
            return self.replace(directory);
        }
        let keys: BTreeSet<(&Id, &[u8])> = endpoints.iter().flat_map(|e| e.names()).collect();
        let names = keys.into_iter().map(|(network, name)| NameFact::Name {
            network,
            name,
            addresses: directory
                .addresses(network, name)
                .map(|found| NameAddresses {
                    v4: &found.v4,
                    v6: &found.v6,
                }),
            ttl: self.ttl,
        });
        // All endpoints of the container: each may know another network now.
        let hosts: BTreeSet<(&Id, Ipv4Addr)> = endpoints
            .iter()
            .flat_map(|e| e.v4_hosts().chain(directory.v4_hosts_of(e)))
            .collect();
        let scopes: Vec<_> = hosts
            .into_iter()
            .map(|host| scope(directory, host))
            .collect();
        let askers = scopes.iter().map(Scope::fact);
        let done = self.data_plane.set_names(names.chain(askers));
        self.complete = self.settle(done);
    }

    /// The slow path is right in any case: a failure leaves all queries to it.
    fn settle(&self, done: Result<(), BpfError>) -> bool {
        let Err(error) = done else { return true };
        tracing::warn!(%error, "the data plane answers no names until the next change");
        if let Err(error) = self.data_plane.forget_askers() {
            tracing::error!(%error, "the data plane may answer with old names");
        }
        false
    }
}

/// Who asks, and what it may know.
struct Scope<'a> {
    network: &'a Id,
    address: Ipv4Addr,
    networks: Option<Vec<&'a Id>>,
}

fn scope<'a>(directory: &'a Directory, (network, address): (&'a Id, Ipv4Addr)) -> Scope<'a> {
    Scope {
        network,
        address,
        networks: directory.scope(network, IpAddr::V4(address)),
    }
}

impl Scope<'_> {
    fn fact(&self) -> NameFact<'_> {
        NameFact::Asker {
            network: self.network,
            address: self.address,
            networks: self.networks.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests;
