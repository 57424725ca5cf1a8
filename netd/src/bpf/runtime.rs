//! Runtimes that may bind what they have published.
//!
//! Some hold every port they publish with a socket of their own, as podman's `conmon` does, so that
//! nobody else takes it. The guard would refuse that as it refuses everybody.
//!
//! The table forgets the oldest entry for a new one. An entry outlives its process, and one that gets
//! the number later may bind a published port too: it receives nothing there.

use abi::map::RUNTIMES;
use aya::Ebpf;
use aya::maps::{HashMap, MapData};

use super::Change;
use super::error::{BpfError, optional};
use super::object;

pub(super) struct Runtimes {
    map: HashMap<MapData, u32, u32>,
}

impl Runtimes {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: object::take(object, RUNTIMES)?,
        })
    }

    pub(super) fn admit(&mut self, process: u32) -> Result<Change, BpfError> {
        let failed = BpfError::map(RUNTIMES);
        let known = optional(self.map.get(&process, 0)).map_err(&failed)?;
        if known.is_some() {
            return Ok(Change::Unchanged);
        }
        self.map.insert(process, 1, 0).map_err(&failed)?;
        Ok(Change::Created)
    }
}
