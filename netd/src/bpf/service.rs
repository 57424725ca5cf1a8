//! Published ports: the frontend, service and backend maps.
//!
//! Order of writes, so that a packet never meets half a service and [`Services::repair`] can finish
//! what a dead daemon began:
//!
//! * publish: backend, service, prefilter, frontend (which makes it reachable);
//! * replace: new backend, service (which switches, and names the old backend), retire the old;
//! * unpublish: retire the backend (which cuts its flows), frontend, service, prefilter.
//!
//! Several are published or unpublished together, one map after the other.
//!
//! Services with several backends are in `balance`.

pub(super) mod balance;
mod single;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::Sender;
use std::{fmt, io};

use abi::frontend::{Bit, Candidates};
use abi::map::{
    BACKEND_LIVE, BACKEND_REMOTE, BACKENDS, Backend, FRONTENDS, FrontendKey, FrontendValue,
    MAX_BACKENDS, NO_BACKEND, Peer, PeerKey, SERVICE_BALANCED, SERVICE_ONE_PORT, SERVICES, Service,
    TrafficKey,
};
use abi::range::RangeValue;
use abi::{Be16, address::Address};
use api::net::Protocol;
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};

use super::Change;
use super::counters::{BackendTraffic, ServiceTraffic, Traffic};
use super::error::{BpfError, optional};
use super::frontend::{Frontend, address, ip};
use super::prefilter::Prefilter;
use super::range::Ranges;
use super::tables::Owner;
use super::tunnel::{Remote, Tunnels, Underlay};
use super::{map, object};
use balance::Balancing;
use single::Led;

pub(super) struct Services {
    frontends: HashMap<MapData, FrontendKey, FrontendValue>,
    ranges: Ranges,
    services: HashMap<MapData, u32, Service>,
    backends: Array<MapData, Backend>,
    prefilter: Prefilter,
    traffic: Traffic,
    tunnels: Tunnels,
    balancing: Balancing,
    /// Service ids are never used again.
    next_service: u32,
    /// Backend slots in use, and where to look for the next one. A slot rests as long as possible
    /// before it is used again.
    used: BTreeSet<u32>,
    next_backend: u32,
    /// Gets the addresses of backends that are retired.
    gone: Sender<BTreeSet<IpAddr>>,
}

impl Services {
    /// Opens the maps and repairs them.
    pub(super) fn open(
        object: &mut Ebpf,
        gone: Sender<BTreeSet<IpAddr>>,
    ) -> Result<Self, BpfError> {
        let mut services = Self {
            frontends: object::take(object, FRONTENDS)?,
            ranges: Ranges::open(object)?,
            services: object::take(object, SERVICES)?,
            backends: object::take(object, BACKENDS)?,
            prefilter: Prefilter::open(object)?,
            traffic: Traffic::open(object)?,
            tunnels: Tunnels::open(object)?,
            balancing: Balancing::open(object)?,
            next_service: 1,
            used: BTreeSet::new(),
            next_backend: 1,
            gone,
        };
        services.repair()?;
        Ok(services)
    }

    pub(super) fn backend_of(&self, frontend: &Frontend) -> Result<Option<SocketAddr>, BpfError> {
        match self.find(frontend)? {
            Some(service) => Ok(self.live_backend(service)?.map(socket_address)),
            None => Ok(None),
        }
    }

    pub(super) fn published(&self) -> Result<BTreeMap<Frontend, SocketAddr>, BpfError> {
        let mut published = BTreeMap::new();
        for (frontend, service) in self.entries()? {
            if let Some(backend) = self.live_backend(service)? {
                published.insert(frontend, socket_address(backend));
            }
        }
        Ok(published)
    }

