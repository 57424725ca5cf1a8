//! Traffic and drop counters, summed over the CPUs.
//!
//! **Invariant.** A backend's counters live from its first flow on as long as it does. Then they are
//! added to those of its service, whose sums therefore never go back while it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;

use abi::map::{Counters, DROPS, DropKey, NO_BACKEND, REASONS, SERVICE_DROPS, TRAFFIC, TrafficKey};
use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};

use super::error::{BpfError, optional};
use super::frontend::Frontend;
use super::object;

/// What went to and from a backend, or a service. Connections of the host's own and the containers'
/// processes appear in `connects` alone: after the connect their packets take no detour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Flows that came through an uplink.
    pub new_flows: u64,
    pub connects: u64,
    /// Datagrams of local sockets that are not connected.
    pub datagrams: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.new_flows += other.new_flows;
        self.connects += other.connects;
        self.datagrams += other.datagrams;
    }
}

impl From<Counters> for Counts {
    fn from(counters: Counters) -> Self {
        let Counters {
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            new_flows,
            connects,
            datagrams,
        } = counters;
        Self {
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            new_flows,
            connects,
            datagrams,
        }
    }
}

/// One backend of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendTraffic {
    pub address: SocketAddr,
    pub weight: u32,
    pub counts: Counts,
    /// Flows of the packet path in progress.
    pub active: u64,
}

/// One service of the data plane: a published port or range, or what was balanced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// The data plane's own number, which is never used again.
    pub id: u32,
    /// The caller's number for a service with several backends.
    pub number: Option<u64>,
    pub frontends: Vec<Frontend>,
    pub backends: Vec<BackendTraffic>,
    /// Of the backends that it has no more.
    pub past: Counts,
    /// Packets that were dropped or not served, by reason; no zeros.
    pub drops: BTreeMap<&'static str, u64>,
}

/// The counters of all backends.
pub(super) struct Traffic {
    map: PerCpuHashMap<MapData, TrafficKey, Counters>,
    drops: PerCpuHashMap<MapData, DropKey, u64>,
    cpus: usize,
}

impl Traffic {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        let map = object::take(object, TRAFFIC)?;
        let drops = object::take(object, SERVICE_DROPS)?;
        let cpus = aya::util::nr_cpus()
            .map_err(|(_file, error)| BpfError::map(TRAFFIC)(MapError::IoError(error)))?;
        Ok(Self { map, drops, cpus })
    }

    /// Forgets the counters of all but `backends` and their services.
    pub(super) fn repair(&mut self, backends: &BTreeSet<TrafficKey>) -> Result<(), BpfError> {
        let services: BTreeSet<u32> = backends.iter().map(|key| key.service).collect();
        let have: BTreeSet<TrafficKey> = self
            .map
            .keys()
            .collect::<Result<_, _>>()
            .map_err(BpfError::map(TRAFFIC))?;
        for key in have.difference(backends) {
            if !services.contains(&key.service) {
                self.remove(*key)?;
            } else if key.backend != NO_BACKEND {
                self.end(*key)?;
            }
        }
        Ok(())
    }

    /// Adds what a backend had to its service's past.
    pub(super) fn end(&mut self, key: TrafficKey) -> Result<(), BpfError> {
        let past = TrafficKey {
            backend: NO_BACKEND,
            ..key
        };
        let Some(last) = self.read(key)?.filter(|_| key != past) else {
            return Ok(());
        };
        let mut sum = self.read(past)?.unwrap_or_default();
        sum += last;
        let mut values = vec![Counters::default(); self.cpus];
        values[0] = Counters {
            packets_in: sum.packets_in,
            bytes_in: sum.bytes_in,
            packets_out: sum.packets_out,
            bytes_out: sum.bytes_out,
            new_flows: sum.new_flows,
            connects: sum.connects,
            datagrams: sum.datagrams,
        };
        self.write(past, values)?;
        self.remove(key)
    }

    /// Forgets services, with what they had of these backends.
    pub(super) fn stop(
        &mut self,
        services: &[u32],
        backends: &[TrafficKey],
    ) -> Result<(), BpfError> {
        let past = services.iter().map(|&service| TrafficKey {
            service,
            backend: NO_BACKEND,
        });
        for key in past.chain(backends.iter().copied().filter(|k| k.backend != NO_BACKEND)) {
            self.remove(key)?;
        }
        if self.drops.keys().next().is_none() {
            return Ok(());
        }
        for &service in services {
            for (reason, _name) in (0_u32..).zip(REASONS) {
                optional(self.drops.remove(&DropKey { service, reason }))
                    .map_err(BpfError::map(SERVICE_DROPS))?;
            }
        }
        Ok(())
    }

    /// What a backend had until now; `None` where nothing is counted.
    pub(super) fn read(&self, key: TrafficKey) -> Result<Option<Counts>, BpfError> {
        let values = optional(self.map.get(&key, 0)).map_err(BpfError::map(TRAFFIC))?;
        Ok(values.map(|values| {
            let mut sum = Counts::default();
            for counters in values.iter() {
                sum += Counts::from(*counters);
            }
            sum
        }))
    }

    /// What services lost, by service and reason.
    pub(super) fn drops(&self) -> Result<BTreeMap<u32, BTreeMap<&'static str, u64>>, BpfError> {
        let mut drops = BTreeMap::<u32, BTreeMap<_, _>>::new();
        for entry in self.drops.iter() {
            let (key, values) = entry.map_err(BpfError::map(SERVICE_DROPS))?;
            // One of a newer version has no name here.
            if let Some(name) = REASONS.get(key.reason as usize) {
                let of_service = drops.entry(key.service).or_default();
                of_service.insert(*name, values.iter().sum());
            }
        }
        Ok(drops)
    }

    fn write(&mut self, key: TrafficKey, values: Vec<Counters>) -> Result<(), BpfError> {
        PerCpuValues::try_from(values)
            .map_err(|error: io::Error| MapError::IoError(error))
            .and_then(|values| self.map.insert(key, values, 0))
            .map_err(BpfError::map(TRAFFIC))
    }

    fn remove(&mut self, key: TrafficKey) -> Result<(), BpfError> {
        optional(self.map.remove(&key)).map_err(BpfError::map(TRAFFIC))?;
        Ok(())
    }
}

/// The counters of packets that were dropped or not served.
pub(super) struct Drops {
    map: PerCpuArray<MapData, u64>,
}

impl Drops {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: object::take(object, DROPS)?,
        })
    }

    pub(super) fn read(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        (0u32..)
            .zip(REASONS)
            .map(|(index, name)| {
                let values = self.map.get(&index, 0).map_err(BpfError::map(DROPS))?;
                Ok((name, values.iter().sum()))
            })
            .collect()
    }
}
