//! Networks whose frames go between nodes encrypted: `abi::sealed`.

use std::collections::{BTreeMap, BTreeSet};

use abi::sealed::{SEALED, SEALED_PORT};
use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, PerCpuHashMap, PerCpuValues};

use super::error::{BpfError, optional};
use super::{Change, DataPlane, object};

/// What must not go by an uplink in clear text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The UDP port of VXLAN; zero where there is no such network.
    pub port: u16,
    /// VXLAN network numbers.
    pub vnis: BTreeSet<u32>,
}

impl DataPlane {
    /// Drops frames of these networks, and no others, in both directions at each uplink. Counters of
    /// those that stay go on.
    ///
    /// # Errors
    /// [`BpfError::Map`]; calling again goes on from where it stopped.
    pub fn seal(&self, want: &Sealed) -> Result<Change, BpfError> {
        self.lock().seals.set(want)
    }

    /// # Errors
    /// [`BpfError::Map`].
    pub fn sealed(&self) -> Result<Sealed, BpfError> {
        self.lock().seals.all()
    }

    /// How many frames were dropped, by VXLAN network number.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn exposed(&self) -> Result<BTreeMap<u32, u64>, BpfError> {
        self.lock().seals.dropped()
    }
}

pub(super) struct Seals {
    port: Array<MapData, u32>,
    vnis: PerCpuHashMap<MapData, u32, u64>,
    cpus: usize,
}

impl Seals {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(_file, error)| BpfError::map(SEALED)(MapError::IoError(error)))?;
        Ok(Self {
            port: object::take(object, SEALED_PORT)?,
            vnis: object::take(object, SEALED)?,
            cpus,
        })
    }

    fn all(&self) -> Result<Sealed, BpfError> {
        let port = self.port.get(&0, 0).map_err(BpfError::map(SEALED_PORT))?;
        let vnis = self.vnis.keys().collect::<Result<_, _>>();
        Ok(Sealed {
            port: u16::try_from(port).unwrap_or_default(),
            vnis: vnis.map_err(BpfError::map(SEALED))?,
        })
    }

    fn dropped(&self) -> Result<BTreeMap<u32, u64>, BpfError> {
        let counts = self.vnis.iter().map(|entry| {
            let (vni, counts) = entry?;
            Ok((vni, counts.iter().sum()))
        });
        let counts = counts.collect::<Result<_, MapError>>();
        counts.map_err(BpfError::map(SEALED))
    }

    /// Additions come first: nothing that stays is open for a moment.
    fn set(&mut self, want: &Sealed) -> Result<Change, BpfError> {
        let have = self.all()?;
        if have == *want {
            return Ok(Change::Unchanged);
        }
        self.replace(&have.vnis, &want.vnis)
            .map_err(BpfError::map(SEALED))?;
        let port = self.port.set(0, u32::from(want.port), 0);
        port.map_err(BpfError::map(SEALED_PORT))?;
        Ok(Change::Changed)
    }

    fn replace(&mut self, have: &BTreeSet<u32>, want: &BTreeSet<u32>) -> Result<(), MapError> {
        for vni in want.difference(have) {
            let zeros = PerCpuValues::try_from(vec![0; self.cpus])?;
            self.vnis.insert(*vni, zeros, 0)?;
        }
        for vni in have.difference(want) {
            optional(self.vnis.remove(vni))?;
        }
        Ok(())
    }
}
