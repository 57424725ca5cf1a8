//! Backends on other nodes, and those of this one that other nodes reach: `abi::tunnel`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use abi::address::Address;
use abi::endpoint::Mac;
use abi::tunnel::{self, ARRIVALS, ARRIVING, Arriving, HOMES, REMOTE_V6, REMOTES, overhead};
use api::id::{IfName, MacAddr};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};

use super::error::{BpfError, optional};
use super::frontend::{address, ip};
use super::object;
use super::{Change, DataPlane, Parts};

/// Where a backend on another node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// The node's link address in the tunnel.
    pub node: MacAddr,
    /// Where the node answers for the same frontends, which clients on this host are led to.
    pub home: IpAddr,
    /// What that node calls the backend: see [`DataPlane::reachable`].
    pub number: u32,
    /// The number of the tunnel's interface.
    pub tunnel: u32,
    /// What the tunnel goes over to get there.
    pub underlay: Underlay,
}

/// What the nodes reach each other by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The longest packet, with all headers but the link's.
    pub mtu: u16,
    /// Whether it is IPv6, or may be, which takes more room.
    pub v6: bool,
}

impl Underlay {
    /// The longest packet that fits with the headers around it.
    fn fits(self) -> u16 {
        self.mtu.saturating_sub(overhead(self.v6))
    }
}

impl Remote {
    /// Whether both are the same backend, however it is reached.
    fn is(&self, other: &Self) -> bool {
        self.node == other.node && self.number == other.number
    }

    fn value(&self) -> tunnel::Remote {
        tunnel::Remote {
            ifindex: self.tunnel,
            mtu: self.underlay.fits(),
            flags: if self.underlay.v6 { REMOTE_V6 } else { 0 },
            to: Mac::from_octets(self.node.0),
            from: tunnel::sender(self.number),
        }
    }

    fn of(value: &tunnel::Remote, home: Address) -> Self {
        let v6 = value.flags & REMOTE_V6 != 0;
        Self {
            home: ip(home),
            node: MacAddr(value.to.octets()),
            number: tunnel::number_of(value.from).unwrap_or_default(),
            tunnel: value.ifindex,
            underlay: Underlay {
                mtu: value.mtu.saturating_add(overhead(v6)),
                v6,
            },
        }
    }
}

impl DataPlane {
    /// What other nodes call the backends of a [`Balanced::reachable`] service that are here: it goes
    /// into their [`Remote::number`]. A backend that comes back has another number.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn reachable(&self, number: u64) -> Result<BTreeMap<SocketAddr, u32>, BpfError> {
        self.lock().services.reachable(number)
    }

    /// Leads packets that other nodes send to the backends here: `ifname` is a VXLAN interface for these
    /// alone, which knows the link addresses of the nodes. Connections ask for segments that fit into
    /// it. Where packets go out by the tunnel, [`Remote`] says so.
    ///
    /// # Errors
    /// [`BpfError`]; calling again goes on from where it stopped.
    pub fn attach_tunnel(
        &self,
        ifindex: u32,
        ifname: &IfName,
        underlay: Underlay,
    ) -> Result<Change, BpfError> {
        let Parts {
            object,
            uplinks,
            services,
            ..
        } = &mut *self.lock();
        let told = services.set_underlay(underlay)?;
        match uplinks.attach_tunnel(object, ifindex, ifname)? {
            Change::Unchanged => Ok(told),
            change => Ok(change),
        }
    }

    /// Undoes [`Self::attach_tunnel`], also when the interface is gone.
    ///
    /// # Errors
    /// [`BpfError`]; calling again goes on from where it stopped.
    pub fn detach_tunnel(&self, ifindex: u32) -> Result<Change, BpfError> {
        self.lock().uplinks.detach_tunnel(ifindex)
    }

    /// The interfaces whose packets from other nodes are led.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn tunnels(&self) -> Result<BTreeSet<u32>, BpfError> {
        self.lock().uplinks.tunnels()
    }
}

pub(super) struct Tunnels {
    remotes: HashMap<MapData, u32, tunnel::Remote>,
    homes: HashMap<MapData, u32, Address>,
    arrivals: HashMap<MapData, u32, u32>,
    arriving: Array<MapData, Arriving>,
}

