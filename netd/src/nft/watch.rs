//! Hearing of changes that others make to our table.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::wire::{Kind, attributes_of, number, text};
use super::{TABLE, uapi};
use crate::netlink::{self, attribute};

/// A socket that hears of every transaction of nftables in the calling thread's namespace.
pub(crate) fn subscribe() -> io::Result<Socket> {
    netlink::listen(NETLINK_NETFILTER, &[uapi::NFNLGRP_NFTABLES])
}

/// Whether a datagram of [`subscribe`]'s socket tells of a change to our table that none of our own
/// threads made.
///
/// The kernel announces what a transaction did object by object, each with its table's name, and
/// ends with the thread that sent it (`nf_tables_gen_notify`). `touched` carries what is still
/// without an author from one datagram to the next.
pub(crate) fn is_change(datagram: &[u8], is_own: impl Fn(u32) -> bool, touched: &mut bool) -> bool {
    let mut changed = false;
    for frame in netlink::frames(datagram) {
        let attrs = attributes_of(frame.payload);
        if frame.kind == Kind::NewGen.wire() {
            let author = attribute(attrs, uapi::NFTA_GEN_PROC_PID).and_then(number);
            changed |= std::mem::take(touched) && !author.is_some_and(&is_own);
        } else {
            // The first attribute of every object is its table's name, in all of their lists.
            let table = attribute(attrs, uapi::NFTA_TABLE_NAME).and_then(text);
            *touched |= table == Some(TABLE);
        }
    }
    changed
}
