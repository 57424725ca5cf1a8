//! tc ingress of the host's end of an endpoint's link, after the checks: packets to frontends, and
//! packets that belong to a published port.
//!
//! What the socket hooks did not lead to a backend is translated as at an uplink: where there are no
//! hooks, of protocols and namespaces that they do not see. It also vouches for two kinds of packets:
//!
//! * those to a published port of another network, which the socket hooks led straight to the
//!   container there: between networks, only they may pass. A service's own address is no published
//!   port, and its backends are as far away as they are by theirs;
//! * replies of a published port to its client: where the host's connection tracking has lost the
//!   connection, they look like the beginning of another one and must not be masqueraded.
//!
//! Replies that may take the shortcut go to their uplink at once.

use abi::frontend::Bit;
use abi::guard::PROTOCOL_ARP;
use abi::map::{
    Direction, FLOW_SELF, FLOW_TUNNEL, Flow, FragmentPorts, PEER_VIP, PeerKey, StepSlot, TcSlot,
};
use abi::protocol;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::packet::{Header, Ports};
use crate::rewrite::vouch;
use crate::{count, map, shortcut};

#[classifier]
pub(crate) fn endpoint_vouch(ctx: TcContext) -> i32 {
    match judge(&ctx) {
        Judgement::Nothing => {}
        Judgement::Shortcut(verdict) => return verdict,
        Judgement::Lost(lost) => {
            count::lost(&lost);
            return TC_ACT_SHOT;
        }
        Judgement::Vouch => vouch(&ctx),
        // SAFETY: the tables hold tc programs only; if a slot is empty the packet goes on.
        Judgement::Own => unsafe {
            map::JUMP_STEPS.tail_call(&ctx, StepSlot::Reply as u32);
        },
        // SAFETY: as above.
        Judgement::Neighbour => unsafe {
            map::JUMP_STEPS.tail_call(&ctx, StepSlot::Neighbour as u32);
        },
        // SAFETY: as above.
        Judgement::Answer => unsafe {
            map::JUMP_STEPS.tail_call(&ctx, StepSlot::Answer as u32);
        },
        // SAFETY: as above.
        Judgement::Clamp => unsafe {
            map::JUMP_STEPS.tail_call(&ctx, StepSlot::Clamp as u32);
            vouch(&ctx);
        },
        // SAFETY: as above.
        Judgement::Asks => unsafe { map::JUMP_TC.tail_call(&ctx, TcSlot::Ingress as u32) },
    }
    TC_ACT_UNSPEC
}

enum Judgement {
    Nothing,
    Vouch,
    /// Past the host's stack, by this verdict.
    Shortcut(i32),
    Lost(Lost),
    /// The container answers itself, or the host by way of another node.
    Own,
    /// Perhaps to a frontend.
    Asks,
    /// Perhaps for a link address.
    Neighbour,
    /// Perhaps to a service's own address, without ports.
    Answer,
    /// Begins a connection of a client whose packets come from another node.
    Clamp,
}

#[inline(always)]
fn judge(ctx: &TcContext) -> Judgement {
    if ctx.skb.protocol() == PROTOCOL_ARP {
        return Judgement::Neighbour;
    }
    let Ok(header) = Header::outer(ctx) else {
        return Judgement::Nothing;
    };
    if header.is_solicitation(ctx) {
        return Judgement::Neighbour;
    }
    if header.is_icmp_error(ctx) {
        // About a reply: the program finds out whether it is one of ours.
        return Judgement::Asks;
    }
    let (replies, redirected) = (
        map::is_set(Bit::source(header.source)),
        map::is_set(Bit::source(header.destination)),
    );
    let Ok(ports) = header.ports(ctx) else {
        return if map::may_be_vip(header.destination) {
            Judgement::Answer
        } else {
            Judgement::Nothing
        };
    };
    if replies && let Some(flow) = map::flow(&header.flow_key(&ports.ports, Direction::Reverse)) {
        // SAFETY: a live or recycled LRU value; integers are valid in any state.
        return reply(ctx, &header, &ports, unsafe { &*flow });
    }
    let ports = ports.ports;
    if redirected && is_redirected(ctx, &header, &ports) {
        return Judgement::Vouch;
    }
    let port = Bit::port(header.is_v4(), header.protocol, ports.destination_port);
    if port.is_some_and(map::is_set) || map::may_be_vip(header.destination) {
        Judgement::Asks
    } else {
        Judgement::Nothing
    }
}

/// Judges a reply of a flow.
#[inline(always)]
fn reply(ctx: &TcContext, header: &Header, ports: &Ports, flow: &Flow) -> Judgement {
    if flow.flags & FLOW_SELF != 0 {
        return Judgement::Own;
    }
    if flow.flags & FLOW_TUNNEL != 0 && header.protocol == protocol::TCP && ports.flags.begins() {
        return Judgement::Clamp;
    }
    // The host has asked another node, which led back here: no uplink translates what stays here.
    if flow.flags & FLOW_TUNNEL != 0 && map::is_local(&header.destination) {
        return Judgement::Own;
    }
    match shortcut::outward(ctx, header, ports, flow) {
        Ok(Some(verdict)) => Judgement::Shortcut(verdict),
        Ok(None) => Judgement::Vouch,
        Err(reason) => Judgement::Lost(Lost::of(flow.service)(reason)),
    }
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
