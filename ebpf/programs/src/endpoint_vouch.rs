//! tc ingress of the host's end of an endpoint's link, after the checks: vouches for packets that
//! belong to a published port.
//!
//! It changes nothing but the mark. Two kinds of packets get it:
//!
//! * those to a published port of another network, which the socket hooks led straight to the
//!   container there: between networks, only they may pass. A service's own address is no published
//!   port, and its backends are as far away as they are by theirs;
//! * replies of a published port to its client: where the host's connection tracking has lost the
//!   connection, they look like the beginning of another one and must not be masqueraded.

use abi::frontend::Bit;
use abi::map::{Direction, FragmentPorts, PEER_VIP, PeerKey};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::map;
use crate::packet::{Header, Ports};
use crate::rewrite::vouch;

#[classifier]
pub(crate) fn endpoint_vouch(ctx: TcContext) -> i32 {
    if is_published(&ctx) {
        vouch(&ctx);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn is_published(ctx: &TcContext) -> bool {
    let Ok(header) = Header::outer(ctx) else {
        return false;
    };
    let (replies, asks) = (
        map::is_set(Bit::source(header.source)),
        map::is_set(Bit::source(header.destination)),
    );
    if !replies && !asks {
        return false;
    }
    let Ok(Ports { ports, .. }) = header.ports(ctx) else {
        return false;
    };
    (replies && is_reply(&header, &ports)) || (asks && is_redirected(ctx, &header, &ports))
}

#[inline(always)]
fn is_reply(header: &Header, ports: &FragmentPorts) -> bool {
    let key = header.flow_key(ports, Direction::Reverse);
    map::flows(header.protocol).get_ptr(&key).is_some()
}

/// Whether a socket hook gave the packet its destination. The sender's socket stays with a packet
/// on its way between namespaces ("skbuff: preserve sock reference when scrubbing the skb", 4.19),
/// and leaves it in the bridge.
#[inline(always)]
fn is_redirected(ctx: &TcContext, header: &Header, ports: &FragmentPorts) -> bool {
    let key = PeerKey {
        // SAFETY: the helper takes the program's context; it returns zero without a socket.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        address: header.destination,
        port: ports.destination_port,
        pad: [0; 3],
    };
    // SAFETY: an LRU value, of which one field is read; integers are valid in any state.
    let peer = unsafe { map::PEERS.get(key) };
    peer.is_some_and(|peer| peer.flags & PEER_VIP == 0)
}