    /// What went to each service, and what it lost. `active` has the flows in progress.
    pub(super) fn traffic(
        &self,
        active: &BTreeMap<Owner, u64>,
    ) -> Result<Vec<ServiceTraffic>, BpfError> {
        let mut drops = self.traffic.drops()?;
        let mut all = Vec::new();
        let mut grouped = BTreeMap::<u32, Vec<Frontend>>::new();
        for (frontend, id) in self.entries()? {
            grouped.entry(id).or_default().push(frontend);
        }
        let balanced = self.balancing.services()?;
        let numbers: BTreeMap<u32, u64> = balanced.iter().map(|(n, id)| (*id, *n)).collect();
        for &id in numbers.keys() {
            grouped.entry(id).or_default();
        }
        for (id, mut frontends) in grouped {
            frontends.sort();
            let backends = match numbers.get(&id) {
                Some(_number) => self.balancing.slots_of(id),
                None => self
                    .service(id)?
                    .map(|s| (s.backend, 1))
                    .into_iter()
                    .collect(),
            };
            let past = TrafficKey {
                service: id,
                backend: NO_BACKEND,
            };
            all.push(ServiceTraffic {
                id,
                number: numbers.get(&id).copied(),
                frontends,
                backends: backends
                    .into_iter()
                    .map(|(slot, weight)| self.backend_traffic(id, slot, weight, active))
                    .collect::<Result<_, _>>()?,
                past: self.traffic.read(past)?.unwrap_or_default(),
                drops: drops.remove(&id).unwrap_or_default(),
            });
        }
        Ok(all)
    }

    fn backend_traffic(
        &self,
        service: u32,
        slot: u32,
        weight: u32,
        active: &BTreeMap<Owner, u64>,
    ) -> Result<BackendTraffic, BpfError> {
        let backend = self.backend(slot)?;
        let owner = Owner {
            service,
            backend: slot,
            generation: backend.generation,
        };
        let key = TrafficKey {
            service,
            backend: slot,
        };
        Ok(BackendTraffic {
            address: socket_address(backend),
            weight,
            counts: self.traffic.read(key)?.unwrap_or_default(),
            active: active.get(&owner).copied().unwrap_or(0),
        })
    }

    /// What other nodes call the backends of a service here.
    pub(super) fn reachable(&self, number: u64) -> Result<BTreeMap<SocketAddr, u32>, BpfError> {
        let mut numbers = BTreeMap::new();
        for (address, slot) in self.reachable_slots(number)? {
            let generation = self.backend(slot)?.generation;
            numbers.insert(address, abi::tunnel::number(slot, generation));
        }
        Ok(numbers)
    }

    pub(super) fn set_underlay(&mut self, underlay: Underlay) -> Result<Change, BpfError> {
        self.tunnels.set_underlay(underlay)
    }

    /// Finishes or takes back what an earlier daemon left half done, and learns what is in use.
    fn repair(&mut self) -> Result<(), BpfError> {
        let entries = self.entries()?;
        let mut bits = self.repair_balanced(&entries)?;
        let mut known: BTreeSet<u32> = self.balancing.services()?.into_values().collect();
        let mut counted = BTreeSet::new();
        for &service in &known {
            let slots = self.balancing.slots_of(service).into_iter();
            counted.extend(slots.map(|(backend, _)| TrafficKey { service, backend }));
        }
        for (frontend, id) in entries {
            if known.contains(&id) {
                continue;
            }
            let service = self.service(id)?;
            match (service, self.live_backend(id)?) {
                (Some(service), Some(backend)) => {
                    self.finish_retiring(id, service)?;
                    self.used.insert(service.backend);
                    known.insert(id);
                    counted.insert(TrafficKey {
                        service: id,
                        backend: service.backend,
                    });
                    bits.extend(bits_of(&frontend, backend.address));
                }
                (service, _) => self.remove_frontends(&[Led {
                    frontend,
                    id,
                    service,
                }])?,
            }
        }
        for id in self.service_ids()? {
            if known.contains(&id) {
                continue;
            }
            if let Some(service) = self.service(id)? {
                self.retire(&backends(service))?;
            }
            self.remove_services(&[id], &[])?;
        }
        self.traffic.repair(&counted)?;
        self.tunnels.repair(&self.used)?;
        self.next_service = known.last().map_or(1, |last| last + 1);
        self.next_backend = self.used.last().map_or(1, |last| last + 1);
        self.prefilter.rebuild(bits.into_iter())
    }

    /// Makes the frontend lead to the service.
    fn lead(&mut self, frontend: &Frontend, service: u32) -> Result<(), BpfError> {
        if frontend.is_range() {
            return self.ranges.insert(frontend, service);
        }
        self.frontends
            .insert(frontend.key(), leading_to(service), 0)
            .map_err(BpfError::map(FRONTENDS))
    }

    /// Makes the frontend lead nowhere.
    fn unlead(&mut self, frontend: &Frontend) -> Result<(), BpfError> {
        if frontend.is_range() {
            return self.ranges.remove(frontend);
        }
        let removed = optional(self.frontends.remove(&frontend.key()));
        removed.map(drop).map_err(BpfError::map(FRONTENDS))
    }

