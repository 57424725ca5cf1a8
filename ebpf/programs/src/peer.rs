//! recvmsg4, recvmsg6, getpeername4, getpeername6: a process sees the address it named, not the one
//! its packets were led to.
//!
//! Only an address saved for this very socket is translated back. IPv4 and v4-mapped addresses are
//! one and the same in the map, because an IPv6 socket sends to a v4-mapped address through
//! sendmsg4 and receives the answer through recvmsg6.

use abi::map::{Peer, PeerKey};
use abi::{Address, Be16};
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::map::PEERS;
use crate::socket::{self, ALLOW, Family};

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(&ctx, Family::V4);
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(&ctx, Family::V6);
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore(&ctx, Family::V4);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore(&ctx, Family::V6);
    ALLOW
}

/// Saves that this socket knows the address as `named`.
#[inline(always)]
pub(crate) fn remember(
    ctx: &SockAddrContext,
    address: Address,
    port: Be16,
    named: Peer,
) -> Option<()> {
    PEERS
        .insert(key(ctx, address, port), named, u64::from(BPF_ANY))
        .ok()
}

#[inline(always)]
fn restore(ctx: &SockAddrContext, family: Family) {
    let (address, port) = (socket::address(ctx, family), socket::port(ctx));
    // SAFETY: an LRU value, copied at once; integers are valid in any state.
    if let Some(peer) = unsafe { PEERS.get(key(ctx, address, port)) }.copied() {
        socket::set(ctx, family, peer.address, peer.port);
    }
}

#[inline(always)]
fn key(ctx: &SockAddrContext, address: Address, port: Be16) -> PeerKey {
    PeerKey {
        socket: socket::cookie(ctx),
        address,
        port,
        pad: [0; 3],
    }
}
