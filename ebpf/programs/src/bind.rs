//! bind4, bind6: a published port is taken, although no process of the host holds a socket on it.
//!
//! A runtime that asked for the port may hold it. Everybody else has the error that a bind of a taken
//! port has, EADDRINUSE. The helpers for both came after 5.10 (`bpf_set_retval` with 5.18,
//! `bpf_get_current_pid_tgid` for these hooks with 6.1), and one unknown helper fails a whole program:
//! `bind4_older` and `bind6_older` do without, and fail with EPERM.

use abi::Be16;
use abi::frontend::{Bit, Candidates};
use abi::map::SANDBOX_HOST;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::socket::{self, ALLOW, Family, REFUSE};
use crate::{lookup, map};

const EADDRINUSE: i32 = 98;

#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    refuse_in_use(&ctx, Family::V4)
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    refuse_in_use(&ctx, Family::V6)
}

#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4_older(ctx: SockAddrContext) -> i32 {
    if is_published(&ctx, Family::V4) {
        REFUSE
    } else {
        ALLOW
    }
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6_older(ctx: SockAddrContext) -> i32 {
    if is_published(&ctx, Family::V6) {
        REFUSE
    } else {
        ALLOW
    }
}

#[inline(always)]
fn refuse_in_use(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_published(ctx, family) || is_runtime() {
        return ALLOW;
    }
    // SAFETY: the helper has no preconditions; it fails for values that are no errno.
    unsafe { bpf_set_retval(-EADDRINUSE) };
    REFUSE
}

/// Whether the process is a runtime that has published ports. Its number is the upper half.
#[inline(always)]
fn is_runtime() -> bool {
    map::is_runtime((bpf_get_current_pid_tgid() >> 32) as u32)
}

/// Whether a frontend overlaps the address to bind, in the host's namespace.
#[inline(always)]
fn is_published(ctx: &SockAddrContext, family: Family) -> bool {
    let host = socket::sandbox(ctx).is_some_and(|sandbox| sandbox.flags & SANDBOX_HOST != 0);
    let (Some(protocol), true) = (socket::protocol(ctx), host) else {
        return false;
    };
    let (address, port) = (socket::address(ctx, family), socket::port(ctx));
    if address.is_unspecified() {
        // An IPv6 wildcard takes the IPv4 port as well, unless the socket is IPv6 only, which a
        // program cannot see.
        return is_any(true, protocol, port)
            || (matches!(family, Family::V6) && is_any(false, protocol, port));
    }
    if !is_any(address.is_v4(), protocol, port) {
        return false;
    }
    let candidates = Candidates::of(address, port, protocol);
    lookup::published(&candidates.exact).is_some()
        || lookup::published(&candidates.wildcard).is_some()
}

/// Whether any frontend of that family has the port.
#[inline(always)]
fn is_any(v4: bool, protocol: u8, port: Be16) -> bool {
    Bit::port(v4, protocol, port).is_some_and(map::is_set)
}
