//! tc egress of an uplink: replies of a published port get the address the client asked.

use abi::flow::State;
use abi::frontend::Bit;
use abi::map::{Direction, Flow, FlowKey, FragmentPorts, NO_BACKEND, PreviousSlot, Reason, TcSlot};
use abi::packet::Fragment;
use aya_ebpf::bindings::{BPF_ANY, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::packet::{Header, Ports};
use crate::reply::reply;
use crate::{clock, count, map, sctp, sealed};

#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    match try_uplink_egress(&ctx) {
        Ok(action) => action,
        Err(lost) => {
            count::lost(&lost);
            TC_ACT_SHOT
        }
    }
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_uplink_egress(ctx: &TcContext) -> Result<i32, Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::EgressIcmp as u32) };
        return Ok(TC_ACT_UNSPEC);
    }
    let Ok(Ports { ports, flags }) = header.ports(ctx) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if sealed::is_exposed(ctx, &header, &ports) {
        return Ok(TC_ACT_SHOT);
    }
    if map::is_set(Bit::source(header.source)) {
        let key = header.flow_key(&ports, Direction::Reverse);
        if let Some(flow) = map::flow(&key) {
            // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
            let flow = unsafe { &mut *flow };
            sctp::set_turned(ctx, false);
            reply(ctx, &header, &ports, flow, flags, false)?;
            return Ok(TC_ACT_UNSPEC);
        }
        // SAFETY: as in `uplink_begin`.
        unsafe { map::PREVIOUS.tail_call(ctx, PreviousSlot::Egress as u32) };
    }
    let Some(bit) = Bit::port(header.is_v4(), header.protocol, ports.source_port) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if map::is_set(bit) && !flags.resets() && !matches!(header.fragment, Fragment::Later) {
        outbound(&header, &ports);
    }
    Ok(TC_ACT_UNSPEC)
}

/// Remembers that the host itself talks from a published port, so that ingress does not take the
/// answers for requests. Happens where an ephemeral or masqueraded source port is also published.
#[inline(always)]
fn outbound(header: &Header, ports: &FragmentPorts) {
    let key = FlowKey {
        source: header.destination,
        destination: header.source,
        source_port: ports.destination_port,
        destination_port: ports.source_port,
        protocol: header.protocol,
        direction: Direction::Forward as u8,
        pad: 0,
    };
    let now = clock::now();
    let flows = map::flows(header.protocol);
    if let Some(flow) = flows.get_ptr_mut(&key) {
        // SAFETY: as in `try_uplink_egress`.
        let flow = unsafe { &mut *flow };
        if matches!(State::from_raw(flow.state), State::Outbound) {
            flow.last_seen = now;
            return;
        }
    }
    let flow = Flow {
        address: header.source,
        last_seen: now,
        packets: 0,
        bytes: 0,
        service: 0,
        backend: NO_BACKEND,
        generation: 0,
        port: ports.source_port,
        client_port: ports.destination_port,
        state: State::Outbound as u8,
        flags: 0,
        exit: 0,
        epoch: 0,
    };
    if flows.insert(&key, flow, u64::from(BPF_ANY)).is_err() {
        count::reason(Reason::FlowTable);
    }
}