    /// Completes a replacement that stopped between its two writes.
    fn finish_retiring(&mut self, id: u32, service: Service) -> Result<(), BpfError> {
        if service.retiring == NO_BACKEND {
            return Ok(());
        }
        self.end(id, service.retiring)?;
        self.set_service(id, service.backend, NO_BACKEND)
    }

    /// Retires a backend of a service that goes on.
    fn end(&mut self, service: u32, backend: u32) -> Result<(), BpfError> {
        self.retire(&[backend])?;
        self.traffic.end(TrafficKey { service, backend })
    }

    /// Removes services, and what was counted of their last backends.
    fn remove_services(&mut self, ids: &[u32], traffic: &[TrafficKey]) -> Result<(), BpfError> {
        map::remove(&self.services, ids).map_err(failed(SERVICES))?;
        self.traffic.stop(ids, traffic)
    }

    fn set_service(&mut self, id: u32, backend: u32, retiring: u32) -> Result<(), BpfError> {
        self.services
            .insert(id, service_of(backend, retiring), 0)
            .map_err(BpfError::map(SERVICES))
    }

    /// Fills a free slot. Until a service names it no packet can meet it.
    fn add_backend(
        &mut self,
        backend: SocketAddr,
        remote: Option<&Remote>,
    ) -> Result<u32, BpfError> {
        let (slot, value) = self.reserve(&backend, backend, remote)?;
        self.backends
            .set(slot, value, 0)
            .map_err(BpfError::map(BACKENDS))?;
        Ok(slot)
    }

    /// A free slot, and what is to be written there.
    fn reserve(
        &mut self,
        subject: &impl fmt::Display,
        backend: SocketAddr,
        remote: Option<&Remote>,
    ) -> Result<(u32, Backend), BpfError> {
        let exhausted = || BpfError::Exhausted {
            subject: subject.to_string(),
            limit: MAX_BACKENDS - 1,
        };
        let start = self.next_backend.clamp(1, MAX_BACKENDS - 1);
        let id = (start..MAX_BACKENDS)
            .chain(1..start)
            .find(|id| !self.used.contains(id))
            .ok_or_else(exhausted)?;
        // A slot that is free is nowhere else.
        if remote.is_some() {
            self.tunnels.set_remote(id, remote)?;
        }
        let elsewhere = remote.map_or(0, |_| BACKEND_REMOTE);
        let value = Backend {
            address: address(backend.ip()),
            generation: self.backend(id)?.generation.wrapping_add(1),
            port: Be16::new(backend.port()),
            state: BACKEND_LIVE | elsewhere,
        };
        self.used.insert(id);
        self.next_backend = id + 1;
        Ok((id, value))
    }

    /// Cuts the flows to backends and frees their slots.
    fn retire(&mut self, slots: &[u32]) -> Result<(), BpfError> {
        let (mut live, mut retired) = (Vec::new(), Vec::new());
        for &slot in slots.iter().filter(|slot| **slot != NO_BACKEND) {
            let backend = self.backend(slot)?;
            if backend.is_live() {
                live.push(slot);
                retired.push(Backend {
                    state: 0,
                    generation: backend.generation.wrapping_add(1),
                    ..backend
                });
            }
        }
        map::insert(&self.backends, &live, &retired).map_err(failed(BACKENDS))?;
        self.tunnels.forget(&live)?;
        let gone: BTreeSet<IpAddr> = retired.iter().map(|backend| ip(backend.address)).collect();
        if !gone.is_empty() {
            // Nobody may want to know.
            let _listener = self.gone.send(gone);
        }
        for slot in slots {
            self.used.remove(slot);
        }
        Ok(())
    }

    fn is_balanced(&self, id: u32) -> Result<bool, BpfError> {
        Ok(self.service(id)?.is_some_and(is_balanced))
    }