impl Tunnels {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            remotes: object::take(object, REMOTES)?,
            homes: object::take(object, HOMES)?,
            arrivals: object::take(object, ARRIVALS)?,
            arriving: object::take(object, ARRIVING)?,
        })
    }

    /// Where the backend of a slot is, unless it is here.
    pub(super) fn remote(&self, slot: u32) -> Result<Option<Remote>, BpfError> {
        let found = optional(self.remotes.get(&slot, 0)).map_err(BpfError::map(REMOTES))?;
        let home = optional(self.homes.get(&slot, 0)).map_err(BpfError::map(HOMES))?;
        Ok(found.map(|value| Remote::of(&value, home.unwrap_or_default())))
    }

    /// Whether the backend of a slot is there, or here for `None`.
    pub(super) fn is_at(&self, slot: u32, remote: Option<&Remote>) -> Result<bool, BpfError> {
        Ok(match (self.remote(slot)?, remote) {
            (None, None) => true,
            (Some(has), Some(wants)) => has.is(wants),
            _ => false,
        })
    }

    pub(super) fn set_remote(
        &mut self,
        slot: u32,
        remote: Option<&Remote>,
    ) -> Result<(), BpfError> {
        match remote {
            Some(remote) => self.homes.insert(slot, address(remote.home), 0),
            None => removed(self.homes.remove(&slot)),
        }
        .map_err(BpfError::map(HOMES))?;
        match remote {
            Some(remote) => self.remotes.insert(slot, remote.value(), 0),
            None => removed(self.remotes.remove(&slot)),
        }
        .map_err(BpfError::map(REMOTES))
    }

    /// Lets other nodes send to the backend of a slot, for `service`, or nobody.
    pub(super) fn admit(&mut self, slot: u32, service: Option<u32>) -> Result<(), BpfError> {
        match service {
            Some(service) => self.arrivals.insert(slot, service, 0),
            None => removed(self.arrivals.remove(&slot)),
        }
        .map_err(BpfError::map(ARRIVALS))
    }

    /// Forgets where the backends of these slots are, and for whom they are. Without other nodes, two
    /// calls tell that there is nothing to forget.
    pub(super) fn forget(&mut self, slots: &[u32]) -> Result<(), BpfError> {
        if self.remotes.keys().next().is_some() {
            for slot in slots {
                self.set_remote(*slot, None)?;
            }
        }
        if self.arrivals.keys().next().is_some() {
            for slot in slots {
                self.admit(*slot, None)?;
            }
        }
        Ok(())
    }

    /// Forgets slots that are not in use.
    pub(super) fn repair(&mut self, used: &BTreeSet<u32>) -> Result<(), BpfError> {
        let slots = |keys: Result<Vec<u32>, MapError>, map| keys.map_err(BpfError::map(map));
        let remotes = slots(self.remotes.keys().collect(), REMOTES)?;
        let arrivals = slots(self.arrivals.keys().collect(), ARRIVALS)?;
        for slot in remotes.iter().filter(|slot| !used.contains(slot)) {
            self.set_remote(*slot, None)?;
        }
        for slot in arrivals.iter().filter(|slot| !used.contains(slot)) {
            self.admit(*slot, None)?;
        }
        Ok(())
    }

    pub(super) fn set_underlay(&mut self, underlay: Underlay) -> Result<Change, BpfError> {
        let want = Arriving {
            mtu: underlay.fits().into(),
        };
        let failed = || BpfError::map(ARRIVING);
        if self.arriving.get(&0, 0).map_err(failed())? == want {
            return Ok(Change::Unchanged);
        }
        self.arriving.set(0, want, 0).map_err(failed())?;
        Ok(Change::Changed)
    }
}

fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    optional(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for v6 in [false, true] {
            let home: IpAddr = if v6 { "fd31::5" } else { "192.0.2.5" }.parse().unwrap();
            let remote = Remote {
                node: MacAddr([6, 1, 2, 3, 4, 5]),
                home,
                number: 0xf1_0007,
                tunnel: 12,
                underlay: Underlay { mtu: 1500, v6 },
            };
            let value = remote.value();
            assert_eq!(Remote::of(&value, address(home)), remote);
            assert_eq!(value.mtu, if v6 { 1430 } else { 1450 });
        }
    }
}
