//! Reading and writing the address a socket hook is called with.
//!
//! Each field of the context is one aligned 32-bit access: the verifier translates them one by one,
//! so that the compiler must not merge or split them, hence the volatile accesses.

use core::ptr::{addr_of, addr_of_mut};

use abi::map::SandboxValue;
use abi::{Address, Be16};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockAddrContext;

use crate::map;

/// The verdict of a hook that lets the call go on.
pub(crate) const ALLOW: i32 = 1;
/// The verdict of a hook that fails the call, with EPERM unless the program set another error.
pub(crate) const REFUSE: i32 = 0;

const IPPROTO_TCP: u32 = abi::protocol::TCP as u32;
const IPPROTO_UDP: u32 = abi::protocol::UDP as u32;

/// The family of a hook, known when it is compiled: a program of one family must not touch the
/// other's fields.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Reads an IPv6 address of the context word by word.
///
/// # Safety
/// `field` is a field of the hook's context, or of its socket, that the hook's type may read.
#[inline(always)]
unsafe fn read_v6(field: *const [u32; 4]) -> Address {
    let words = field.cast::<u32>();
    // SAFETY: the caller's; the field has four words.
    unsafe {
        Address([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ])
    }
}

/// The address in the context: the peer, or the one to bind.
#[inline(always)]
pub(crate) fn address(ctx: &SockAddrContext, family: Family) -> Address {
    let context = ctx.sock_addr;
    // SAFETY: `context` is the hook's context; the fields are readable by programs of `family`.
    unsafe {
        match family {
            Family::V4 => Address::v4(addr_of!((*context).user_ip4).read_volatile()),
            Family::V6 => read_v6(addr_of!((*context).user_ip6)),
        }
    }
}

#[inline(always)]
pub(crate) fn port(ctx: &SockAddrContext) -> Be16 {
    // SAFETY: as in `address`; the upper half of the field is zero.
    Be16(unsafe { addr_of!((*ctx.sock_addr).user_port).read_volatile() } as u16)
}

/// Points the call at another address.
#[inline(always)]
pub(crate) fn set(ctx: &SockAddrContext, family: Family, address: Address, port: Be16) {
    let context = ctx.sock_addr;
    // SAFETY: as in `address`; all hooks but bind's may write these fields.
    unsafe {
        match family {
            Family::V4 => addr_of_mut!((*context).user_ip4).write_volatile(address.0[3]),
            Family::V6 => {
                let words = addr_of_mut!((*context).user_ip6).cast::<u32>();
                words.write_volatile(address.0[0]);
                words.add(1).write_volatile(address.0[1]);
                words.add(2).write_volatile(address.0[2]);
                words.add(3).write_volatile(address.0[3]);
            }
        }
        addr_of_mut!((*context).user_port).write_volatile(u32::from(port.0));
    }
}

/// The socket's protocol, if the data plane handles it.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: as in `address`.
    match unsafe { addr_of!((*ctx.sock_addr).protocol).read_volatile() } {
        IPPROTO_TCP => Some(abi::protocol::TCP),
        IPPROTO_UDP => Some(abi::protocol::UDP),
        _ => None,
    }
}

/// The source address of a socket in a connect hook: unspecified unless bound.
#[inline(always)]
pub(crate) fn bound(ctx: &SockAddrContext, family: Family) -> Address {
    // SAFETY: `sk` is never null in these hooks (PTR_TO_SOCKET), and its fields are readable.
    unsafe {
        let socket = addr_of!((*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile();
        match family {
            Family::V4 => Address::v4(addr_of!((*socket).src_ip4).read_volatile()),
            Family::V6 => read_v6(addr_of!((*socket).src_ip6)),
        }
    }
}

/// The source address of a datagram in a sendmsg hook.
#[inline(always)]
pub(crate) fn datagram_source(ctx: &SockAddrContext, family: Family) -> Address {
    let context = ctx.sock_addr;
    // SAFETY: as in `address`; sendmsg hooks may read the source.
    unsafe {
        match family {
            Family::V4 => Address::v4(addr_of!((*context).msg_src_ip4).read_volatile()),
            Family::V6 => read_v6(addr_of!((*context).msg_src_ip6)),
        }
    }
}

/// What the daemon knows of the caller's network namespace; `None` if it is not one of ours.
#[inline(always)]
pub(crate) fn sandbox(ctx: &SockAddrContext) -> Option<&'static SandboxValue> {
    map::sandbox(namespace(ctx))
}

/// The identity of the caller's network namespace.
#[inline(always)]
pub(crate) fn namespace(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the hook's context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The socket's identity for as long as it lives.
#[inline(always)]
pub(crate) fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the hook's context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
