//! The names that are answered at endpoints' links.
//!
//! The zone of the name server is the truth; what is here follows it, name by name. A name that
//! could not be written would let the wrong network answer, so that a failure takes away who may
//! ask until everything is written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use abi::dns::{
    ANSWER_NAMES, ANSWERS, ASKERS, AskerKey, AskerValue, MAX_SCOPES, NAME_LEN, NAMES, NameKey,
    NameValue, SEVERAL,
};
use api::id::Id;
use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray};

use super::endpoint::{network_number, word};
use super::error::{BpfError, optional};
use super::object;

/// What a name stands for on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAddresses<'a> {
    pub v4: &'a [Ipv4Addr],
    pub v6: &'a [Ipv6Addr],
}

/// One fact for the maps. A value of `None` means that there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFact<'a> {
    /// A name in lower-cased wire form.
    Name {
        network: &'a Id,
        name: &'a [u8],
        addresses: Option<NameAddresses<'a>>,
        ttl: u32,
    },
    /// The networks whose names the endpoint with this address may know, in order.
    Asker {
        network: &'a Id,
        address: Ipv4Addr,
        networks: Option<&'a [&'a Id]>,
    },
}

/// The entries of both maps.
#[derive(Debug, Default)]
struct Entries {
    names: BTreeMap<NameKey, NameValue>,
    askers: BTreeMap<AskerKey, AskerValue>,
}

enum Entry {
    Name(NameKey, Option<NameValue>),
    Asker(AskerKey, Option<AskerValue>),
}

/// `None` for a name too long to be answered here: the daemon does.
fn entry(fact: NameFact<'_>) -> Option<Entry> {
    match fact {
        NameFact::Name {
            network,
            name,
            addresses,
            ttl,
        } => {
            let mut key = NameKey {
                network: network_number(network),
                name: [0; NAME_LEN],
            };
            key.name.get_mut(..name.len())?.copy_from_slice(name);
            Some(Entry::Name(key, addresses.map(|a| name_value(a, ttl))))
        }
        NameFact::Asker {
            network,
            address,
            networks,
        } => {
            let key = AskerKey {
                network: network_number(network),
                address: word(address),
                pad: 0,
            };
            Some(Entry::Asker(key, networks.and_then(asker_value)))
        }
    }
}

fn name_value(addresses: NameAddresses<'_>, ttl: u32) -> NameValue {
    let count = |length: usize| u8::try_from(length).unwrap_or(SEVERAL).min(SEVERAL);
    let mut value = NameValue {
        ttl: ttl.to_be(),
        v4_count: count(addresses.v4.len()),
        v6_count: count(addresses.v6.len()),
        ..NameValue::default()
    };
    if let [only] = addresses.v4 {
        value.v4 = word(*only);
    }
    if let [only] = addresses.v6 {
        value.v6 = abi::Address::from_octets(only.octets()).0;
    }
    value
}

/// `None` for an asker on more networks than are looked through: the daemon does.
fn asker_value(networks: &[&Id]) -> Option<AskerValue> {
    let mut value = AskerValue {
        networks: [0; MAX_SCOPES],
    };
    let slots = value.networks.get_mut(..networks.len())?;
    for (slot, network) in slots.iter_mut().zip(networks) {
        *slot = network_number(network);
    }
    Some(value)
}

pub(super) struct Names {
    names: HashMap<MapData, NameKey, NameValue>,
    askers: HashMap<MapData, AskerKey, AskerValue>,
    answers: PerCpuArray<MapData, u64>,
}

