//! The one nftables table, `inet hawser`: isolation of networks, masquerade, and what keeps
//! unpublished ports from the neighbours of the host.
//!
//! The rules never change; what they look up does. In nft's own words, `0x1000` being
//! [`abi::MARK_PUBLISHED`]:
//!
//! ```text
//! table inet hawser {
//!   set bridges   { type ifname; }           set internal { type ifname; }
//!   set same      { type ifname . ifname; }  set spread   { type ifname; }
//!   set apart     { type ifname . ifname; }
//!   set sources4  { type ipv4_addr; flags interval; }    set sources6 …
//!   set guarded4  { type ipv4_addr; flags interval; }    set guarded6 …
//!   set routed4   { type ipv4_addr; flags interval; }    set routed6 …
//!   chain raw {
//!     type filter hook prerouting priority raw;
//!     iifname @spread iifname . fib daddr oifname @apart notrack
//!   }
//!   chain prerouting {
//!     type filter hook prerouting priority -199;
//!     iifname @bridges accept
//!     meta mark & 0x1000 != 0 accept
//!     ct state established,related accept
//!     fib daddr type local accept
//!     ip daddr @routed4 icmp type echo-request accept
//!     ip6 daddr @routed6 icmpv6 type echo-request accept
//!     ip daddr @guarded4 counter drop
//!     ip6 daddr @guarded6 counter drop
//!   }
//!   chain forward {
//!     type filter hook forward priority filter;
//!     iifname . oifname @same accept
//!     iifname . oifname @apart accept
//!     iifname @internal counter drop
//!     oifname @internal counter drop
//!     ct state established,related accept
//!     iifname @bridges oifname @bridges meta mark & 0x1000 != 0 accept
//!     ip daddr @routed4 icmp type echo-request accept
//!     ip6 daddr @routed6 icmpv6 type echo-request accept
//!     iifname @bridges oifname @bridges counter drop
//!   }
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat;
//!     oifname @bridges accept
//!     oif 1 accept
//!     meta mark & 0x1000 != 0 accept
//!     ip saddr @sources4 masquerade
//!     ip6 saddr @sources6 masquerade
//!   }
//! }
//! ```
//!
//! A network that comes or goes changes elements of sets, in one transaction; the table is written
//! whole only where it is missing or somebody has changed its rules. Nothing here is on the path of
//! an attach, and ports do not appear: the data plane marks the packets of published ones.
//!
//! **Invariant:** no message names a table other than ours.

mod chain;
mod expr;
mod foreign;
mod set;
mod uapi;
mod watch;
mod wire;

use std::io;

use crate::model::filter::Filter;
use crate::netlink::attribute;
use chain::{Properties, Written, chains};
pub(crate) use foreign::{ForeignChain, forward_drops};
use set::{Element, sets};
pub(crate) use watch::{Heard, Transactions, subscribe};
use wire::{Attrs, Batch, Connection, Kind, number};

const TABLE: &str = "hawser";

/// Makes the table hold `filter`, in one transaction.
pub(crate) fn write(filter: &Filter) -> io::Result<()> {
    let connection = Connection::open()?;
    let mut batch = Batch::default();
    match contents(&connection)? {
        Some(current) => {
            for (from, to) in sets(&current).iter().zip(&sets(filter)) {
                from.change(to, &mut batch);
            }
        }
        None => rebuild(filter, &mut batch),
    }
    connection.commit(&batch)
}

/// Removes the table; absent is fine.
pub(crate) fn remove() -> io::Result<()> {
    let mut batch = Batch::default();
    clear(&mut batch);
    Connection::open()?.commit(&batch)
}

/// What the table holds; `None` when it is missing or is not as [`write`] leaves it.
pub(crate) fn read() -> io::Result<Option<Filter>> {
    contents(&Connection::open()?)
}

fn contents(connection: &Connection) -> io::Result<Option<Filter>> {
    match intact(connection) {
        Ok(true) => read_sets(connection),
        Ok(false) => Ok(None),
        Err(error) => missing(error),
    }
}

