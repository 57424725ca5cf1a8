//! The one nftables table, `inet hawser`: isolation of networks and masquerade.
//!
//! The rules never change; what they look up does. In nft's own words:
//!
//! ```text
//! table inet hawser {
//!   set bridges   { type ifname; }           set internal { type ifname; }
//!   set same      { type ifname . ifname; }
//!   set sources4  { type ipv4_addr; flags interval; }
//!   set sources6  { type ipv6_addr; flags interval; }
//!   chain forward {
//!     type filter hook forward priority filter;
//!     iifname . oifname @same accept
//!     iifname @bridges oifname @bridges counter drop
//!     iifname @internal counter drop
//!     oifname @internal counter drop
//!   }
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat;
//!     oifname @bridges accept
//!     oif 1 accept
//!     ip saddr @sources4 masquerade
//!     ip6 saddr @sources6 masquerade
//!   }
//! }
//! ```
//!
//! The table is written whole, in one transaction, whenever a network comes or goes: never on the
//! path of an attach. Packets that others' tables judge are none of its business, and published
//! ports do not appear in it: their replies are no new connections, so masquerade does not see them.

mod expr;
mod set;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use api::id::IfName;
use ipnet::IpNet;

use crate::model::filter::Filter;
use expr::{Family, Meta, Rule, Verdict};
use wire::{Attrs, Batch, Connection, Kind, NLM_F_CREATE};

const TABLE: &str = "hawser";
const BRIDGES: &str = "bridges";
const SAME: &str = "same";
const INTERNAL: &str = "internal";
const SOURCES4: &str = "sources4";
const SOURCES6: &str = "sources6";

const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
/// Far below the 64 KiB that one attribute can hold.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// nft's own numbers for key types; the kernel only keeps them for `nft list`.
const TYPE_IFNAME: u32 = 41;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_BITS: u32 = 6;

/// Replaces the table's contents by `filter`, in one transaction.
pub(crate) fn write(filter: &Filter) -> io::Result<()> {
    let mut batch = Batch::default();
    clear(&mut batch);
    batch.push(Kind::NewTable, NLM_F_CREATE, Attrs::new().text(1, TABLE));
    for (id, set) in sets(filter).into_iter().enumerate() {
        set.create(u32::try_from(id + 1).unwrap_or_default(), &mut batch);
    }
    for chain in chains() {
        chain.create(&mut batch);
    }
    Connection::open()?.commit(&batch)
}

/// Removes the table; absent is fine.
pub(crate) fn remove() -> io::Result<()> {
    let mut batch = Batch::default();
    clear(&mut batch);
    Connection::open()?.commit(&batch)
}

