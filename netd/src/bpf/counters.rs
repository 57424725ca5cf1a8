//! Traffic and drop counters, summed over the CPUs.

use std::io;

use abi::map::{COUNTERS, Counters, DROPS, REASONS};
use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};

use super::error::{BpfError, optional};
use super::frontend::Frontend;
use super::object;

/// The traffic of one frontend. Connections of the host's own and the containers' processes appear
/// in `connects` alone: after the connect their packets take no detour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontendCounters {
    pub frontend: Frontend,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Flows that came through an uplink.
    pub new_flows: u64,
    pub connects: u64,
}

/// The counters of all services.
pub(super) struct Traffic {
    map: PerCpuHashMap<MapData, u32, Counters>,
    cpus: usize,
}

impl Traffic {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        let map = object::take(object, COUNTERS)?;
        let cpus = aya::util::nr_cpus()
            .map_err(|(_file, error)| BpfError::map(COUNTERS)(MapError::IoError(error)))?;
        Ok(Self { map, cpus })
    }

    /// Starts a service's counters at zero.
    pub(super) fn start(&mut self, service: u32) -> Result<(), BpfError> {
        PerCpuValues::try_from(vec![Counters::default(); self.cpus])
            .map_err(|error: io::Error| MapError::IoError(error))
            .and_then(|zero| self.map.insert(service, zero, 0))
            .map_err(BpfError::map(COUNTERS))
    }

    pub(super) fn stop(&mut self, service: u32) -> Result<(), BpfError> {
        optional(self.map.remove(&service)).map_err(BpfError::map(COUNTERS))?;
        Ok(())
    }

    pub(super) fn read(
        &self,
        frontend: Frontend,
        service: u32,
    ) -> Result<FrontendCounters, BpfError> {
        let per_cpu = optional(self.map.get(&service, 0)).map_err(BpfError::map(COUNTERS))?;
        Ok(sum(
            frontend,
            per_cpu.iter().flat_map(|values| values.iter()),
        ))
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

fn sum<'a>(frontend: Frontend, per_cpu: impl Iterator<Item = &'a Counters>) -> FrontendCounters {
    let mut total = Counters::default();
    for cpu in per_cpu {
        total.packets_in += cpu.packets_in;
        total.bytes_in += cpu.bytes_in;
        total.packets_out += cpu.packets_out;
        total.bytes_out += cpu.bytes_out;
        total.new_flows += cpu.new_flows;
        total.connects += cpu.connects;
    }
    FrontendCounters {
        frontend,
        packets_in: total.packets_in,
        bytes_in: total.bytes_in,
        packets_out: total.packets_out,
        bytes_out: total.bytes_out,
        new_flows: total.new_flows,
        connects: total.connects,
    }
}