    /// Whether sockets that name this are still led to that backend.
    pub(super) fn leads(
        &self,
        named: &Peer,
        protocol: Protocol,
        to: &PeerKey,
    ) -> Result<bool, BpfError> {
        let target = named.address.connect_target();
        let Candidates { exact, wildcard } = Candidates::of(target, named.port, protocol.number());
        for key in [exact, wildcard] {
            let Some(found) = self.lookup(&key)? else {
                continue;
            };
            let Some(service) = self.service(found.service)? else {
                return Ok(false);
            };
            for backend in self.backends_of(found.service, service)? {
                let port = if service.flags & SERVICE_ONE_PORT == 0 {
                    found.target(named.port, backend.port)
                } else {
                    backend.port
                };
                if backend.is_live() && backend.address == to.address && port == to.port {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        Ok(false)
    }

    /// What is published at exactly this address and port, alone or in a range.
    fn lookup(&self, key: &FrontendKey) -> Result<Option<RangeValue>, BpfError> {
        let single = optional(self.frontends.get(key, 0)).map_err(BpfError::map(FRONTENDS))?;
        match single {
            Some(value) => Ok(Some(RangeValue::single(value.service, key.port))),
            None => self.ranges.find(key),
        }
    }

    fn backends_of(&self, id: u32, service: Service) -> Result<Vec<Backend>, BpfError> {
        if is_balanced(service) {
            let slots = self.balancing.slots_of(id).into_iter();
            slots.map(|(slot, _weight)| self.backend(slot)).collect()
        } else {
            Ok(vec![self.backend(service.backend)?])
        }
    }

    /// The service of a frontend.
    fn find(&self, frontend: &Frontend) -> Result<Option<u32>, BpfError> {
        if frontend.is_range() {
            return self.ranges.service(frontend);
        }
        let found = optional(self.frontends.get(&frontend.key(), 0));
        let found = found.map_err(BpfError::map(FRONTENDS))?;
        Ok(found.map(|value| value.service))
    }

    /// Every frontend and its service.
    fn entries(&self) -> Result<Vec<(Frontend, u32)>, BpfError> {
        let mut entries = self.ranges.all()?;
        for single in self.frontends.iter() {
            let (key, value) = single.map_err(BpfError::map(FRONTENDS))?;
            entries.extend(Frontend::from_key(&key).map(|frontend| (frontend, value.service)));
        }
        Ok(entries)
    }

    fn service(&self, id: u32) -> Result<Option<Service>, BpfError> {
        optional(self.services.get(&id, 0)).map_err(BpfError::map(SERVICES))
    }

    fn service_ids(&self) -> Result<Vec<u32>, BpfError> {
        self.services
            .keys()
            .collect::<Result<_, _>>()
            .map_err(BpfError::map(SERVICES))
    }

    fn backend(&self, id: u32) -> Result<Backend, BpfError> {
        self.backends.get(&id, 0).map_err(BpfError::map(BACKENDS))
    }

    fn live_backend(&self, service: u32) -> Result<Option<Backend>, BpfError> {
        let Some(service) = self.service(service)? else {
            return Ok(None);
        };
        let backend = self.backend(service.backend)?;
        Ok((backend.is_live()).then_some(backend))
    }
}

fn leading_to(service: u32) -> FrontendValue {
    FrontendValue { service, flags: 0 }
}

/// The service of a single backend.
fn service_of(backend: u32, retiring: u32) -> Service {
    Service {
        backends: 1,
        backend,
        retiring,
        flags: 0,
    }
}

/// The slots that such a service has.
fn backends(service: Service) -> [u32; 2] {
    [service.backend, service.retiring]
}

fn failed(map: &'static str) -> impl FnOnce(io::Error) -> BpfError {
    move |source| BpfError::map(map)(MapError::IoError(source))
}

fn is_balanced(service: Service) -> bool {
    service.flags & SERVICE_BALANCED != 0
}

fn socket_address(backend: Backend) -> SocketAddr {
    SocketAddr::new(ip(backend.address), backend.port.get())
}

/// The prefilter bits of one frontend and its backend.
fn bits_of(frontend: &Frontend, backend: Address) -> impl Iterator<Item = Bit> + use<> {
    port_bits(frontend).chain([Bit::source(backend)])
}

/// The prefilter bits of a frontend's ports.
fn port_bits(frontend: &Frontend) -> impl Iterator<Item = Bit> + use<> {
    let vip = frontend.is_vip();
    let (whole, ports) = (frontend.key(), frontend.keys());
    let ports = ports
        .take_while(move |_key| !vip)
        .filter_map(|key| Bit::port(key.address.is_v4(), key.protocol, key.port));
    vip.then(|| Bit::vip(whole.address))
        .into_iter()
        .chain(ports)
}
