//! tc egress of the host's end of an endpoint's link: replies to a container get the address that it
//! asked. Answers of a container to itself come here from the program of the link's other direction.
//!
//! Only where a container's own packets were translated: the socket hooks lead TCP and UDP straight
//! to the backend, where there are hooks.

use abi::frontend::Bit;
use abi::map::{Direction, FLOW_SELF, TcSlot};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::hairpin::{self, Way};
use crate::packet::{Header, Ports};
use crate::reply::reply;
use crate::{count, map, sctp};

#[classifier]
pub(crate) fn endpoint_reply(ctx: TcContext) -> i32 {
    match try_endpoint_reply(&ctx) {
        Ok(Way::Stack) => TC_ACT_UNSPEC,
        Ok(Way::Back) => hairpin::back(&ctx),
        Err(lost) => {
            count::lost(&lost);
            TC_ACT_SHOT
        }
    }
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_endpoint_reply(ctx: &TcContext) -> Result<Way, Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(Way::Stack);
    };
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::EgressIcmp as u32) };
        return Ok(Way::Stack);
    }
    if !map::is_set(Bit::source(header.source)) {
        return Ok(Way::Stack);
    }
    let Ok(Ports { ports, flags }) = header.ports(ctx) else {
        return Ok(Way::Stack);
    };
    let key = header.flow_key(&ports, Direction::Reverse);
    let Some(flow) = map::flow(&key) else {
        return Ok(Way::Stack);
    };
    // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
    let flow = unsafe { &mut *flow };
    let own = flow.flags & FLOW_SELF != 0;
    let way = if own {
        hairpin::turn(ctx).map_err(Lost::of(flow.service))?;
        Way::Back
    } else {
        sctp::set_way(ctx, Way::Stack);
        Way::Stack
    };
    reply(ctx, &header, &ports, flow, flags, own)?;
    Ok(way)
}
