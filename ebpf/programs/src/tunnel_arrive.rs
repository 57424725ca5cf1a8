//! tc ingress of the tunnel: packets that another node has sent to a backend of this one get its
//! address, as those of an uplink do. Those that belong to no flow yet come back from
//! [`crate::tunnel_admit`] as those of one.
//!
//! Nothing else has business there.

use abi::endpoint::Mac;
use abi::map::{Backend, NO_SERVICE, Reason, StepSlot, TcSlot};
use abi::tunnel::{self, leads_to, number_of};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::hairpin::Way;
use crate::map;
use crate::packet::{Header, near};
use crate::uplink_ingress::{led, verdict};

#[classifier]
pub(crate) fn tunnel_arrive(ctx: TcContext) -> i32 {
    verdict(&ctx, try_tunnel_arrive(&ctx))
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_tunnel_arrive(ctx: &TcContext) -> Result<Way, Lost> {
    let arrival = arrival(ctx)?;
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

/// An error is what is sent to nobody, to one that is not here, or to one that other nodes may not send
/// to.
#[inline(always)]
pub(crate) fn arrival(ctx: &TcContext) -> Result<Arrival, Lost> {
    let stale = |service| Lost::of(service)(Reason::Stale);
    let [_to, from] = near::<[Mac; 2], 0>(ctx).map_err(|_unknown| stale(NO_SERVICE))?;
    let number = number_of(from).ok_or_else(|| stale(NO_SERVICE))?;
    let id = tunnel::backend(number);
    let service = map::arrival(id).ok_or_else(|| stale(NO_SERVICE))?;
    match map::backend(id) {
        Some(backend) if leads_to(number, id, backend) => Ok(Arrival {
            service,
            id,
            backend,
        }),
        _ => Err(stale(service)),
    }
}
