//! The trie of published ranges of ports, and of addresses with all their ports; `abi::range` has its
//! invariant.

use std::collections::BTreeMap;

use abi::map::{FrontendKey, RANGES};
use abi::range::{ALL_BITS, Prefix, RangeKey, RangeValue, prefixes};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};

use super::error::{BpfError, optional};
use super::frontend::Frontend;
use super::object;

pub(super) struct Ranges {
    map: LpmTrie<MapData, RangeKey, RangeValue>,
}

impl Ranges {
    /// Opens the trie and removes what is no range of at least two ports.
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        let mut ranges = Self {
            map: object::take(object, RANGES)?,
        };
        for entries in ranges.entries()?.into_values() {
            if as_frontend(&entries).is_none() {
                for (key, _value) in &entries {
                    optional(ranges.map.remove(key)).map_err(BpfError::map(RANGES))?;
                }
            }
        }
        Ok(ranges)
    }

    /// The service that serves the first of the range's ports.
    pub(super) fn service(&self, range: &Frontend) -> Result<Option<u32>, BpfError> {
        Ok(self
            .find(&range.key())?
            .filter(|value| value.first.get() == range.port)
            .map(|value| value.service))
    }

    /// What the port is part of.
    pub(super) fn find(&self, port: &FrontendKey) -> Result<Option<RangeValue>, BpfError> {
        let key = Key::new(ALL_BITS, RangeKey::of(port));
        optional(self.map.get(&key, 0)).map_err(BpfError::map(RANGES))
    }

    /// All or nothing.
    pub(super) fn insert(&mut self, range: &Frontend, service: u32) -> Result<(), BpfError> {
        let first = RangeKey::of(&range.key());
        let value = RangeValue {
            service,
            first: first.port,
            pad: 0,
        };
        for prefix in prefixes(range.port, range.ports()) {
            if let Err(error) = self.map.insert(&key(&first, prefix), value, 0) {
                self.remove(range)?;
                return Err(BpfError::map(RANGES)(error));
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, range: &Frontend) -> Result<(), BpfError> {
        let first = RangeKey::of(&range.key());
        let ascending: Vec<Prefix> = prefixes(range.port, range.ports()).collect();
        for prefix in ascending.into_iter().rev() {
            optional(self.map.remove(&key(&first, prefix))).map_err(BpfError::map(RANGES))?;
        }
        Ok(())
    }

    /// Every range and its service.
    pub(super) fn all(&self) -> Result<Vec<(Frontend, u32)>, BpfError> {
        let entries = self.entries()?;
        let ranges = entries.into_iter();
        Ok(ranges
            .filter_map(|((service, _first), entries)| Some((as_frontend(&entries)?, service)))
            .collect())
    }

    /// By service, and by the first port of each of its ranges.
    fn entries(&self) -> Result<BTreeMap<(u32, FrontendKey), Vec<Entry>>, BpfError> {
        let mut ranges = BTreeMap::<_, Vec<Entry>>::new();
        for entry in self.map.iter() {
            let (key, value) = entry.map_err(|error: MapError| BpfError::map(RANGES)(error))?;
            let range = (value.service, first(&key, &value));
            ranges.entry(range).or_default().push((key, value));
        }
        Ok(ranges)
    }
}

type Entry = (Key<RangeKey>, RangeValue);

/// The key of the first port of an entry's range.
fn first(key: &Key<RangeKey>, value: &RangeValue) -> FrontendKey {
    let RangeKey {
        address,
        protocol,
        scope,
        ..
    } = key.data();
    FrontendKey {
        address,
        port: value.first,
        protocol,
        scope,
    }
}

fn key(first: &RangeKey, prefix: Prefix) -> Key<RangeKey> {
    let port = abi::Be16::new(prefix.port);
    Key::new(prefix.bits(), RangeKey { port, ..*first })
}

/// The range that the entries of one make up; `None` when they are no range.
fn as_frontend(entries: &[Entry]) -> Option<Frontend> {
    let mut found: Vec<Prefix> = entries
        .iter()
        .map(|(key, _value)| Prefix::of(key.data().port.get(), key.prefix_len()))
        .collect::<Option<_>>()?;
    found.sort_by_key(|prefix| prefix.port);
    let count = found.iter().map(|prefix| prefix.count).sum();
    let (key, value) = entries.first()?;
    if count < 2 || !prefixes(value.first.get(), count).eq(found) {
        return None;
    }
    Some(Frontend {
        // All ports are one too many for the type, and zero.
        count: (count & 0xffff) as u16,
        ..Frontend::from_key(&first(key, value))?
    })
}
