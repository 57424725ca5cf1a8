//! The first packet here of a flow that another node has sent to a backend of this one: it needs no
//! choice any more, but an entry for each direction.

use abi::map::{Direction, FLOW_TUNNEL, FlowKey, NO_SERVICE, Reason, StepSlot};
use abi::protocol;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::lookup::{self, Target};
use crate::packet::{Header, Ports};
use crate::tunnel_arrive::{Arrival, arrival};
use crate::uplink_begin::{begin, promote};
use crate::{count, map, trace};

#[classifier]
pub(crate) fn tunnel_admit(ctx: TcContext) -> i32 {
    match try_tunnel_admit(&ctx) {
        // SAFETY: the table holds tc programs only, and nothing here needs to be dropped.
        Ok(()) => unsafe { map::JUMP_STEPS.tail_call(&ctx, StepSlot::Arrive as u32) },
        Err(lost) => {
            count::lost(&lost);
            return TC_ACT_SHOT;
        }
    }
    TC_ACT_UNSPEC
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_tunnel_admit(ctx: &TcContext) -> Result<(), Lost> {
    let malformed = || Lost::of(NO_SERVICE)(Reason::Malformed);
    let arrival = arrival(ctx)?;
    let header = Header::outer(ctx).map_err(|_unknown| malformed())?;
    let Ports { ports, flags } = header.ports(ctx).map_err(|_unknown| malformed())?;
    let key = header.flow_key(&ports, Direction::Forward);
    if header.protocol == protocol::TCP && promote(&key, flags) {
        return Ok(());
    }
    if let Err(reason) = enter(&header, &key, &arrival) {
        let lost = Lost::of(arrival.service)(reason);
        trace::nowhere(ctx, &header, &ports, Some(&lost));
        return Err(lost);
    }
    count::begun(arrival.service, arrival.id, |counters| {
        counters.new_flows += 1;
    });
    Ok(())
}

#[inline(always)]
fn enter(header: &Header, key: &FlowKey, arrival: &Arrival) -> Result<(), Reason> {
    if arrival.backend.address.is_v4() != header.is_v4() {
        return Err(Reason::Family);
    }
    let (destination, port) = (key.destination, key.destination_port);
    let backend = lookup::serving(arrival, destination, port, key.protocol).ok_or(Reason::Stale)?;
    let target = Target {
        service: arrival.service,
        id: arrival.id,
        backend,
        vip: false,
    };
    begin(key, &target, FLOW_TUNNEL)
}
