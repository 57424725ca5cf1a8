//! Services with several backends: members, weights, and the table that chooses among them.
//!
//! Everything is in the kernel's maps, where the next daemon finds it. Order of writes, so that no flow
//! begins at a backend that is gone:
//!
//! * a backend that comes: its slot, its membership, the table (which makes it reachable);
//! * one that goes: the table, its slot (which cuts its flows), its membership;
//! * a frontend leads to the service last, and is removed from it first.
//!
//! While the table is being changed the service says so, and a daemon that finds that makes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use abi::frontend::Bit;
use abi::maglev::{LARGE_WORDS, SMALL_WORDS};
use abi::map::{
    BALANCED, LARGE_TABLES, MEMBERS, MemberKey, NO_BACKEND, SERVICE_AFFINITY, SERVICE_BALANCED,
    SERVICE_CHANGING, SERVICE_LARGE, SERVICE_ONE_PORT, SERVICE_REACHABLE, SERVICE_VIP, SERVICES,
    Service, TABLES,
};
use aya::Ebpf;
use aya::maps::{Array, HashMap, HashOfMaps, MapData, MapError};

use super::super::Change;
use super::super::error::{BpfError, optional};
use super::super::frontend::{Frontend, address, ip};
use super::super::object;
use super::super::tunnel::Remote;
use super::{Services, port_bits};
use crate::model::maglev::{self, Candidate};

/// A service with several backends. All its frontends lead to the same backends, which are of their
/// family. Of a range, the first port leads to a backend's port and the others to those after it, or
/// all to the same one. Frontends are either all [`Frontend::vip`] or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balanced {
    pub frontends: BTreeSet<Frontend>,
    /// Each with its weight: its share of new flows relative to the others'. One of weight zero
    /// keeps the flows that it has.
    pub backends: BTreeMap<SocketAddr, u32>,
    /// All flows of a client go to one backend, as long as the backends stay the same.
    pub affinity: bool,
    /// Every port of a range leads to the same port of a backend.
    pub one_port: bool,
    /// Where those backends are that are on other nodes.
    pub remotes: BTreeMap<SocketAddr, Remote>,
    /// Other nodes may send to those that are here.
    pub reachable: bool,
}

impl Balanced {
    fn flags(&self) -> u32 {
        let vip = self.frontends.iter().any(Frontend::is_vip);
        let flags = [
            (self.affinity, SERVICE_AFFINITY),
            (self.one_port, SERVICE_ONE_PORT),
            (vip, SERVICE_VIP),
            (self.reachable, SERVICE_REACHABLE),
        ];
        flags
            .into_iter()
            .filter(|(is, _)| *is)
            .fold(SERVICE_BALANCED, |flags, (_, flag)| flags | flag)
    }
}

type Inner<const N: usize> = Array<MapData, [u32; N]>;

pub(super) struct Balancing {
    /// Services by the daemon's number.
    numbers: HashMap<MapData, u64, u32>,
    /// Weights.
    members: HashMap<MapData, MemberKey, u32>,
    small: HashOfMaps<MapData, u32, Inner<SMALL_WORDS>>,
    large: HashOfMaps<MapData, u32, Inner<LARGE_WORDS>>,
    /// What the maps have of each service: they cannot be asked for one.
    known: BTreeMap<u32, Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    frontends: BTreeSet<Frontend>,
    members: BTreeMap<SocketAddr, Member>,
}

/// A backend's slot and its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    slot: u32,
    weight: u32,
}

impl Member {
    fn key(self, service: u32) -> MemberKey {
        MemberKey {
            service,
            backend: self.slot,
        }
    }
}

