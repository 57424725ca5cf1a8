//! The sets our rules look things up in, and how names and subnets are spelled as their keys.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::id::IfName;
use ipnet::IpNet;

use super::wire::{Attrs, Batch, Kind, number};
use super::{TABLE, uapi};
use crate::model::filter::Filter;
use crate::netlink::{attribute, attributes};

pub(super) const BRIDGES: &str = "bridges";
pub(super) const SAME: &str = "same";
pub(super) const APART: &str = "apart";
pub(super) const SPREAD: &str = "spread";
pub(super) const INTERNAL: &str = "internal";
pub(super) const SOURCES4: &str = "sources4";
pub(super) const SOURCES6: &str = "sources6";
pub(super) const GUARDED4: &str = "guarded4";
pub(super) const GUARDED6: &str = "guarded6";
pub(super) const ROUTED4: &str = "routed4";
pub(super) const ROUTED6: &str = "routed6";

/// `IFNAMSIZ`.
const NAME: usize = 16;
/// Far below the 64 KiB that one attribute can hold.
const KEYS_PER_MESSAGE: usize = 250;

/// One thing a set holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Point(Vec<u8>),
    /// From a first key to before another one: absent where it ends with the family.
    Interval(Vec<u8>, Option<Vec<u8>>),
}

pub(super) struct Set {
    pub(super) name: &'static str,
    kind: KeyKind,
    keys: BTreeSet<Key>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Name,
    /// Input and output.
    NamePair,
    Subnet4,
    Subnet6,
}

/// What `filter` means in sets, always the same ones in the same order.
pub(super) fn sets(filter: &Filter) -> [Set; 11] {
    let names = |name, links: &BTreeSet<IfName>| Set {
        name,
        kind: KeyKind::Name,
        keys: links
            .iter()
            .map(|link| Key::Point(name_key(link)))
            .collect(),
    };
    let subnets = |name, kind, all: &BTreeSet<IpNet>| Set {
        name,
        kind,
        keys: all
            .iter()
            .filter(|subnet| subnet.addr().is_ipv6() == (kind == KeyKind::Subnet6))
            .map(|subnet| interval(*subnet))
            .collect(),
    };
    let pairs = |name, pairs: &mut dyn Iterator<Item = (&IfName, &IfName)>| Set {
        name,
        kind: KeyKind::NamePair,
        keys: pairs
            .map(|(from, to)| Key::Point(pair_key(from, to)))
            .collect(),
    };
    [
        names(BRIDGES, &filter.bridges),
        names(INTERNAL, &filter.internal),
        names(SPREAD, &spread(filter)),
        pairs(SAME, &mut filter.same.iter().map(|link| (link, link))),
        pairs(APART, &mut filter.apart.iter().map(|(from, to)| (from, to))),
        subnets(SOURCES4, KeyKind::Subnet4, &filter.masquerade),
        subnets(SOURCES6, KeyKind::Subnet6, &filter.masquerade),
        subnets(GUARDED4, KeyKind::Subnet4, &filter.guarded),
        subnets(GUARDED6, KeyKind::Subnet6, &filter.guarded),
        subnets(ROUTED4, KeyKind::Subnet4, &filter.routed),
        subnets(ROUTED6, KeyKind::Subnet6, &filter.routed),
    ]
}

/// The bridges that are worth a look at where their packets go.
pub(super) fn spread(filter: &Filter) -> BTreeSet<IfName> {
    filter
        .apart
        .iter()
        .map(|(from, _to)| from.clone())
        .collect()
}

impl Set {
    fn flags(&self) -> u32 {
        match self.kind {
            KeyKind::Name => 0,
            KeyKind::NamePair => uapi::NFT_SET_CONCAT,
            KeyKind::Subnet4 | KeyKind::Subnet6 => uapi::NFT_SET_INTERVAL,
        }
    }

