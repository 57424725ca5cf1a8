//! The host's own addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use abi::Address;
use abi::map::LOCAL_ADDRS;
use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};

use super::error::{BpfError, optional};
use super::frontend::{address, ip};
use super::object;
use super::{Change, DataPlane};

impl DataPlane {
    /// The addresses of the host, for which wildcard frontends answer.
    ///
    /// # Errors
    /// [`BpfError::Map`]; a part of the difference may be applied.
    pub fn set_local_addresses(&self, want: &BTreeSet<IpAddr>) -> Result<Change, BpfError> {
        self.lock().addresses.set(want)
    }

    /// The addresses of the host as the programs know them.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, BpfError> {
        self.lock().addresses.all()
    }
}

pub(super) struct Addresses {
    map: HashMap<MapData, Address, u32>,
}

impl Addresses {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: object::take(object, LOCAL_ADDRS)?,
        })
    }

    /// Additions come first: an address that moves between interfaces is never absent.
    pub(super) fn set(&mut self, want: &BTreeSet<IpAddr>) -> Result<Change, BpfError> {
        self.replace(want.iter().map(|ip| address(*ip)).collect())
            .map_err(BpfError::map(LOCAL_ADDRS))
    }

    pub(super) fn all(&self) -> Result<BTreeSet<IpAddr>, BpfError> {
        let addresses = self.map.keys().map(|key| key.map(ip));
        addresses
            .collect::<Result<_, _>>()
            .map_err(BpfError::map(LOCAL_ADDRS))
    }

    fn replace(&mut self, want: BTreeSet<Address>) -> Result<Change, MapError> {
        let have = self.map.keys().collect::<Result<BTreeSet<_>, _>>()?;
        if have == want {
            return Ok(Change::Unchanged);
        }
        for address in want.difference(&have) {
            self.map.insert(address, 1, 0)?;
        }
        for address in have.difference(&want) {
            optional(self.map.remove(address))?;
        }
        Ok(Change::Changed)
    }
}
