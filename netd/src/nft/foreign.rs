//! Looking at tables of others: reading only.

use std::io;

use super::TABLE;
use super::uapi;
use super::wire::{Connection, number, text};
use crate::netlink::attribute;

/// A base chain of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignChain {
    pub(crate) family: &'static str,
    pub(crate) table: String,
    pub(crate) chain: String,
}

/// The chains that drop every forwarded packet that none of their rules accepts.
pub(crate) fn forward_drops() -> io::Result<Vec<ForeignChain>> {
    let mut chains = Vec::new();
    Connection::open()?.dump_chains(|family, attrs| {
        chains.extend(forward_drop(family, attrs));
    })?;
    Ok(chains)
}

fn forward_drop(family: u8, attrs: &[u8]) -> Option<ForeignChain> {
    let family = match family {
        uapi::NFPROTO_INET => "inet",
        uapi::NFPROTO_IPV4 => "ip",
        uapi::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let value = |list, kind| attribute(list, kind).and_then(number);
    let name = |kind| Some(text(attribute(attrs, kind)?)?.to_owned());
    let hook = attribute(attrs, uapi::NFTA_CHAIN_HOOK)?;
    let drops = value(hook, uapi::NFTA_HOOK_HOOKNUM)? == uapi::NF_INET_FORWARD
        && value(attrs, uapi::NFTA_CHAIN_POLICY)? == uapi::NF_DROP;
    let table = name(uapi::NFTA_CHAIN_TABLE)?;
    let is_ours = family == "inet" && table == TABLE;
    Some(ForeignChain {
        family,
        table,
        chain: name(uapi::NFTA_CHAIN_NAME)?,
    })
    .filter(|_| drops && !is_ours)
}