impl Names {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            names: object::take(object, NAMES)?,
            askers: object::take(object, ASKERS)?,
            answers: object::take(object, ANSWERS)?,
        })
    }

    /// Applies facts in their order.
    pub(super) fn apply<'a>(
        &mut self,
        facts: impl Iterator<Item = NameFact<'a>>,
    ) -> Result<(), BpfError> {
        for entry in facts.filter_map(entry) {
            match entry {
                Entry::Name(key, value) => self.set_name(&key, value)?,
                Entry::Asker(key, value) => self.set_asker(&key, value)?,
            }
        }
        Ok(())
    }

    /// Makes the facts all that is known. Names come first: an asker finds them written.
    pub(super) fn replace<'a>(
        &mut self,
        facts: impl Iterator<Item = NameFact<'a>>,
    ) -> Result<(), BpfError> {
        let mut want = Entries::default();
        for entry in facts.filter_map(entry) {
            match entry {
                Entry::Name(key, value) => want.names.extend(value.map(|value| (key, value))),
                Entry::Asker(key, value) => want.askers.extend(value.map(|value| (key, value))),
            }
        }
        for key in self.asker_keys()? {
            if !want.askers.contains_key(&key) {
                self.set_asker(&key, None)?;
            }
        }
        for key in self.name_keys()? {
            if !want.names.contains_key(&key) {
                self.set_name(&key, None)?;
            }
        }
        for (key, value) in want.names {
            self.set_name(&key, Some(value))?;
        }
        for (key, value) in want.askers {
            self.set_asker(&key, Some(value))?;
        }
        Ok(())
    }

    /// From now on nobody is answered here.
    pub(super) fn forget_askers(&mut self) -> Result<(), BpfError> {
        for key in self.asker_keys()? {
            self.set_asker(&key, None)?;
        }
        Ok(())
    }

    /// Queries answered here, by kind of answer.
    pub(super) fn answers(&self) -> Result<Vec<(&'static str, u64)>, BpfError> {
        (0u32..)
            .zip(ANSWER_NAMES)
            .map(|(index, name)| {
                let values = self
                    .answers
                    .get(&index, 0)
                    .map_err(BpfError::map(ANSWERS))?;
                Ok((name, values.iter().sum()))
            })
            .collect()
    }

    /// How many names and how many askers are known.
    pub(super) fn sizes(&self) -> Result<(usize, usize), BpfError> {
        Ok((self.name_keys()?.len(), self.asker_keys()?.len()))
    }

    fn set_name(&mut self, key: &NameKey, value: Option<NameValue>) -> Result<(), BpfError> {
        match value {
            Some(value) => self.names.insert(key, value, 0),
            None => optional(self.names.remove(key)).map(drop),
        }
        .map_err(BpfError::map(NAMES))
    }

    fn set_asker(&mut self, key: &AskerKey, value: Option<AskerValue>) -> Result<(), BpfError> {
        match value {
            Some(value) => self.askers.insert(key, value, 0),
            None => optional(self.askers.remove(key)).map(drop),
        }
        .map_err(BpfError::map(ASKERS))
    }

    fn name_keys(&self) -> Result<BTreeSet<NameKey>, BpfError> {
        let keys = self.names.keys().collect::<Result<_, _>>();
        keys.map_err(BpfError::map(NAMES))
    }

    fn asker_keys(&self) -> Result<BTreeSet<AskerKey>, BpfError> {
        let keys = self.askers.keys().collect::<Result<_, _>>();
        keys.map_err(BpfError::map(ASKERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> Id {
        Id::parse(&digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn names_and_askers_that_do_not_fit_are_left_to_the_daemon() {
        let network = id('1');
        let fact = |name| {
            entry(NameFact::Name {
                network: &network,
                name,
                addresses: None,
                ttl: 5,
            })
        };
        assert!(fact(&[1; NAME_LEN]).is_some());
        assert!(fact(&[1; NAME_LEN + 1]).is_none());
        let ids: Vec<Id> = "12345".chars().map(id).collect();
        let ids: Vec<&Id> = ids.iter().collect();
        let value = asker_value(&ids[..4]).unwrap();
        assert_eq!(value.networks[3], 0x4444_4444_4444_4444);
        assert_eq!(asker_value(&ids), None);
    }

    #[test]
    fn one_address_of_a_family_is_written_and_several_are_counted() {
        let v4 = [Ipv4Addr::new(172, 18, 0, 2), Ipv4Addr::new(172, 18, 0, 3)];
        let v6 = ["fd00::2".parse().unwrap()];
        let value = |v4, v6| name_value(NameAddresses { v4, v6 }, 5);
        let several = value(&v4, &v6);
        assert_eq!((several.v4_count, several.v4), (SEVERAL, 0));
        assert_eq!((several.v6_count, several.v6[3]), (1, 2_u32.to_be()));
        let one = value(&v4[..1], &[]);
        assert_eq!((one.v4_count, one.v6_count), (1, 0));
        assert_eq!(one.v4.to_ne_bytes(), [172, 18, 0, 2]);
        assert_eq!(one.ttl, 5_u32.to_be());
    }
}
