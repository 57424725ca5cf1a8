//! tc ingress of an uplink: packets to a published port get their container's address. Those that
//! belong to no flow yet come back from [`crate::uplink_begin`] as those of one.
//!
//! Those that a container sends come here by a tail call from its own link's program.

use abi::flow::{Verdict, heard, is_connection, judge};
use abi::frontend::{Bit, answers_uplink};
use abi::map::{
    Direction, FLOW_REMOTE, FLOW_SELF, FLOW_VIP, Flow, FragmentPorts, Reason, StepSlot, TcSlot,
};
use abi::packet::{Flags, Fragment};
use abi::protocol;
use abi::trace::Decision;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::frame::Frame;
use crate::hairpin::{self, Way};
use crate::packet::{Header, Ports};
use crate::rewrite::{Failed, Side, Translation, translate, vouch};
use crate::{clock, count, map, remote, sealed, shortcut, trace};

#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    verdict(&ctx, try_uplink_ingress(&ctx))
}

/// Lets the packet go its way.
#[inline(always)]
pub(crate) fn verdict(ctx: &TcContext, way: Result<Way, Lost>) -> i32 {
    match way {
        Ok(Way::Stack) => TC_ACT_UNSPEC,
        Ok(Way::Dropped) => TC_ACT_SHOT,
        Ok(Way::Back) => hairpin::back(ctx),
        Ok(Way::Peer(link)) => shortcut::enter(link),
        Ok(Way::Out(ifindex)) => hairpin::out(ifindex),
        Err(lost) => {
            count::lost(&lost);
            TC_ACT_SHOT
        }
    }
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_uplink_ingress(ctx: &TcContext) -> Result<Way, Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(Way::Stack);
    };
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::IngressIcmp as u32) };
        return Ok(Way::Stack);
    }
    let Ok(ports) = header.ports(ctx) else {
        return Ok(Way::Stack);
    };
    if sealed::is_exposed(ctx, &header, &ports.ports) {
        return Ok(Way::Dropped);
    }
    let port = ports.ports.destination_port;
    let Some(bit) = Bit::port(header.is_v4(), header.protocol, port) else {
        return Ok(Way::Stack);
    };
    if !map::is_set(bit) && !map::may_be_vip(header.destination)
        || !answers_uplink(header.destination)
    {
        trace::nowhere(ctx, &header, &ports.ports, None);
        return Ok(Way::Stack);
    }
    led(ctx, &header, ports, None, StepSlot::Begin)
}

/// Leads a packet as its flow says, if that is a flow to the backend `chosen`, or nobody has chosen
/// yet. Others are the program's of the slot `begin`.
#[inline(always)]
pub(crate) fn led(
    ctx: &TcContext,
    header: &Header,
    Ports { ports, flags }: Ports,
    chosen: Option<u32>,
    begin: StepSlot,
) -> Result<Way, Lost> {
    let now = clock::now();
    let key = header.flow_key(&ports, Direction::Forward);
    let known = map::flows(header.protocol).get_ptr_mut(&key);
    let begun = known.is_none() && header.protocol == protocol::TCP;
    let flow = if begun {
        map::CT_HALF.get_ptr_mut(&key)
    } else {
        known
    };
    if let Some(flow) = flow {
        // SAFETY: a live or recycled LRU value; fields are integers, valid in any state. A recycled
        // one carries another flow's generation or address for one packet.
        let flow = unsafe { &mut *flow };
        match judge(
            flow,
            map::backend(flow.backend),
            header.protocol,
            flags,
            now,
        ) {
            _ if chosen.is_some_and(|chosen| chosen != flow.backend) => {}
            Verdict::Pass => return Ok(Way::Stack),
            // It goes to the other table, and comes back.
            Verdict::Follow if begun && is_connection(flow, flags) => {}
            Verdict::Follow => {
                hear(ctx, flow, flags, now);
                return follow(ctx, header, &Ports { ports, flags }, flow);
            }
            Verdict::Renew => {}
        }
    }
    // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
    unsafe { map::JUMP_STEPS.tail_call(ctx, begin as u32) };
    Ok(Way::Stack)
}

/// Enters a packet in its flow.
#[inline(always)]
pub(crate) fn hear(ctx: &impl Frame, flow: &mut Flow, flags: Flags, now: u64) {
    flow.state = heard(flow, flags) as u8;
    flow.last_seen = now;
    flow.packets += 1;
    flow.bytes += u64::from(ctx.length());
}

/// Tells of a packet that follows its flow.
#[inline(always)]
pub(crate) fn tell(ctx: &impl Frame, header: &Header, ports: &FragmentPorts, flow: &Flow) {
    let length = u64::from(ctx.length());
    count::traffic(flow.service, flow.backend, |counters| {
        counters.packets_in += 1;
        counters.bytes_in += length;
    });
    // A new flow comes here with its first packet.
    let decision = if flow.packets > 1 {
        Decision::Hit
    } else {
        Decision::New
    };
    trace::flow(ctx, header, ports, flow, decision);
}

/// What a packet becomes that follows its flow.
#[inline(always)]
pub(crate) fn translation(flow: &Flow) -> Translation {
    Translation {
        side: Side::Destination,
        address: flow.address,
        turned: flow.flags & FLOW_SELF != 0,
        ports: FragmentPorts {
            source_port: flow.client_port,
            destination_port: flow.port,
        },
    }
}

/// Translates the packet as its flow says.
#[inline(always)]
fn follow(
    ctx: &TcContext,
    header: &Header,
    Ports { ports, flags }: &Ports,
    flow: &Flow,
) -> Result<Way, Lost> {
    tell(ctx, header, ports, flow);
    if flow.flags & FLOW_REMOTE != 0 {
        return remote::send(ctx, header, ports, flow).map_err(Lost::of(flow.service));
    }
    if matches!(header.fragment, Fragment::First) {
        map::remember_fragment(&header.fragment_key(), *ports);
    }
    let new = translation(flow);
    let way = match hairpin::way(ctx, flow).map_err(Lost::of(flow.service))? {
        Way::Stack => {
            shortcut::inward(ctx, header, flow, *flags).map_err(Lost::of(flow.service))?
        }
        way => way,
    };
    if flow.flags & FLOW_VIP == 0 && way == Way::Stack {
        vouch(ctx);
    }
    translate(ctx, header, ports, &new)
        .map_err(|Failed| Lost::of(flow.service)(Reason::Rewrite))?;
    Ok(way)
}
