//! Frontends that lead to a single backend each: published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use abi::frontend::Bit;
use abi::map::{
    BACKENDS, Backend, FRONTENDS, FrontendKey, FrontendValue, NO_BACKEND, SERVICES, Service,
    TrafficKey,
};

use super::{
    Services, backends, bits_of, failed, is_balanced, leading_to, service_of, socket_address,
};
use crate::bpf::error::BpfError;
use crate::bpf::frontend::{Frontend, address};
use crate::bpf::{Change, map};

/// A frontend with a service of its own.
#[derive(Clone, Copy)]
pub(super) struct Led {
    pub(super) frontend: Frontend,
    pub(super) id: u32,
    /// `None` where an earlier daemon has left the frontend alone.
    pub(super) service: Option<Service>,
}

impl Services {
    /// What is new among it is all there in the end, or nothing of it.
    pub(in crate::bpf) fn publish(
        &mut self,
        wanted: &[(Frontend, SocketAddr)],
    ) -> Result<Change, BpfError> {
        let mut change = Change::Unchanged;
        let mut new = BTreeMap::new();
        for &(frontend, backend) in wanted {
            match self.find(&frontend)? {
                Some(id) => change = change.or(self.lead_anew(frontend, id, backend)?),
                None => {
                    new.insert(frontend, backend);
                }
            }
        }
        if new.is_empty() {
            return Ok(change);
        }
        self.create(&new)?;
        Ok(Change::Created)
    }

    /// Leads a frontend that has a service to `backend`.
    fn lead_anew(
        &mut self,
        frontend: Frontend,
        id: u32,
        backend: SocketAddr,
    ) -> Result<Change, BpfError> {
        if self.is_balanced(id)? {
            return Err(BpfError::Taken { frontend });
        }
        let Some(service) = self.service(id)? else {
            self.remove_frontends(&[Led {
                frontend,
                id,
                service: None,
            }])?;
            self.create(&BTreeMap::from([(frontend, backend)]))?;
            return Ok(Change::Changed);
        };
        let current = self.backend(service.backend)?;
        if socket_address(current) == backend && current.is_live() {
            self.finish_retiring(id, service)?;
            return Ok(Change::Unchanged);
        }
        self.replace(id, service, backend)?;
        Ok(Change::Changed)
    }

    pub(in crate::bpf) fn unpublish(&mut self, frontends: &[Frontend]) -> Result<Change, BpfError> {
        let mut led = Vec::new();
        for frontend in frontends.iter().copied().collect::<BTreeSet<_>>() {
            let Some(id) = self.find(&frontend)? else {
                continue;
            };
            let service = self.service(id)?;
            if !service.is_some_and(is_balanced) {
                led.push(Led {
                    frontend,
                    id,
                    service,
                });
            }
        }
        if led.is_empty() {
            return Ok(Change::Unchanged);
        }
        self.remove_frontends(&led)?;
        Ok(Change::Changed)
    }

    /// Publishes frontends that lead nowhere. Where that fails, nothing of it stays.
    fn create(&mut self, new: &BTreeMap<Frontend, SocketAddr>) -> Result<(), BpfError> {
        let mut made = Vec::new();
        let mut bits = Vec::new();
        let reserved = new.iter().try_for_each(|(frontend, backend)| {
            let (slot, backend) = self.reserve(frontend, *backend, None)?;
            bits.extend(bits_of(frontend, backend.address));
            made.push((self.next_service, slot, backend));
            self.next_service += 1;
            Ok(())
        });
        let (ids, services): (Vec<u32>, Vec<Service>) = made
            .iter()
            .map(|(id, slot, _backend)| (*id, service_of(*slot, NO_BACKEND)))
            .unzip();
        let (slots, backends): (Vec<u32>, Vec<Backend>) = made
            .iter()
            .map(|(_id, slot, backend)| (*slot, *backend))
            .unzip();
        let written = reserved
            .and_then(|()| map::insert(&self.backends, &slots, &backends).map_err(failed(BACKENDS)))
            .and_then(|()| map::insert(&self.services, &ids, &services).map_err(failed(SERVICES)))
            .and_then(|()| self.prefilter.add(bits.into_iter()));
        if let Err(error) = written {
            self.retire(&slots)?;
            self.remove_services(&ids, &[])?;
            return Err(error);
        }
        let led: Vec<Led> = new
            .keys()
            .zip(ids.iter().zip(&services))
            .map(|(&frontend, (&id, &service))| Led {
                frontend,
                id,
                service: Some(service),
            })
            .collect();
        self.lead_all(&led).or_else(|error| {
            self.remove_frontends(&led)?;
            Err(error)
        })
    }

    /// Makes each frontend lead to its service.
    fn lead_all(&mut self, led: &[Led]) -> Result<(), BpfError> {
        let (ranges, single): (Vec<Led>, Vec<Led>) =
            led.iter().partition(|led| led.frontend.is_range());
        let keys: Vec<FrontendKey> = single.iter().map(|led| led.frontend.key()).collect();
        let values: Vec<FrontendValue> = single.iter().map(|led| leading_to(led.id)).collect();
        map::insert(&self.frontends, &keys, &values).map_err(failed(FRONTENDS))?;
        ranges
            .iter()
            .try_for_each(|led| self.ranges.insert(&led.frontend, led.id))
    }

    fn replace(&mut self, id: u32, service: Service, backend: SocketAddr) -> Result<(), BpfError> {
        self.end(id, service.retiring)?;
        let old = self.backend(service.backend)?;
        let new = self.add_backend(backend, None)?;
        let source = Bit::source(address(backend.ip()));
        self.prefilter.add([source].into_iter())?;
        self.set_service(id, new, service.backend)?;
        self.end(id, service.backend)?;
        self.set_service(id, new, NO_BACKEND)?;
        self.prefilter
            .remove([Bit::source(old.address)].into_iter())
    }

    pub(super) fn remove_frontends(&mut self, gone: &[Led]) -> Result<(), BpfError> {
        let (mut slots, mut bits, mut traffic) = (Vec::new(), Vec::new(), Vec::new());
        for led in gone {
            let Some(service) = led.service else {
                continue;
            };
            let address = self.backend(service.backend)?.address;
            bits.extend(bits_of(&led.frontend, address));
            for backend in backends(service) {
                slots.push(backend);
                traffic.push(TrafficKey {
                    service: led.id,
                    backend,
                });
            }
        }
        self.retire(&slots)?;
        let (ranges, single): (Vec<Frontend>, Vec<Frontend>) = gone
            .iter()
            .map(|led| led.frontend)
            .partition(Frontend::is_range);
        for range in ranges {
            self.ranges.remove(&range)?;
        }
        let keys: Vec<FrontendKey> = single.iter().map(Frontend::key).collect();
        map::remove(&self.frontends, &keys).map_err(failed(FRONTENDS))?;
        let ids: Vec<u32> = gone.iter().map(|led| led.id).collect();
        self.remove_services(&ids, &traffic)?;
        self.prefilter.remove(bits.into_iter())
    }
}