/// What the table holds; `None` when it is missing or is not as [`write`] leaves it.
pub(crate) fn read() -> io::Result<Option<Filter>> {
    let connection = Connection::open()?;
    let mut rules = 0;
    connection.dump(Kind::GetRule, &Attrs::new().text(1, TABLE), |_| rules += 1)?;
    let expected: usize = chains().iter().map(|chain| chain.rules.len()).sum();
    if rules != expected {
        return Ok(None);
    }
    let mut found: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
    for set in sets(&Filter::default()) {
        match elements(&connection, set.name) {
            Ok(elements) => found.insert(set.name, elements),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    let names = |set| -> BTreeSet<IfName> {
        let elements = found.get(set).into_iter().flatten();
        elements.filter_map(|e| set::name_of(&e.key)).collect()
    };
    let mut masquerade = subnets(found.get(SOURCES4));
    masquerade.extend(subnets(found.get(SOURCES6)));
    Ok(Some(Filter {
        bridges: names(BRIDGES),
        same: names(SAME),
        internal: names(INTERNAL),
        masquerade,
    }))
}

/// Deletes the table, whether it exists or not: a create that it survives, then the delete.
fn clear(batch: &mut Batch) {
    batch.push(Kind::NewTable, NLM_F_CREATE, Attrs::new().text(1, TABLE));
    batch.push(Kind::DelTable, 0, Attrs::new().text(1, TABLE));
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    key: Vec<u8>,
    /// Of an interval: the first key that is not in it.
    is_end: bool,
}

struct Set {
    name: &'static str,
    flags: u32,
    key_type: u32,
    key_length: u32,
    /// Whole intervals in a row, so that cutting the list anywhere is fine.
    elements: Vec<Element>,
}

fn sets(filter: &Filter) -> Vec<Set> {
    let point = |key| Element { key, is_end: false };
    let names = |name, links: &BTreeSet<IfName>| Set {
        name,
        flags: 0,
        key_type: TYPE_IFNAME,
        key_length: 16,
        elements: links.iter().map(|l| point(set::name_key(l))).collect(),
    };
    let sources = |name, key_type, key_length, v6| Set {
        name,
        flags: NFT_SET_INTERVAL,
        key_type,
        key_length,
        elements: filter
            .masquerade
            .iter()
            .filter(|subnet| subnet.addr().is_ipv6() == v6)
            .flat_map(|subnet| {
                let (start, end) = set::interval(*subnet);
                let end = end.map(|key| Element { key, is_end: true });
                [Some(point(start)), end].into_iter().flatten()
            })
            .collect(),
    };
    vec![
        names(BRIDGES, &filter.bridges),
        names(INTERNAL, &filter.internal),
        Set {
            name: SAME,
            flags: NFT_SET_CONCAT,
            key_type: TYPE_IFNAME << TYPE_BITS | TYPE_IFNAME,
            key_length: 32,
            elements: filter
                .same
                .iter()
                .map(|link| point(set::pair_key(link)))
                .collect(),
        },
        sources(SOURCES4, TYPE_IPV4, 4, false),
        sources(SOURCES6, TYPE_IPV6, 16, true),
    ]
}

impl Set {
    fn create(&self, id: u32, batch: &mut Batch) {
        let mut attrs = Attrs::new()
            .text(1, TABLE)
            .text(2, self.name)
            .number(3, self.flags)
            .number(4, self.key_type)
            .number(5, self.key_length)
            .number(10, id);
        if self.flags & NFT_SET_CONCAT != 0 {
            attrs = attrs.nest(9, &concat_description());
        } else if self.key_type == TYPE_IFNAME {
            attrs = attrs.bytes(13, &host_byte_order());
        }
        batch.push(Kind::NewSet, NLM_F_CREATE, attrs);
        for part in self.elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut list = Attrs::new();
            for element in part {
                list = list.nest(1, &element.encode());
            }
            let attrs = Attrs::new()
                .text(1, TABLE)
                .text(2, self.name)
                .nest(3, &list);
            batch.push(Kind::NewSetElem, NLM_F_CREATE, attrs);
        }
    }
}

/// `NFTA_SET_USERDATA`, which only nft(8) reads: without it the program takes a name for a number
/// of the other byte order and prints nothing. One attribute of `libnftnl`'s `udata.h`:
/// `NFTNL_UDATA_SET_KEYBYTEORDER`, 4 bytes, `BYTEORDER_HOST_ENDIAN`.
fn host_byte_order() -> [u8; 6] {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
}

/// `NFTA_SET_DESC_CONCAT`: two fields of an interface name's length.
fn concat_description() -> Attrs {
    let field = Attrs::new().number(1, 16);
    let fields = Attrs::new().nest(1, &field).nest(1, &field);
    Attrs::new().nest(2, &fields)
}

impl Element {
    fn encode(&self) -> Attrs {
        let attrs = Attrs::new().nest(1, &Attrs::new().bytes(1, &self.key));
        if self.is_end {
            attrs.number(3, NFT_SET_ELEM_INTERVAL_END)
        } else {
            attrs
        }
    }

    fn decode(attrs: &[u8]) -> Option<Self> {
        let key = wire::attribute(wire::attribute(attrs, 1)?, 1)?.to_vec();
        let flags = wire::attribute(attrs, 3)
            .and_then(|flags| flags.try_into().ok())
            .map_or(0, u32::from_be_bytes);
        Some(Self {
            key,
            is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        })
    }
}

fn elements(connection: &Connection, set: &str) -> io::Result<Vec<Element>> {
    let mut elements = Vec::new();
    let request = Attrs::new().text(1, TABLE).text(2, set);
    connection.dump(Kind::GetSetElem, &request, |attrs| {
        let list = wire::attribute(attrs, 3).unwrap_or_default();
        elements.extend(wire::attributes(list).filter_map(|(_, e)| Element::decode(e)));
    })?;
    // Kernels dump intervals from either end.
    elements.sort_by(|a, b| (&a.key, !a.is_end).cmp(&(&b.key, !b.is_end)));
    Ok(elements)
}

/// Ascending starts and ends; an end precedes the start of the next interval at the same key.
fn subnets(elements: Option<&Vec<Element>>) -> BTreeSet<IpNet> {
    let mut result = BTreeSet::new();
    let mut start: Option<&Element> = None;
    for element in elements.into_iter().flatten() {
        if !element.is_end {
            start = Some(element);
        } else if let Some(start) = start.take() {
            result.extend(set::subnet(&start.key, Some(&element.key)));
        }
    }
    result.extend(start.and_then(|start| set::subnet(&start.key, None)));
    result
}

struct Chain {
    name: &'static str,
    kind: &'static str,
    /// `enum nf_inet_hooks`.
    hook: u32,
    priority: i32,
    rules: Vec<Rule>,
}

fn chains() -> [Chain; 2] {
    const NF_INET_FORWARD: u32 = 2;
    const NF_INET_POST_ROUTING: u32 = 4;
    // NF_IP_PRI_FILTER and NF_IP_PRI_NAT_SRC.
    const FILTER: i32 = 0;
    const SRCNAT: i32 = 100;
    let drop = |rule: Rule| rule.count().verdict(Verdict::Drop);
    let masquerade = |family, set| {
        Rule::new()
            .of_family(family)
            .source_in(family, set)
            .masquerade()
    };
    [
        Chain {
            name: "forward",
            kind: "filter",
            hook: NF_INET_FORWARD,
            priority: FILTER,
            rules: vec![
                Rule::new().pair_in(SAME).verdict(Verdict::Accept),
                drop(
                    Rule::new()
                        .name_in(Meta::InputName, BRIDGES)
                        .name_in(Meta::OutputName, BRIDGES),
                ),
                drop(Rule::new().name_in(Meta::InputName, INTERNAL)),
                drop(Rule::new().name_in(Meta::OutputName, INTERNAL)),
            ],
        },
        Chain {
            name: "postrouting",
            kind: "nat",
            hook: NF_INET_POST_ROUTING,
            priority: SRCNAT,
            rules: vec![
                Rule::new()
                    .name_in(Meta::OutputName, BRIDGES)
                    .verdict(Verdict::Accept),
                Rule::new().leaves_by_loopback().verdict(Verdict::Accept),
                masquerade(Family::V4, SOURCES4),
                masquerade(Family::V6, SOURCES6),
            ],
        },
    ]
}

impl Chain {
    fn create(self, batch: &mut Batch) {
        const NF_ACCEPT: u32 = 1;
        const NLM_F_APPEND: u16 = 0x800;
        let hook = Attrs::new()
            .number(1, self.hook)
            .number(2, self.priority.cast_unsigned());
        let attrs = Attrs::new()
            .text(1, TABLE)
            .text(3, self.name)
            .nest(4, &hook)
            .number(5, NF_ACCEPT)
            .text(7, self.kind);
        batch.push(Kind::NewChain, NLM_F_CREATE, attrs);
        for rule in self.rules {
            let attrs = Attrs::new()
                .text(1, TABLE)
                .text(2, self.name)
                .nest(4, &rule.encode());
            batch.push(Kind::NewRule, NLM_F_CREATE | NLM_F_APPEND, attrs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::netns::NetNs;

    fn filter() -> Filter {
        let link = |name: &str| IfName::parse(name).unwrap();
        Filter {
            bridges: [link("br-1"), link("br-2")].into(),
            same: [link("br-1")].into(),
            internal: [link("br-2")].into(),
            // Adjacent: the end of one is the start of the next.
            masquerade: ["10.0.0.0/24", "10.0.1.0/24", "fd00::/64"]
                .map(|subnet| subnet.parse().unwrap())
                .into(),
        }
    }

    #[test]
    fn the_kernel_keeps_what_was_written() {
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        namespace
            .run(|| {
                assert_eq!(read().unwrap(), None);
                write(&filter()).unwrap();
                assert_eq!(read().unwrap(), Some(filter()));
                // Again, and with other contents: replaced, not added to.
                write(&Filter::default()).unwrap();
                assert_eq!(read().unwrap(), Some(Filter::default()));
                remove().unwrap();
                remove().unwrap();
                assert_eq!(read().unwrap(), None);
            })
            .unwrap();
    }

    #[test]
    fn a_thousand_networks_fit_one_transaction() {
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        let mut filter = Filter::default();
        for n in 0..1000u32 {
            let link = IfName::parse(&format!("br-{n}")).unwrap();
            filter.same.insert(link.clone());
            filter.bridges.insert(link);
            let subnet = std::net::Ipv4Addr::from_bits(0x0a00_0000 | n << 8);
            filter
                .masquerade
                .insert(IpNet::new(subnet.into(), 24).unwrap());
        }
        namespace
            .run(|| {
                write(&filter).unwrap();
                assert_eq!(read().unwrap(), Some(filter.clone()));
            })
            .unwrap();
    }
}