    /// Creates the set and fills it. `id` is any number of its own within the transaction.
    pub(super) fn create(&self, id: u32, batch: &mut Batch) {
        let (key_type, length) = match self.kind {
            KeyKind::Name => (uapi::TYPE_IFNAME, NAME),
            KeyKind::NamePair => (
                uapi::TYPE_IFNAME << uapi::TYPE_BITS | uapi::TYPE_IFNAME,
                2 * NAME,
            ),
            KeyKind::Subnet4 => (uapi::TYPE_IPADDR, 4),
            KeyKind::Subnet6 => (uapi::TYPE_IP6ADDR, 16),
        };
        let attrs = Attrs::new()
            .text(uapi::NFTA_SET_TABLE, TABLE)
            .text(uapi::NFTA_SET_NAME, self.name)
            .number(uapi::NFTA_SET_FLAGS, self.flags())
            .number(uapi::NFTA_SET_KEY_TYPE, key_type)
            .number(
                uapi::NFTA_SET_KEY_LEN,
                u32::try_from(length).unwrap_or_default(),
            )
            .number(uapi::NFTA_SET_ID, id);
        let attrs = match self.kind {
            KeyKind::Name => attrs.bytes(uapi::NFTA_SET_USERDATA, &host_byte_order()),
            KeyKind::NamePair => attrs.nest(uapi::NFTA_SET_DESC, &two_names()),
            KeyKind::Subnet4 | KeyKind::Subnet6 => attrs,
        };
        batch.push(Kind::NewSet, uapi::NLM_F_CREATE, attrs);
        self.put(Kind::NewSetElem, self.keys.iter(), batch);
    }

    /// What leads from `self` to `to`, the same set with other keys.
    pub(super) fn change(&self, to: &Self, batch: &mut Batch) {
        // Removals first: an interval that grew would overlap itself.
        self.put(Kind::DelSetElem, self.keys.difference(&to.keys), batch);
        self.put(Kind::NewSetElem, to.keys.difference(&self.keys), batch);
    }

    fn put<'a>(&self, kind: Kind, keys: impl Iterator<Item = &'a Key>, batch: &mut Batch) {
        let flags = match kind {
            Kind::NewSetElem => uapi::NLM_F_CREATE,
            _ => 0,
        };
        let keys: Vec<&Key> = keys.collect();
        for part in keys.chunks(KEYS_PER_MESSAGE) {
            let elements = part.iter().flat_map(|key| key.elements());
            let list = elements.fold(Attrs::new(), |list, element| {
                list.nest(uapi::NFTA_LIST_ELEM, &element.encode())
            });
            let attrs = Attrs::new()
                .text(uapi::NFTA_SET_ELEM_LIST_TABLE, TABLE)
                .text(uapi::NFTA_SET_ELEM_LIST_SET, self.name)
                .nest(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, &list);
            batch.push(kind, flags, attrs);
        }
    }
}

/// `NFTA_SET_USERDATA`, which only nft(8) reads: without it the program takes a name for a number
/// of the other byte order and prints nothing.
fn host_byte_order() -> [u8; 6] {
    let [a, b, c, d] = uapi::BYTEORDER_HOST_ENDIAN.to_ne_bytes();
    [uapi::NFTNL_UDATA_SET_KEYBYTEORDER, 4, a, b, c, d]
}

fn two_names() -> Attrs {
    let field = Attrs::new().number(uapi::NFTA_SET_FIELD_LEN, NAME as u32);
    let fields = Attrs::new()
        .nest(uapi::NFTA_LIST_ELEM, &field)
        .nest(uapi::NFTA_LIST_ELEM, &field);
    Attrs::new().nest(uapi::NFTA_SET_DESC_CONCAT, &fields)
}

/// A key, or one end of it, as the kernel keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    key: Vec<u8>,
    /// Of an interval: the first key that is not in it.
    is_end: bool,
}

impl Element {
    fn encode(&self) -> Attrs {
        let key = Attrs::new().bytes(uapi::NFTA_DATA_VALUE, &self.key);
        let attrs = Attrs::new().nest(uapi::NFTA_SET_ELEM_KEY, &key);
        if self.is_end {
            attrs.number(uapi::NFTA_SET_ELEM_FLAGS, uapi::NFT_SET_ELEM_INTERVAL_END)
        } else {
            attrs
        }
    }

    fn decode(attrs: &[u8]) -> Option<Self> {
        let key = attribute(attrs, uapi::NFTA_SET_ELEM_KEY)?;
        let flags = attribute(attrs, uapi::NFTA_SET_ELEM_FLAGS).and_then(number);
        Some(Self {
            key: attribute(key, uapi::NFTA_DATA_VALUE)?.to_vec(),
            is_end: flags.unwrap_or_default() & uapi::NFT_SET_ELEM_INTERVAL_END != 0,
        })
    }

