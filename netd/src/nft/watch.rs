//! Hearing of what others change.

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

/// What none of our own threads did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Somebody changed a packet filter.
    pub(crate) any: bool,
    /// Ours.
    pub(crate) ours: bool,
}

/// Puts together what the datagrams of [`subscribe`]'s socket tell.
///
/// The kernel announces what a transaction did object by object, each with its table's name, and
/// ends with the thread that sent it (`nf_tables_gen_notify`).
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// Our table was touched by a transaction whose author is still to be told.
    touched: bool,
}

impl Transactions {
    /// Adds what a datagram tells to `heard`.
    pub(crate) fn note(
        &mut self,
        datagram: &[u8],
        is_own: impl Fn(u32) -> bool,
        heard: &mut Heard,
    ) {
        for frame in netlink::frames(datagram) {
            let attrs = attributes_of(frame.payload);
            if frame.kind == Kind::NewGen.wire() {
                let author = attribute(attrs, uapi::NFTA_GEN_PROC_PID).and_then(number);
                let others = !author.is_some_and(&is_own);
                heard.any |= others;
                heard.ours |= std::mem::take(&mut self.touched) && others;
            } else {
                // The first attribute of every object is its table's name, in all of their lists.
                let table = attribute(attrs, uapi::NFTA_TABLE_NAME).and_then(text);
                self.touched |= table == Some(TABLE);
            }
        }
    }
}
