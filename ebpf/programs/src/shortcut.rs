//! Past the host's stack: packets between an uplink and the link of a published port's container.
//! `abi::shortcut` says which of them may.
//!
//! One from outside enters the container's end of its link at once. A reply leaves by the route that
//! the stack would take, is translated at the uplink like any other, and its neighbor is looked after
//! by the kernel. What the stack would have to refuse, or to answer itself, is left to it: a packet
//! that is too large, or has no hops left, or no way.

use core::mem::zeroed;
use core::ptr::addr_of;

use abi::checksum::Change;
use abi::endpoint::{Mac, Place};
use abi::map::{Direction, Flow, FlowKey, FragmentPorts, Reason};
use abi::packet::{ETHERNET_LEN, Flags, Fragment};
use abi::shortcut::wire_length;
use abi::{MARK_PUBLISHED, protocol};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;

use crate::endpoint_ingress::ifindex;
use crate::frame::Frame;
use crate::hairpin::Way;
use crate::packet::{Header, Ipv4, Ipv6, NETWORK, Ports, direct};
use crate::{clock, map};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const UDP_LEN: u32 = 8;
/// Of the byte that begins with TCP's header length (RFC 9293, 3.1).
pub(crate) const TCP_OFFSET: u32 = 12;

/// Prepares a packet of `flow`, which is about to be translated, for the way into its container.
#[inline(always)]
pub(crate) fn inward(
    ctx: &TcContext,
    header: &Header,
    flow: &Flow,
    flags: Flags,
) -> Result<Way, Reason> {
    let Some(place) = admitted(ctx, header, flow, flags, flow.last_seen) else {
        return Ok(Way::Stack);
    };
    if !address(ctx, header, place)? {
        return Ok(Way::Stack);
    }
    Ok(Way::Peer(place.ifindex))
}

/// The container that a packet of `flow` may enter at once, and fits into the link of.
#[inline(always)]
pub(crate) fn admitted(
    ctx: &impl Frame,
    header: &Header,
    flow: &Flow,
    flags: Flags,
    now: u64,
) -> Option<&'static Place> {
    if !matches!(header.fragment, Fragment::Whole)
        || !map::shortcuts().admits(flow, header.protocol, flags, now)
    {
        return None;
    }
    let place = map::place(&flow.address)?;
    let fits = |length| length <= u32::from(place.direct_mtu);
    length(ctx, header).is_some_and(fits).then_some(place)
}

/// Lets the packet be one for the container's link. False, and as it was, if it is the stack's.
#[inline(always)]
pub(crate) fn address(ctx: &impl Frame, header: &Header, place: &Place) -> Result<bool, Reason> {
    if !hop(ctx, header) {
        return Ok(false);
    }
    match direct::<Mac, 0>(ctx) {
        // SAFETY: the packet begins with it, and is ours to write.
        Some(destination) => unsafe { *destination = place.mac },
        None => return Err(Reason::Rewrite),
    }
    Ok(true)
}

