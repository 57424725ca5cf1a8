//! Backends on other nodes, and those of this one that other nodes reach: `abi::tunnel`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::tunnel::{self, ARRIVALS, ARRIVING, Arriving, REMOTE_V6, REMOTES, TUNNEL_TTL, overhead};
use api::id::IfName;
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};

use super::error::{BpfError, optional};
use super::object;
use super::{Change, DataPlane, Parts};

/// Where a backend on another node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// The node's address, by which the tunnel reaches it.
    pub node: IpAddr,
    /// What that node calls the backend: see [`DataPlane::reachable`].
    pub number: u32,
    /// The number of the tunnel's interface.
    pub tunnel: u32,
    /// The longest packet on the way to the node, with all headers but the link's.
    pub mtu: u16,
}

/// What the nodes reach each other by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The longest packet, with all headers but the link's.
    pub mtu: u16,
    /// Whether any node has an IPv6 address there, which takes more room.
    pub v6: bool,
}

impl Remote {
    /// Whether both are the same backend, however it is reached.
    fn is(&self, other: &Self) -> bool {
        self.node == other.node && self.number == other.number
    }

    fn value(&self) -> tunnel::Remote {
        let (node, v6) = match self.node {
            IpAddr::V4(v4) => ([v4.to_bits(), 0, 0, 0], false),
            IpAddr::V6(v6) => {
                let words: [u32; 4] =
                    std::array::from_fn(|at| (v6.to_bits() >> (96 - 32 * at)) as u32);
                (words.map(u32::to_be), true)
            }
        };
        tunnel::Remote {
            number: self.number,
            node,
            tos: 0,
            ttl: TUNNEL_TTL,
            ext: 0,
            label: 0,
            ifindex: self.tunnel,
            mtu: self.mtu.saturating_sub(overhead(v6)),
            flags: if v6 { REMOTE_V6 } else { 0 },
        }
    }

    fn of(value: &tunnel::Remote) -> Self {
        let v6 = value.flags & REMOTE_V6 != 0;
        let node = if v6 {
            let words = value.node.map(u32::from_be).into_iter();
            let bits = words.fold(0, |bits, word| bits << 32 | u128::from(word));
            Ipv6Addr::from_bits(bits).into()
        } else {
            let [word, ..] = value.node;
            Ipv4Addr::from_bits(word).into()
        };
        Self {
            node,
            number: value.number,
            tunnel: value.ifindex,
            mtu: value.mtu.saturating_add(overhead(v6)),
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

    /// Leads packets that other nodes send to the backends here: `ifname` is a VXLAN device that takes
    /// its key from each packet. Connections ask for segments that fit into it. Where packets go out
    /// by the tunnel, [`Remote`] says so.
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
    arrivals: HashMap<MapData, u32, u32>,
    arriving: Array<MapData, Arriving>,
}

impl Tunnels {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            remotes: object::take(object, REMOTES)?,
            arrivals: object::take(object, ARRIVALS)?,
            arriving: object::take(object, ARRIVING)?,
        })
    }

    /// Where the backend of a slot is, unless it is here.
    pub(super) fn remote(&self, slot: u32) -> Result<Option<Remote>, BpfError> {
        let found = optional(self.remotes.get(&slot, 0)).map_err(BpfError::map(REMOTES))?;
        Ok(found.as_ref().map(Remote::of))
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
            mtu: underlay.mtu.saturating_sub(overhead(underlay.v6)).into(),
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
        for node in ["192.0.2.9", "2001:db8:9::9"] {
            let remote = Remote {
                node: node.parse().unwrap(),
                number: 0xf1_0007,
                tunnel: 12,
                mtu: 1500,
            };
            let value = remote.value();
            assert_eq!(Remote::of(&value), remote);
            let fits = if remote.node.is_ipv4() { 1450 } else { 1430 };
            assert_eq!(value.mtu, fits);
        }
    }

    #[test]
    fn addresses_are_as_the_kernel_reads_them() {
        let at = |node: &str| {
            let remote = Remote {
                node: node.parse().unwrap(),
                number: 1,
                tunnel: 1,
                mtu: 1500,
            };
            remote.value().node
        };
        assert_eq!(at("192.0.2.9"), [0xc000_0209, 0, 0, 0]);
        let words = [0x2001_0db8, 0x0009_0000, 0, 9_u32].map(u32::to_be);
        assert_eq!(at("2001:db8:9::9"), words);
    }
}
