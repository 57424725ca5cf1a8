//! All services on record, found by what requests have to ask for.

use std::net::IpAddr;
use std::sync::Arc;

use api::id::Id;
use rpds::RedBlackTreeMapSync;

use super::service::{Service, ServiceError};

/// A snapshot: cheap to clone.
///
/// **Invariant:** every address is that of a service in `by_id`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services {
    by_id: RedBlackTreeMapSync<Id, Arc<Service>>,
    by_address: RedBlackTreeMapSync<(Id, IpAddr), Arc<Service>>,
}

impl Services {
    pub(crate) fn get(&self, id: &Id) -> Option<&Arc<Service>> {
        self.by_id.get(id)
    }

    /// By name, id or unambiguous prefix of an id, in this order.
    pub(crate) fn find(&self, key: &str) -> Result<&Arc<Service>, ServiceError> {
        if let Some(service) = self.by_name(key) {
            return Ok(service);
        }
        let not_found = || ServiceError::NotFound(key.chars().take(64).collect());
        if key.is_empty() {
            return Err(not_found());
        }
        let mut matching = self.values().filter(|s| s.id.as_str().starts_with(key));
        match (matching.next(), matching.next()) {
            (Some(service), None) => Ok(service),
            (None, _) => Err(not_found()),
            (Some(_), Some(_)) => Err(ServiceError::Ambiguous(key.chars().take(64).collect())),
        }
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.values().find(|service| service.spec.name == name)
    }

    /// Adds a service, or replaces the one with its id.
    pub(crate) fn insert(&mut self, service: Arc<Service>) {
        self.remove(&service.id);
        for key in addresses(&service) {
            self.by_address.insert_mut(key, Arc::clone(&service));
        }
        self.by_id.insert_mut(service.id.clone(), service);
    }

    /// An absent one changes nothing.
    pub(crate) fn remove(&mut self, id: &Id) {
        let Some(service) = self.by_id.get(id).cloned() else {
            return;
        };
        for key in addresses(&service) {
            self.by_address.remove_mut(&key);
        }
        self.by_id.remove_mut(id);
    }

    /// Ordered by id.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_id.values()
    }

    /// Those of a network.
    pub(crate) fn on<'a>(&'a self, network: &'a Id) -> impl Iterator<Item = &'a Arc<Service>> {
        self.values().filter(|service| service.is_on(network))
    }

    /// Whose virtual address it is.
    pub(crate) fn holder(&self, network: &Id, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_address.get(&(network.clone(), address))
    }

    /// A number that no service on record has.
    pub(crate) fn next_number(&self) -> u32 {
        let numbers = self.values().map(|service| service.number);
        numbers.max().map_or(1, |last| last.wrapping_add(1))
    }
}

fn addresses(service: &Service) -> impl Iterator<Item = (Id, IpAddr)> + '_ {
    service.places.iter().flat_map(|place| {
        let addresses = place.addresses.iter();
        addresses.map(|address| (place.network.clone(), address.addr()))
    })
}

impl FromIterator<Service> for Services {
    fn from_iter<T: IntoIterator<Item = Service>>(services: T) -> Self {
        let mut result = Self::default();
        for service in services {
            result.insert(Arc::new(service));
        }
        result
    }
}