impl Balancing {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            numbers: object::take(object, BALANCED)?,
            members: object::take(object, MEMBERS)?,
            small: object::take(object, TABLES)?,
            large: object::take(object, LARGE_TABLES)?,
            known: BTreeMap::new(),
        })
    }

    /// Every service with several backends, by the daemon's number.
    pub(super) fn services(&self) -> Result<BTreeMap<u64, u32>, BpfError> {
        self.numbers
            .iter()
            .collect::<Result<_, _>>()
            .map_err(BpfError::map(BALANCED))
    }

    fn service(&self, number: u64) -> Result<Option<u32>, BpfError> {
        optional(self.numbers.get(&number, 0)).map_err(BpfError::map(BALANCED))
    }

    fn slots(&self) -> Result<BTreeMap<MemberKey, u32>, BpfError> {
        self.members
            .iter()
            .collect::<Result<_, _>>()
            .map_err(BpfError::map(MEMBERS))
    }

    fn known(&self, service: u32) -> Known {
        self.known.get(&service).cloned().unwrap_or_default()
    }

    /// A service's backends by slot, each with its weight.
    pub(super) fn slots_of(&self, service: u32) -> Vec<(u32, u32)> {
        let members = self.known.get(&service).into_iter();
        members
            .flat_map(|known| known.members.values())
            .map(|member| (member.slot, member.weight))
            .collect()
    }

    fn known_mut(&mut self, service: u32) -> &mut Known {
        self.known.entry(service).or_default()
    }

    fn set_member(
        &mut self,
        service: u32,
        backend: SocketAddr,
        member: Member,
    ) -> Result<(), BpfError> {
        self.members
            .insert(member.key(service), member.weight, 0)
            .map_err(BpfError::map(MEMBERS))?;
        self.known_mut(service).members.insert(backend, member);
        Ok(())
    }

    fn remove_member(&mut self, key: &MemberKey) -> Result<(), BpfError> {
        optional(self.members.remove(key)).map_err(BpfError::map(MEMBERS))?;
        let known = self.known_mut(key.service);
        known.members.retain(|_, member| member.slot != key.backend);
        Ok(())
    }

    /// Writes the table as one change; returns the flag of its size.
    fn set_table(&mut self, service: u32, words: &[u32]) -> Result<u32, BpfError> {
        if let Ok(words) = <&[u32; SMALL_WORDS]>::try_from(words) {
            insert(&mut self.small, service, words).map_err(BpfError::map(TABLES))?;
            return Ok(0);
        }
        let words = <&[u32; LARGE_WORDS]>::try_from(words).map_err(|_no_size| {
            BpfError::map(LARGE_TABLES)(MapError::InvalidValueSize {
                size: size_of_val(words),
                expected: size_of::<[u32; LARGE_WORDS]>(),
            })
        })?;
        insert(&mut self.large, service, words).map_err(BpfError::map(LARGE_TABLES))?;
        Ok(SERVICE_LARGE)
    }

    fn has_table(&self, service: u32, flags: u32) -> Result<bool, BpfError> {
        let found = if flags & SERVICE_LARGE == 0 {
            optional(self.small.get(&service, 0))
                .map_err(BpfError::map(TABLES))?
                .is_some()
        } else {
            optional(self.large.get(&service, 0))
                .map_err(BpfError::map(LARGE_TABLES))?
                .is_some()
        };
        Ok(found)
    }

    /// Removes the tables of the sizes that `flags` does not name.
    fn remove_tables(&mut self, service: u32, keep: Option<u32>) -> Result<(), BpfError> {
        if keep != Some(0) {
            optional(self.small.remove(&service)).map_err(BpfError::map(TABLES))?;
        }
        if keep != Some(SERVICE_LARGE) {
            optional(self.large.remove(&service)).map_err(BpfError::map(LARGE_TABLES))?;
        }
        Ok(())
    }
}

fn insert<const N: usize>(
    tables: &mut HashOfMaps<MapData, u32, Inner<N>>,
    service: u32,
    words: &[u32; N],
) -> Result<(), MapError> {
    let mut table = Inner::<N>::create(1, 0)?;
    table.set(0, words, 0)?;
    tables.insert(service, &table, 0)
}

impl Services {
    /// Makes the service with the daemon's `number` as `want`, or makes it.
    pub(in crate::bpf) fn balance(
        &mut self,
        number: u64,
        want: &Balanced,
    ) -> Result<Change, BpfError> {
        let existing = self.balancing.service(number)?;
        let id = existing.unwrap_or(self.next_service);
        self.check_frontends(id, want)?;
        let mut changed = false;
        if existing.is_none() {
            self.next_service += 1;
            // The number last: without it nobody knows of the rest, and the next start removes it.
            self.set_balanced(id, want.flags() | SERVICE_CHANGING, 0)?;
            let numbers = &mut self.balancing.numbers;
            numbers
                .insert(number, id, 0)
                .map_err(BpfError::map(BALANCED))?;
        }
        changed |= self.set_backends(id, want)?;
        changed |= self.set_frontends(id, want)?;
        Ok(match (existing, changed) {
            (None, _) => Change::Created,
            (Some(_), true) => Change::Changed,
            (Some(_), false) => Change::Unchanged,
        })
    }

