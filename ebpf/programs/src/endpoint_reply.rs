//! tc egress of the host's end of an endpoint's link: replies to a container get the address that it
//! asked. Answers of a container to itself come here from the program of the link's other direction, and
//! those to the host when another node has led it here.
//!
//! Otherwise only where a container's own packets were translated: the socket hooks lead TCP and UDP
//! straight to the backend, where there are hooks.

use abi::frontend::Bit;
use abi::map::{Direction, FLOW_SELF, TcSlot};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::hairpin;
use crate::packet::{Header, Ports};
use crate::reply::reply;
use crate::{count, map, sctp, shortcut};

#[classifier]
pub(crate) fn endpoint_reply(ctx: TcContext) -> i32 {
    match try_endpoint_reply(&ctx) {
        Ok(Turned(true)) => hairpin::back(&ctx),
        Ok(Turned(false)) => TC_ACT_UNSPEC,
        Err(lost) => {
            count::lost(&lost);
            TC_ACT_SHOT
        }
    }
}

/// Whether the packet goes back out of the interface it came from.
struct Turned(bool);

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_endpoint_reply(ctx: &TcContext) -> Result<Turned, Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(Turned(false));
    };
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::EgressIcmp as u32) };
        return Ok(Turned(false));
    }
    let (vouched, replies) = (
        shortcut::is_vouched(ctx),
        map::is_set(Bit::source(header.source)),
    );
    if !vouched && !replies {
        return Ok(Turned(false));
    }
    let Ok(ports) = header.ports(ctx) else {
        return Ok(Turned(false));
    };
    if vouched {
        shortcut::crossed_inward(&header, &ports);
    }
    if !replies {
        return Ok(Turned(false));
    }
    let Ports { ports, flags } = ports;
    let key = header.flow_key(&ports, Direction::Reverse);
    let Some(flow) = map::flow(&key) else {
        return Ok(Turned(false));
    };
    // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
    let flow = unsafe { &mut *flow };
    if flow.flags & FLOW_SELF != 0 {
        hairpin::turn(ctx).map_err(Lost::of(flow.service))?;
    } else {
        sctp::set_turned(ctx, false);
    }
    reply(ctx, &header, &ports, flow, flags, true)?;
    Ok(Turned(flow.flags & FLOW_SELF != 0))
}
