//! tc ingress of the tunnel: packets that another node has sent to a backend of this one get its
//! address, as those of an uplink do. Those that belong to no flow yet come back from
//! [`crate::tunnel_admit`] as those of one.
//!
//! What the tunnel carries beside them, the packets of container networks, goes on untouched.

use core::mem::zeroed;

use abi::map::{Backend, NO_SERVICE, Reason, StepSlot, TcSlot};
use abi::tunnel::{self, TUNNEL_KEY_LEN, leads_to};
use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, bpf_tunnel_key};
use aya_ebpf::helpers::{bpf_skb_change_type, bpf_skb_get_tunnel_key};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::hairpin::Way;
use crate::map;
use crate::packet::Header;
use crate::uplink_ingress::{led, verdict};

/// `PACKET_HOST`, include/uapi/linux/if_packet.h.
const TO_THIS_HOST: u32 = 0;

#[classifier]
pub(crate) fn tunnel_arrive(ctx: TcContext) -> i32 {
    verdict(&ctx, try_tunnel_arrive(&ctx))
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_tunnel_arrive(ctx: &TcContext) -> Result<Way, Lost> {
    let Some(arrival) = arrival(ctx)? else {
        return Ok(Way::Stack);
    };
    // The link addresses are those of a link of another node.
    // SAFETY: the context is valid; the helper fails for types that it does not know only.
    let _known = unsafe { bpf_skb_change_type(ctx.skb.skb, TO_THIS_HOST) };
    let unknown = Lost::of(arrival.service);
    let header = Header::outer(ctx).map_err(|_unknown| unknown(Reason::Malformed))?;
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::IngressIcmp as u32) };
        return Ok(Way::Stack);
    }
    let ports = header
        .ports(ctx)
        .map_err(|_unknown| unknown(Reason::Malformed))?;
    led(ctx, &header, ports, Some(arrival.id), StepSlot::Admit)
}

/// The backend that a packet was sent to.
pub(crate) struct Arrival {
    pub service: u32,
    pub id: u32,
    pub backend: &'static Backend,
}

/// `None` for what is not sent to a backend. An error is what is sent to one that is not here, or that
/// nobody may send to.
#[inline(always)]
pub(crate) fn arrival(ctx: &TcContext) -> Result<Option<Arrival>, Lost> {
    let Some(number) = number(ctx) else {
        return Ok(None);
    };
    let Some(id) = tunnel::backend(number) else {
        return Ok(None);
    };
    let stale = |service| Lost::of(service)(Reason::Stale);
    let service = map::arrival(id).ok_or_else(|| stale(NO_SERVICE))?;
    match map::backend(id) {
        Some(backend) if leads_to(number, id, backend) => Ok(Some(Arrival {
            service,
            id,
            backend,
        })),
        _ => Err(stale(service)),
    }
}

/// The network number that the packet came with.
#[inline(always)]
fn number(ctx: &TcContext) -> Option<u32> {
    // SAFETY: integers and unions of integers, for which zero is a value.
    let mut key: bpf_tunnel_key = unsafe { zeroed() };
    let mut read = |flags: u32| {
        // SAFETY: the context is valid, and the helper writes so many bytes of this stack frame, which
        // has more.
        unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, TUNNEL_KEY_LEN, flags.into()) }
    };
    // The helper wants to be told the family of the nodes' addresses.
    if read(0) != 0 && read(BPF_F_TUNINFO_IPV6) != 0 {
        return None;
    }
    Some(key.tunnel_id)
}