    /// Undoes [`Self::balance`]; flows in progress are cut.
    pub(in crate::bpf) fn unbalance(&mut self, number: u64) -> Result<Change, BpfError> {
        let Some(id) = self.balancing.service(number)? else {
            return Ok(Change::Unchanged);
        };
        let nothing = Balanced::default();
        self.set_frontends(id, &nothing)?;
        self.set_backends(id, &nothing)?;
        self.balancing.remove_tables(id, None)?;
        self.balancing.known.remove(&id);
        self.remove_services(&[id], &[])?;
        optional(self.balancing.numbers.remove(&number)).map_err(BpfError::map(BALANCED))?;
        Ok(Change::Changed)
    }

    /// All of them, read from the kernel.
    pub(in crate::bpf) fn balanced(&self) -> Result<BTreeMap<u64, Balanced>, BpfError> {
        let services = self.balancing.services()?.into_iter();
        services
            .map(|(number, id)| {
                let Known { frontends, members } = self.balancing.known(id);
                let remotes = self.remotes(&members)?;
                let flags = self.service(id)?.map_or(0, |service| service.flags);
                let balanced = Balanced {
                    frontends,
                    backends: weights(&members),
                    affinity: flags & SERVICE_AFFINITY != 0,
                    one_port: flags & SERVICE_ONE_PORT != 0,
                    remotes,
                    reachable: flags & SERVICE_REACHABLE != 0,
                };
                Ok((number, balanced))
            })
            .collect()
    }

    /// Learns what an earlier daemon has left, and completes it. Returns the bits in use.
    pub(super) fn repair_balanced(
        &mut self,
        entries: &[(Frontend, u32)],
    ) -> Result<Vec<Bit>, BpfError> {
        let ids: BTreeSet<u32> = self.balancing.services()?.into_values().collect();
        let mut bits = Vec::new();
        for (frontend, id) in entries.iter().filter(|(_, id)| ids.contains(id)) {
            bits.extend(port_bits(frontend));
            self.balancing.known_mut(*id).frontends.insert(*frontend);
        }
        for (key, weight) in self.balancing.slots()? {
            let slot = key.backend;
            let backend = self.backend(slot)?;
            if ids.contains(&key.service) && backend.is_live() {
                self.used.insert(slot);
                bits.push(Bit::source(backend.address));
                let address = SocketAddr::new(ip(backend.address), backend.port.get());
                let known = self.balancing.known_mut(key.service);
                let twin = known.members.insert(address, Member { slot, weight });
                if let Some(twin) = twin {
                    // Of a backend that was about to move to another node, or from there.
                    self.retire(&[twin.slot])?;
                    self.balancing.remove_member(&twin.key(key.service))?;
                }
            } else {
                self.retire(&[slot])?;
                self.balancing.remove_member(&key)?;
            }
        }
        for &id in &ids {
            let flags = self
                .service(id)?
                .map_or(SERVICE_BALANCED | SERVICE_CHANGING, |s| s.flags);
            // An upgrade that has another size of table leaves it to be made.
            if flags & SERVICE_CHANGING != 0 || !self.balancing.has_table(id, flags)? {
                self.write_table(id, flags & !(SERVICE_CHANGING | SERVICE_LARGE))?;
            }
        }
        Ok(bits)
    }

    fn check_frontends(&self, id: u32, want: &Balanced) -> Result<(), BpfError> {
        for frontend in &want.frontends {
            if self.find(frontend)?.is_some_and(|holder| holder != id) {
                return Err(BpfError::Taken {
                    frontend: *frontend,
                });
            }
        }
        Ok(())
    }

