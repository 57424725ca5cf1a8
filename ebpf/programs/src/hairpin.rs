//! Packets of containers to frontends whose backend is a container of this host: where the translated
//! packet goes, on the link layer.
//!
//! To another network the host routes it, as it routes everything between networks. On the client's
//! own network it goes straight to the backend, as a packet to the backend's own address would: the
//! answer comes that way, too, and connection tracking must see both or none. What a container asks
//! of itself goes back where it came from.

use abi::endpoint::Mac;
use abi::map::{FLOW_ENDPOINT, FLOW_SELF, Flow, Reason};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;

use crate::endpoint_ingress::ifindex;
use crate::map;
use crate::packet::{Unknown, load};
use crate::sctp;

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Stack,
    /// Nowhere, and that is counted already.
    Dropped,
    /// Out of the interface it came from.
    Back,
    /// Into the far end of this link: see [`crate::shortcut`].
    Peer(u32),
    /// Out of this interface: see [`crate::remote`].
    Out(u32),
}

/// Prepares a packet that is about to be translated for its way.
#[inline(always)]
pub(crate) fn way(ctx: &TcContext, flow: &Flow) -> Result<Way, Reason> {
    sctp::set_turned(ctx, false);
    if flow.flags & (FLOW_SELF | FLOW_ENDPOINT) == 0 {
        return Ok(Way::Stack);
    }
    // None at an uplink, where somebody forges a container's address.
    let Some(endpoint) = map::endpoint(ifindex(ctx)) else {
        return Ok(Way::Stack);
    };
    if flow.flags & FLOW_SELF != 0 {
        turn(ctx)?;
        return Ok(Way::Back);
    }
    if let Some(place) = map::place(&flow.address)
        && place.network == endpoint.network
    {
        ctx.store(0, &place.mac, 0).map_err(failed)?;
    }
    Ok(Way::Stack)
}

/// Swaps the link addresses.
#[inline(always)]
pub(crate) fn turn(ctx: &TcContext) -> Result<(), Reason> {
    sctp::set_turned(ctx, true);
    let [to, from]: [Mac; 2] = load(ctx, 0).map_err(|Unknown| Reason::Rewrite)?;
    ctx.store(0, &[from, to], 0).map_err(failed)
}

/// Sends the packet out of the interface it came from.
#[inline(always)]
pub(crate) fn back(ctx: &TcContext) -> i32 {
    out(ifindex(ctx))
}

/// Sends the packet out of an interface.
#[inline(always)]
pub(crate) fn out(ifindex: u32) -> i32 {
    // SAFETY: the helper has no preconditions; it returns the verdict that redirects the packet.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

#[inline(always)]
fn failed(_code: i64) -> Reason {
    Reason::Rewrite
}
