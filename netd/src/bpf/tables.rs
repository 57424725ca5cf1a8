//! How full the tables are, and the flows in progress.
//!
//! Reads the maps through descriptors of its own, so that a look at a large table keeps nobody from
//! changing a service.

use std::collections::BTreeMap;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use abi::activity::{Span, is_active, is_over};
use abi::map::{CT_ANY, CT_HALF, CT_TCP, Direction, FLOW_SELF, Flow, FlowKey, MEASURED};
use sys::bpf;
use sys::bpf::map::{count, remove, shape, visit};

use super::error::BpfError;
use super::pin::Directory;

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    pub table: &'static str,
    pub entries: u32,
    pub capacity: u32,
    /// The entries that cannot be missed: all of a table that refuses more when it is full, those of
    /// flows in progress in one that forgets what was silent longest. Absent for tables of hints.
    pub in_use: Option<u32>,
}

/// Of which service, which backend, and which of the backends that had this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) service: u32,
    pub(super) backend: u32,
    pub(super) generation: u32,
}

pub(super) struct Tables {
    maps: Vec<(&'static str, OwnedFd)>,
}

/// `BPF_MAP_TYPE_LRU_HASH`.
const LRU_HASH: u32 = 9;

impl Tables {
    pub(super) fn open(pins: &Directory) -> Result<Self, BpfError> {
        let open = |name: &'static str| {
            let path = pins.path(name);
            let map = bpf::open(&path).map_err(|source| BpfError::Pin {
                what: "open the map pinned at",
                path,
                source,
            })?;
            Ok((name, map))
        };
        let maps = MEASURED.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { maps })
    }

    pub(super) fn fill(&self) -> Result<Vec<Fill>, BpfError> {
        let fill = |(table, map): &(&'static str, OwnedFd)| {
            let failed = failed(table);
            let shape = shape(map.as_fd()).map_err(&failed)?;
            let (entries, in_use) = match *table {
                CT_HALF | CT_TCP | CT_ANY => {
                    let (mut all, mut active, now) = (0, 0, bpf::now());
                    visit(map.as_fd(), |key, value| {
                        all += 1;
                        let span = span(table, key, value);
                        active += u32::from(span.is_some_and(|span| is_active(&span, now)));
                    })
                    .map_err(&failed)?;
                    (all, Some(active))
                }
                _ => {
                    let entries = count(map.as_fd()).map_err(&failed)?;
                    (entries, (shape.kind != LRU_HASH).then_some(entries))
                }
            };
            Ok(Fill {
                table,
                entries,
                capacity: shape.max_entries,
                in_use,
            })
        };
        self.maps.iter().map(fill).collect()
    }

    /// The flows in progress of the packet path.
    pub(super) fn active(&self) -> Result<BTreeMap<Owner, u64>, BpfError> {
        let mut active = BTreeMap::new();
        let now = bpf::now();
        for (name, map) in &self.maps {
            if matches!(*name, CT_HALF | CT_TCP | CT_ANY) {
                let count = |key: &[u8], value: &[u8]| {
                    if let Some(owner) = owner(name, key, value, now) {
                        *active.entry(owner).or_default() += 1;
                    }
                };
                visit(map.as_fd(), count).map_err(failed(name))?;
            }
        }
        Ok(active)
    }

    /// Forgets flows that both ends have closed, in both directions, once they were silent for so long.
    /// The tables would forget them by themselves, when they need the room; until then the ports of
    /// one are its own, and its entries count.
    pub(super) fn sweep(&self, after: Duration) -> Result<usize, BpfError> {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let (now, mut swept) = (bpf::now(), 0);
        for (name, map) in &self.maps {
            if !matches!(*name, CT_HALF | CT_TCP | CT_ANY) {
                continue;
            }
            let mut over = Vec::new();
            visit(map.as_fd(), |key, value| {
                if span(name, key, value).is_some_and(|span| is_over(&span, now, after)) {
                    over.extend(reverse(key, value));
                    over.push(key.to_vec());
                }
            })
            .map_err(failed(name))?;
            // One that begins anew at this moment is forgotten, too: its next packet is a first one.
            for key in over {
                swept += usize::from(remove(map.as_fd(), &key).map_err(failed(name))?);
            }
        }
        Ok(swept)
    }
}

/// The key of a forward flow's other entry, as [`abi::flow::reverse_key`] makes it.
fn reverse(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    if *key.get(offset_of!(FlowKey, direction))? != Direction::Forward as u8 {
        return None;
    }
    let is_self = value.get(offset_of!(Flow, flags))? & FLOW_SELF != 0;
    let client = if is_self {
        offset_of!(FlowKey, destination)
    } else {
        offset_of!(FlowKey, source)
    };
    let mut other = key.to_vec();
    let mut put = |at: usize, from: &[u8]| -> Option<()> {
        other.get_mut(at..at + from.len())?.copy_from_slice(from);
        Some(())
    };
    let address = offset_of!(Flow, address);
    let (port, client_port) = (offset_of!(Flow, port), offset_of!(Flow, client_port));
    put(
        offset_of!(FlowKey, source),
        value.get(address..address + 16)?,
    )?;
    put(
        offset_of!(FlowKey, destination),
        key.get(client..client + 16)?,
    )?;
    put(offset_of!(FlowKey, source_port), value.get(port..port + 2)?)?;
    put(
        offset_of!(FlowKey, destination_port),
        value.get(client_port..client_port + 2)?,
    )?;
    put(offset_of!(FlowKey, direction), &[Direction::Reverse as u8])?;
    Some(other)
}

fn span(table: &str, key: &[u8], value: &[u8]) -> Option<Span> {
    Some(Span {
        half: table == CT_HALF,
        protocol: *key.get(offset_of!(FlowKey, protocol))?,
        state: *value.get(offset_of!(Flow, state))?,
        last_seen: u64::from_ne_bytes(array(value, offset_of!(Flow, last_seen))?),
    })
}

/// Whose flow an entry is, if it is a flow in progress.
fn owner(table: &str, key: &[u8], value: &[u8], now: u64) -> Option<Owner> {
    let forward = *key.get(offset_of!(FlowKey, direction))? == Direction::Forward as u8;
    if !forward || !is_active(&span(table, key, value)?, now) {
        return None;
    }
    Some(Owner {
        service: u32::from_ne_bytes(array(value, offset_of!(Flow, service))?),
        backend: u32::from_ne_bytes(array(value, offset_of!(Flow, backend))?),
        generation: u32::from_ne_bytes(array(value, offset_of!(Flow, generation))?),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn failed(table: &'static str) -> impl Fn(io::Error) -> BpfError {
    move |source| BpfError::Table { table, source }
}
