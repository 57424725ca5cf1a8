//! From a destination to the backend that serves it.

use abi::frontend::Candidates;
use abi::map::{
    Backend, FrontendKey, NO_BACKEND, SERVICE_AFFINITY, SERVICE_BALANCED, SERVICE_LARGE,
    SERVICE_ONE_PORT, SERVICE_VIP, Service,
};
use abi::range::RangeValue;
use abi::socket::Wildcard;
use abi::{Address, Be16, protocol};

use crate::map;
use crate::tunnel_arrive::Arrival;

/// A frontend's answer.
pub(crate) struct Target {
    pub service: u32,
    pub id: u32,
    pub backend: Backend,
    pub vip: bool,
}

impl Target {
    /// As a client on this host reaches it that asked for `port`: no packet of such a client comes by an
    /// uplink, from where it could go through the tunnel.
    #[inline(always)]
    pub(crate) fn near(&mut self, port: Be16) {
        if self.backend.is_remote()
            && let Some(home) = map::home(self.id)
        {
            self.backend.address = *home;
            self.backend.port = port;
        }
    }
}

pub(crate) enum Found {
    /// Nothing is published there.
    Nothing,
    /// Something is, but no backend serves this service.
    NoBackend(u32),
    Target(Target),
}

/// What a service is asked for by, to be hashed where it has several backends.
pub(crate) trait Asker {
    /// With affinity, all of a client's flows have one hash.
    fn hash(&self, affinity: bool) -> u64;
}

/// Looks up the exact frontend, then the wildcard. No port has both, nor a range besides: whoever
/// publishes it sees to that.
#[inline(always)]
pub(crate) fn find(
    destination: Address,
    port: Be16,
    protocol: u8,
    wildcard: Wildcard,
    asker: &impl Asker,
) -> Found {
    // One key after the other in the same place: the stack is short.
    let mut key = Candidates::of(destination, port, protocol).exact;
    let mut found = published(&key);
    // Traffic that this host only forwards is somebody else's (GHSA-jv3w-x3r3-g6rm).
    if found.is_none() && answers(destination, wildcard) {
        key.address = destination.wildcard();
        found = published(&key);
    }
    let Some(found) = found else {
        return Found::Nothing;
    };
    let Some(service) = map::service(found.service) else {
        return Found::NoBackend(found.service);
    };
    let Some((id, mut backend)) = backend(found.service, &service, asker) else {
        return Found::NoBackend(found.service);
    };
    if service.flags & SERVICE_ONE_PORT == 0 {
        backend.port = found.target(port, backend.port);
    }
    Found::Target(Target {
        service: found.service,
        id,
        backend,
        vip: service.flags & SERVICE_VIP != 0,
    })
}

/// The backend that another node has chosen, with the port that the frontend leads to there; `None` if
/// the frontend is not one of its service. It may be one of that node's own addresses.
#[inline(always)]
pub(crate) fn serving(
    arrival: &Arrival,
    destination: Address,
    port: Be16,
    protocol: u8,
) -> Option<Backend> {
    let mut key = Candidates::of(destination, port, protocol).exact;
    let mut found = published(&key);
    if found.is_none() {
        key.address = destination.wildcard();
        found = published(&key);
    }
    let found = found.filter(|found| found.service == arrival.service)?;
    let service = map::service(arrival.service)?;
    let mut backend = *arrival.backend;
    if service.flags & SERVICE_ONE_PORT == 0 {
        backend.port = found.target(port, backend.port);
    }
    Some(backend)
}

/// What is published at exactly this address and port, alone or in a range.
#[inline(always)]
pub(crate) fn published(key: &FrontendKey) -> Option<RangeValue> {
    match map::frontend(key) {
        Some(single) => Some(RangeValue::single(single.service, key.port)),
        None => map::range(key),
    }
}

/// Whether a service has the address, with all ports of some protocol.
#[inline(always)]
pub(crate) fn is_vip(address: Address) -> bool {
    if !map::may_be_vip(address) {
        return false;
    }
    let mut key = Candidates::of(address, Be16::ZERO, protocol::TCP).exact;
    for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        key.protocol = protocol;
        let service = published(&key).and_then(|found| map::service(found.service));
        if service.is_some_and(|service| service.flags & SERVICE_VIP != 0) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn answers(destination: Address, wildcard: Wildcard) -> bool {
    matches!(wildcard, Wildcard::Always) || map::is_local(&destination)
}

#[inline(always)]
fn backend(number: u32, service: &Service, asker: &impl Asker) -> Option<(u32, Backend)> {
    let has = |flag| service.flags & flag != 0;
    let id = if has(SERVICE_BALANCED) {
        let hash = asker.hash(has(SERVICE_AFFINITY));
        map::chosen(number, has(SERVICE_LARGE), hash)?
    } else {
        service.backend
    };
    if id == NO_BACKEND {
        return None;
    }
    let backend = *map::backend(id)?;
    backend.is_live().then_some((id, backend))
}