/// Lets the packet enter the far end of a link.
#[inline(always)]
pub(crate) fn enter(ifindex: u32) -> i32 {
    // SAFETY: the helper has no preconditions; it returns the verdict that redirects the packet.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Sends a reply, which its uplink translates, on its way. `None` if it is the stack's.
#[inline(always)]
pub(crate) fn outward(
    ctx: &TcContext,
    header: &Header,
    ports: &Ports,
    flow: &Flow,
) -> Result<Option<i32>, Reason> {
    let shortcuts = map::shortcuts();
    if !matches!(header.fragment, Fragment::Whole)
        || !shortcuts.admits(flow, header.protocol, ports.flags, flow.last_seen)
        || !map::endpoint(ifindex(ctx)).is_some_and(|endpoint| endpoint.direct_mtu != 0)
    {
        return Ok(None);
    }
    let Some(route) = route(ctx, header, &ports.ports) else {
        return Ok(None);
    };
    if !shortcuts.leaves(flow, route.ifindex) || !hop(ctx, header) {
        return Ok(None);
    }
    Ok(Some(leave(&route)))
}

/// Where the host would send the packet, if it fits and its neighbor is known.
#[inline(always)]
fn route(ctx: &TcContext, header: &Header, ports: &FragmentPorts) -> Option<bpf_fib_lookup> {
    let length = u16::try_from(length(ctx, header)?).ok()?;
    // SAFETY: integers and unions of integers, for which zero is a value.
    let mut route: bpf_fib_lookup = unsafe { zeroed() };
    route.ifindex = ifindex(ctx);
    route.l4_protocol = header.protocol;
    route.sport = ports.source_port.0;
    route.dport = ports.destination_port.0;
    route.__bindgen_anon_1.tot_len = length;
    if header.is_v4() {
        route.family = AF_INET;
        route.__bindgen_anon_3.ipv4_src = header.source.0[3];
        route.__bindgen_anon_4.ipv4_dst = header.destination.0[3];
    } else {
        route.family = AF_INET6;
        route.__bindgen_anon_3.ipv6_src = header.source.0;
        route.__bindgen_anon_4.ipv6_dst = header.destination.0;
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the helper takes the program's context, and `size` bytes of this stack frame that it
    // reads and writes.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &mut route, size, 0) };
    (found == i64::from(BPF_FIB_LKUP_RET_SUCCESS)).then_some(route)
}

/// Sends the packet to the next hop of its route.
#[inline(always)]
fn leave(route: &bpf_fib_lookup) -> i32 {
    // The lookup replaced the destination by the gateway, which may be of the other family; an IPv4
    // address is in the first word.
    // SAFETY: all members of the union are integers, and all its bytes were written.
    let next = unsafe { route.__bindgen_anon_4.ipv6_dst };
    let mut neighbor = bpf_redir_neigh {
        nh_family: u32::from(route.family),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the helper reads `size` bytes of this stack frame, and returns the verdict that
    // redirects the packet.
    unsafe { bpf_redirect_neigh(route.ifindex, &mut neighbor, size, 0) as i32 }
}

/// Counts the hop that the host is. False, and for the stack, where the packet has no more, of which its
/// sender is told, or where its header is in several pieces.
#[inline(always)]
fn hop(ctx: &impl Frame, header: &Header) -> bool {
    if header.is_v4() {
        let Some(ip) = direct::<Ipv4, NETWORK>(ctx) else {
            return false;
        };
        // SAFETY: the packet has the header there, and is ours to write; nothing else leads there.
        let ip = unsafe { &mut *ip };
        if ip.ttl <= 1 {
            return false;
        }
        // With the protocol: checksums are of words.
        let word = |ttl| u32::from(u16::from_ne_bytes([ttl, ip.protocol]));
        let change = Change::of_words(word(ip.ttl), word(ip.ttl - 1));
        ip.checksum = change.apply(ip.checksum);
        ip.ttl -= 1;
    } else {
        let Some(ip) = direct::<Ipv6, NETWORK>(ctx) else {
            return false;
        };
        // SAFETY: as above.
        let ip = unsafe { &mut *ip };
        if ip.hops <= 1 {
            return false;
        }
        let word = |hops| u32::from(u16::from_ne_bytes([ip.next, hops]));
        let change = Change::of_words(word(ip.hops), word(ip.hops - 1));
        ip.hops -= 1;
        ctx.balance(change);
    }
    true
}

/// How long the packet is on the wire, from its IP header on.
#[inline(always)]
pub(crate) fn length(ctx: &impl Frame, header: &Header) -> Option<u32> {
    let segment = ctx.segment();
    let mut headers = header.transport - header.network;
    if segment != 0 {
        headers += match header.protocol {
            protocol::TCP => {
                let offset: u8 = ctx.fetch(header.transport + TCP_OFFSET).ok()?;
                u32::from(offset >> 4) * 4
            }
            _ => UDP_LEN,
        };
    }
    Some(wire_length(ctx.length() - ETHERNET_LEN, segment, headers))
}

/// A reply leaves by an uplink. If it crossed the host's packet filter, the next ones need not.
#[inline(always)]
pub(crate) fn crossed_outward(ctx: &TcContext, protocol: u8, flow: &mut Flow, flags: Flags) {
    let shortcuts = map::shortcuts();
    if shortcuts.opens(flow, protocol, flags) && is_vouched(ctx) {
        flow.exit = ifindex(ctx) as u16;
        flow.epoch = shortcuts.epoch_at(flow.last_seen);
    }
}

/// A packet reaches the link of a container, and may have crossed the host's packet filter on the way
/// from an uplink: then the next ones of its flow need not.
#[inline(always)]
pub(crate) fn crossed_inward(header: &Header, ports: &Ports) {
    let reply = FlowKey {
        source: header.destination,
        destination: header.source,
        source_port: ports.ports.destination_port,
        destination_port: ports.ports.source_port,
        protocol: header.protocol,
        direction: Direction::Reverse as u8,
        pad: 0,
    };
    let Some(reverse) = map::flow(&reply) else {
        return;
    };
    // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
    let reverse = unsafe { &*reverse };
    let shortcuts = map::shortcuts();
    if !shortcuts.opens(reverse, header.protocol, ports.flags) {
        return;
    }
    let forward = FlowKey {
        source: header.source,
        destination: reverse.address,
        source_port: reverse.client_port,
        destination_port: reverse.port,
        protocol: header.protocol,
        direction: Direction::Forward as u8,
        pad: 0,
    };
    if let Some(forward) = map::flow(&forward) {
        // SAFETY: as above; of a recycled one a field is written that tells nothing without the rest.
        unsafe { (*forward).epoch = shortcuts.epoch_at(clock::now()) };
    }
}

/// Whether the packet has the mark that it gets where it enters the host's stack.
#[inline(always)]
pub(crate) fn is_vouched(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs; the field is an aligned u32.
    let mark = unsafe { addr_of!((*ctx.skb.skb).mark).read_volatile() };
    mark & MARK_PUBLISHED != 0
}