    /// The elements in one message of a dump.
    pub(super) fn read(attrs: &[u8]) -> impl Iterator<Item = Self> {
        let list = attribute(attrs, uapi::NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        attributes(list).filter_map(|(_kind, element)| Self::decode(element))
    }
}

impl Key {
    fn elements(&self) -> Vec<Element> {
        let element = |key: &Vec<u8>, is_end| Element {
            key: key.clone(),
            is_end,
        };
        match self {
            Self::Point(key) => vec![element(key, false)],
            Self::Interval(first, None) => vec![element(first, false)],
            Self::Interval(first, Some(end)) => vec![element(first, false), element(end, true)],
        }
    }
}

/// The names in a set of names, or of pairs of a name with itself.
pub(super) fn names(elements: &[Element]) -> BTreeSet<IfName> {
    elements.iter().filter_map(|e| name_of(&e.key)).collect()
}

pub(super) fn pairs(elements: &[Element]) -> BTreeSet<(IfName, IfName)> {
    let pair = |key: &[u8]| {
        let (from, to) = key.split_at_checked(NAME)?;
        Some((name_of(from)?, name_of(to)?))
    };
    elements.iter().filter_map(|e| pair(&e.key)).collect()
}

/// The subnets in a set of intervals. Kernels dump them from either end.
pub(super) fn subnets(mut elements: Vec<Element>) -> BTreeSet<IpNet> {
    // An end precedes the start of the next interval at the same key.
    elements.sort_by(|a, b| (&a.key, !a.is_end).cmp(&(&b.key, !b.is_end)));
    let mut result = BTreeSet::new();
    let mut start: Option<&Element> = None;
    for element in &elements {
        if !element.is_end {
            start = Some(element);
        } else if let Some(start) = start.take() {
            result.extend(subnet(&start.key, Some(&element.key)));
        }
    }
    result.extend(start.and_then(|start| subnet(&start.key, None)));
    result
}

fn name_key(name: &IfName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(NAME, 0);
    key
}

/// The concatenation of input and output.
fn pair_key(from: &IfName, to: &IfName) -> Vec<u8> {
    [name_key(from), name_key(to)].concat()
}

fn name_of(key: &[u8]) -> Option<IfName> {
    let end = key.iter().take(NAME).position(|b| *b == 0)?;
    IfName::parse(std::str::from_utf8(&key[..end]).ok()?).ok()
}

fn interval(subnet: IpNet) -> Key {
    let end = match subnet.broadcast() {
        IpAddr::V4(last) => last
            .to_bits()
            .checked_add(1)
            .map(|end| end.to_be_bytes().to_vec()),
        IpAddr::V6(last) => last
            .to_bits()
            .checked_add(1)
            .map(|end| end.to_be_bytes().to_vec()),
    };
    let start = match subnet.network() {
        IpAddr::V4(first) => first.octets().to_vec(),
        IpAddr::V6(first) => first.octets().to_vec(),
    };
    Key::Interval(start, end)
}

/// The subnet from `start` to just before `end`, if it is one.
fn subnet(start: &[u8], end: Option<&[u8]>) -> Option<IpNet> {
    let number = |key: &[u8]| -> Option<u128> {
        Some(match key.len() {
            4 => u128::from(u32::from_be_bytes(key.try_into().ok()?)),
            16 => u128::from_be_bytes(key.try_into().ok()?),
            _ => return None,
        })
    };
    let bits: u32 = if start.len() == 4 { 32 } else { 128 };
    let first = number(start)?;
    let size_bits = match end {
        Some(end) => {
            let size = number(end)?.checked_sub(first)?;
            size.is_power_of_two().then(|| size.trailing_zeros())?
        }
        None => first.trailing_zeros().min(bits),
    };
    let prefix = u8::try_from(bits.checked_sub(size_bits)?).ok()?;
    let address: IpAddr = match start.len() {
        4 => <[u8; 4]>::try_from(start).ok()?.into(),
        _ => <[u8; 16]>::try_from(start).ok()?.into(),
    };
    IpNet::new(address, prefix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_survive_the_round_trip() {
        for text in [
            "10.0.0.0/8",
            "172.17.0.0/16",
            "192.168.255.252/30",
            "fd00::/64",
        ] {
            let given: IpNet = text.parse().unwrap();
            let elements = interval(given).elements();
            assert_eq!(subnets(elements), [given].into());
        }
        assert_eq!(subnet(&[10, 0, 0, 0], Some(&[10, 0, 0, 3])), None);
    }

    #[test]
    fn adjacent_subnets_stay_apart() {
        let given: BTreeSet<IpNet> = ["10.0.0.0/24", "10.0.1.0/24"]
            .map(|text| text.parse().unwrap())
            .into();
        let mut elements: Vec<Element> = given
            .iter()
            .flat_map(|net| interval(*net).elements())
            .collect();
        elements.reverse();
        assert_eq!(subnets(elements), given);
    }
}