/// Whether the table, its chains and its rules are as [`rebuild`] makes them.
fn intact(connection: &Connection) -> io::Result<bool> {
    let named = Attrs::new().text(uapi::NFTA_TABLE_NAME, TABLE);
    let mut flags = None;
    connection.ask(Kind::GetTable, &named, |attrs| {
        flags = attribute(attrs, uapi::NFTA_TABLE_FLAGS).and_then(number);
    })?;
    // NFT_TABLE_F_DORMANT takes all chains off their hooks.
    if flags.unwrap_or_default() != 0 {
        return Ok(false);
    }
    let mut found = Vec::new();
    connection.dump(Kind::GetChain, &Attrs::new(), |attrs| {
        found.extend(Properties::read(attrs));
    })?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let mut expected: Vec<Properties> = chains().iter().map(chain::Chain::properties).collect();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rules: Vec<Written> = Vec::new();
    let of_table = Attrs::new().text(uapi::NFTA_RULE_TABLE, TABLE);
    connection.dump(Kind::GetRule, &of_table, |attrs| {
        rules.extend(Written::read(attrs));
    })?;
    // The order of rules matters within a chain only.
    rules.sort_by(|a, b| a.chain.cmp(&b.chain));
    let mut written: Vec<Written> = chains()
        .into_iter()
        .flat_map(chain::Chain::written)
        .collect();
    written.sort_by(|a, b| a.chain.cmp(&b.chain));
    Ok(found == expected && rules == written)
}

fn read_sets(connection: &Connection) -> io::Result<Option<Filter>> {
    let read = |set: &str| -> io::Result<Vec<Element>> {
        let request = Attrs::new()
            .text(uapi::NFTA_SET_ELEM_LIST_TABLE, TABLE)
            .text(uapi::NFTA_SET_ELEM_LIST_SET, set);
        let mut elements = Vec::new();
        connection.dump(Kind::GetSetElem, &request, |attrs| {
            elements.extend(Element::read(attrs));
        })?;
        Ok(elements)
    };
    let names = |set| -> io::Result<_> { Ok(set::names(&read(set)?)) };
    let subnets = |v4, v6| -> io::Result<_> {
        let mut subnets = set::subnets(read(v4)?);
        subnets.extend(set::subnets(read(v6)?));
        Ok(subnets)
    };
    let filter = || {
        let filter = Filter {
            bridges: names(set::BRIDGES)?,
            same: names(set::SAME)?,
            apart: set::pairs(&read(set::APART)?),
            internal: names(set::INTERNAL)?,
            masquerade: subnets(set::SOURCES4, set::SOURCES6)?,
            guarded: subnets(set::GUARDED4, set::GUARDED6)?,
            routed: subnets(set::ROUTED4, set::ROUTED6)?,
        };
        let is_whole = names(set::SPREAD)? == set::spread(&filter);
        Ok(is_whole.then_some(filter))
    };
    filter().or_else(missing)
}

fn missing(error: io::Error) -> io::Result<Option<Filter>> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    }
}

/// Writes the table from scratch.
fn rebuild(filter: &Filter, batch: &mut Batch) {
    clear(batch);
    let table = Attrs::new().text(uapi::NFTA_TABLE_NAME, TABLE);
    batch.push(Kind::NewTable, uapi::NLM_F_CREATE, table);
    for (id, set) in (1..).zip(sets(filter)) {
        set.create(id, batch);
    }
    for chain in chains() {
        chain.create(batch);
    }
}

/// Deletes the table, whether it exists or not: a create that it survives, then the delete.
fn clear(batch: &mut Batch) {
    let table = Attrs::new().text(uapi::NFTA_TABLE_NAME, TABLE);
    batch.push(Kind::NewTable, uapi::NLM_F_CREATE, table.clone());
    batch.push(Kind::DelTable, 0, table);
}

#[cfg(test)]
mod tests;
