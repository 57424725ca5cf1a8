//! All endpoints on record, found by what an attach has to ask for.
//!
//! The maps are persistent: a snapshot is copied by copying pointers, and a change of the copy
//! rebuilds only the nodes on its way. An attach therefore costs the same beside ten endpoints and
//! beside ten thousand.

use std::net::IpAddr;
use std::sync::Arc;

use api::id::Id;
use rpds::RedBlackTreeMapSync;
use sys::netns::NsId;

use super::endpoint::{Endpoint, EndpointKey, Sandbox};

/// A snapshot: cheap to clone.
///
/// **Invariant:** the maps hold the same endpoints.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints {
    by_key: RedBlackTreeMapSync<EndpointKey, Arc<Endpoint>>,
    by_address: RedBlackTreeMapSync<(Id, IpAddr), Arc<Endpoint>>,
    by_place: RedBlackTreeMapSync<(NsId, u64), Arc<Endpoint>>,
    by_service: RedBlackTreeMapSync<(Id, u64), Arc<Endpoint>>,
    next_order: u64,
}

impl Endpoints {
    pub(crate) fn get(&self, key: &EndpointKey) -> Option<&Arc<Endpoint>> {
        self.by_key.get(key)
    }

    /// Adds an endpoint, or replaces the one with its key.
    pub(crate) fn insert(&mut self, endpoint: Arc<Endpoint>) {
        let key = endpoint.key();
        self.remove(&key);
        self.next_order = self.next_order.max(endpoint.order + 1);
        for address in endpoint.addresses() {
            let network = endpoint.attachment.network_id.clone();
            self.by_address
                .insert_mut((network, address), Arc::clone(&endpoint));
        }
        let place = (endpoint.sandbox.id(), endpoint.order);
        self.by_place.insert_mut(place, Arc::clone(&endpoint));
        for membership in &endpoint.memberships {
            let part = (membership.service.clone(), endpoint.order);
            self.by_service.insert_mut(part, Arc::clone(&endpoint));
        }
        self.by_key.insert_mut(key, endpoint);
    }

    /// An absent one changes nothing.
    pub(crate) fn remove(&mut self, key: &EndpointKey) {
        let Some(endpoint) = self.by_key.get(key).cloned() else {
            return;
        };
        for address in endpoint.addresses() {
            let network = endpoint.attachment.network_id.clone();
            self.by_address.remove_mut(&(network, address));
        }
        let place = (endpoint.sandbox.id(), endpoint.order);
        self.by_place.remove_mut(&place);
        for membership in &endpoint.memberships {
            let part = (membership.service.clone(), endpoint.order);
            self.by_service.remove_mut(&part);
        }
        self.by_key.remove_mut(key);
    }

    /// Ordered by container and interface.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_key.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.size()
    }

    pub(crate) fn of_container<'a>(
        &'a self,
        container: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        self.by_key
            .range(EndpointKey::new(container, "")..)
            .map(|(_key, endpoint)| endpoint)
            .take_while(move |endpoint| endpoint.attachment.container_id == container)
    }

    /// In the order in which the sandbox joined their networks.
    pub(crate) fn in_sandbox(&self, sandbox: &Sandbox) -> impl Iterator<Item = &Arc<Endpoint>> {
        let place = sandbox.id();
        self.by_place
            .range((place, 0)..=(place, u64::MAX))
            .map(|(_place, endpoint)| endpoint)
    }

    /// The members of a service, in the order in which they joined.
    pub(crate) fn in_service(&self, service: &Id) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_service
            .range((service.clone(), 0)..=(service.clone(), u64::MAX))
            .map(|(_part, endpoint)| endpoint)
    }

    /// Who has the address on the network.
    pub(crate) fn holder(&self, network: &Id, address: IpAddr) -> Option<&Arc<Endpoint>> {
        self.by_address.get(&(network.clone(), address))
    }

    /// Ascends for as long as any endpoint lives.
    pub(crate) fn next_order(&self) -> u64 {
        self.next_order
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<T: IntoIterator<Item = Endpoint>>(endpoints: T) -> Self {
        let mut result = Self::default();
        for endpoint in endpoints {
            result.insert(Arc::new(endpoint));
        }
        result
    }
}