    fn set_backends(&mut self, id: u32, want: &Balanced) -> Result<bool, BpfError> {
        let have = self.balancing.known(id).members;
        let flags = self
            .service(id)?
            .map_or(SERVICE_CHANGING, |service| service.flags);
        let settled = weights(&have) == want.backends
            && flags & !SERVICE_LARGE == want.flags()
            && self.remotes(&have)? == want.remotes;
        if settled {
            return Ok(false);
        }
        self.set_balanced(id, flags | SERVICE_CHANGING, have.len())?;
        let mut moved: Vec<&Member> = Vec::new();
        for (backend, &weight) in &want.backends {
            let remote = want.remotes.get(backend);
            let held = have.get(backend);
            let slot = match held {
                Some(member) if self.tunnels.is_at(member.slot, remote)? => {
                    self.tunnels.set_remote(member.slot, remote)?;
                    member.slot
                }
                _ => {
                    let address = address(backend.ip());
                    self.prefilter.add([Bit::source(address)].into_iter())?;
                    let slot = self.add_backend(*backend, remote)?;
                    moved.extend(held);
                    slot
                }
            };
            let admitted = want.reachable && remote.is_none();
            self.tunnels.admit(slot, admitted.then_some(id))?;
            let member = Member { slot, weight };
            self.balancing.set_member(id, *backend, member)?;
        }
        let moved: Vec<MemberKey> = moved.into_iter().map(|member| member.key(id)).collect();
        let gone: Vec<(SocketAddr, Member)> = have
            .into_iter()
            .filter(|(backend, _)| !want.backends.contains_key(backend))
            .collect();
        for (backend, member) in &gone {
            // Not in the table any more: no new flow meets it when it is retired.
            let idle = Member {
                weight: 0,
                ..*member
            };
            self.balancing.set_member(id, *backend, idle)?;
        }
        self.write_table(id, want.flags())?;
        for (backend, member) in gone {
            self.end(id, member.slot)?;
            self.balancing.remove_member(&member.key(id))?;
            let bit = Bit::source(address(backend.ip()));
            self.prefilter.remove([bit].into_iter())?;
        }
        for key in moved {
            self.end(id, key.backend)?;
            self.balancing.remove_member(&key)?;
        }
        Ok(true)
    }

    /// Where those of the members are that are on other nodes.
    fn remotes(
        &self,
        members: &BTreeMap<SocketAddr, Member>,
    ) -> Result<BTreeMap<SocketAddr, Remote>, BpfError> {
        let mut remotes = BTreeMap::new();
        for (backend, member) in members {
            if let Some(remote) = self.tunnels.remote(member.slot)? {
                remotes.insert(*backend, remote);
            }
        }
        Ok(remotes)
    }

    /// The backends of a service here that other nodes may send to, and their slots.
    pub(super) fn reachable_slots(&self, number: u64) -> Result<Vec<(SocketAddr, u32)>, BpfError> {
        let Some(id) = self.balancing.service(number)? else {
            return Ok(Vec::new());
        };
        let flags = self.service(id)?.map_or(0, |service| service.flags);
        let mut slots = Vec::new();
        for (backend, member) in self.balancing.known(id).members {
            if flags & SERVICE_REACHABLE != 0 && self.tunnels.remote(member.slot)?.is_none() {
                slots.push((backend, member.slot));
            }
        }
        Ok(slots)
    }

    fn set_frontends(&mut self, id: u32, want: &Balanced) -> Result<bool, BpfError> {
        let have = self.balancing.known(id).frontends;
        for frontend in have.difference(&want.frontends) {
            self.unlead(frontend)?;
            self.prefilter.remove(port_bits(frontend))?;
            self.balancing.known_mut(id).frontends.remove(frontend);
        }
        for frontend in want.frontends.difference(&have) {
            self.prefilter.add(port_bits(frontend))?;
            self.lead(frontend, id)?;
            self.balancing.known_mut(id).frontends.insert(*frontend);
        }
        Ok(have != want.frontends)
    }

    /// Makes the table from the members, and the service say `flags`.
    fn write_table(&mut self, id: u32, flags: u32) -> Result<(), BpfError> {
        let members: Vec<_> = self.balancing.known(id).members.into_iter().collect();
        let candidates: Vec<Candidate> = members
            .iter()
            .map(|(backend, member)| Candidate::new(*backend, member.weight))
            .collect();
        let size = match maglev::table(&candidates) {
            Some(table) => {
                let slots = table.into_iter().map(|at| members[at].1.slot);
                let words: Vec<u32> = slots.chain([NO_BACKEND]).collect();
                Some(self.balancing.set_table(id, &words)?)
            }
            None => None,
        };
        self.set_balanced(id, flags | size.unwrap_or(0), members.len())?;
        self.balancing.remove_tables(id, size)
    }

    fn set_balanced(&mut self, id: u32, flags: u32, backends: usize) -> Result<(), BpfError> {
        let service = Service {
            backends: u32::try_from(backends).unwrap_or(u32::MAX),
            backend: NO_BACKEND,
            retiring: NO_BACKEND,
            flags,
        };
        self.services
            .insert(id, service, 0)
            .map_err(BpfError::map(SERVICES))
    }
}

fn weights(members: &BTreeMap<SocketAddr, Member>) -> BTreeMap<SocketAddr, u32> {
    let members = members.iter();
    members
        .map(|(backend, member)| (*backend, member.weight))
        .collect()
}

#[cfg(test)]
mod tests;
