//! tc egress of an uplink: replies of a published port get the address the client asked.

use abi::flow::State;
use abi::frontend::Bit;
use abi::map::{Direction, Flow, FlowKey, FragmentPorts, NO_BACKEND, Reason, TcSlot};
use abi::packet::Fragment;
use aya_ebpf::bindings::{BPF_ANY, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::packet::{Header, Ports};
use crate::rewrite::{Failed, Side, Translation, translate};
use crate::{count, map};

#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    match try_uplink_egress(&ctx) {
        Ok(()) => TC_ACT_UNSPEC,
        Err(lost) => {
            count::lost(&lost);
            TC_ACT_SHOT
        }
    }
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_uplink_egress(ctx: &TcContext) -> Result<(), Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(());
    };
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::EgressIcmp as u32) };
        return Ok(());
    }
    let Ok(Ports { ports, flags }) = header.ports(ctx) else {
        return Ok(());
    };
    if map::is_set(Bit::source(header.source)) {
        let key = header.flow_key(&ports, Direction::Reverse);
        if let Some(flow) = map::flows(header.protocol).get_ptr_mut(&key) {
            // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
            let flow = unsafe { &mut *flow };
            let state = State::from_raw(flow.state).next(Direction::Reverse, flags);
            return reply(ctx, &header, &ports, flow, state);
        }
    }
    let Some(bit) = Bit::port(header.is_v4(), header.protocol, ports.source_port) else {
        return Ok(());
    };
    if map::is_set(bit) && !flags.resets() && !matches!(header.fragment, Fragment::Later) {
        outbound(&header, &ports);
    }
    Ok(())
}

/// Translates a reply back.
#[inline(always)]
fn reply(
    ctx: &TcContext,
    header: &Header,
    ports: &FragmentPorts,
    flow: &mut Flow,
    state: State,
) -> Result<(), Lost> {
    let length = u64::from(ctx.len());
    // SAFETY: the helper has no preconditions.
    flow.last_seen = unsafe { bpf_ktime_get_ns() };
    flow.packets += 1;
    flow.bytes += length;
    let (from, client_port) = (State::from_raw(flow.state), flow.client_port);
    flow.state = state as u8;
    if from as u8 != state as u8 {
        tell_forward(header, flow, client_port, state);
    }
    count::traffic(flow.service, flow.backend, |counters| {
        counters.packets_out += 1;
        counters.bytes_out += length;
    });
    if matches!(header.fragment, Fragment::First) {
        map::remember_fragment(&header.fragment_key(), *ports);
    }
    let new = Translation {
        side: Side::Source,
        address: flow.address,
        ports: FragmentPorts {
            source_port: flow.port,
            destination_port: client_port,
        },
    };
    translate(ctx, header, ports, &new).map_err(|Failed| Lost::of(flow.service)(Reason::Rewrite))
}

/// A change of state goes to the flow's other entry, which is the one ingress judges.
#[inline(always)]
fn tell_forward(header: &Header, reverse: &Flow, client_port: abi::Be16, state: State) {
    let key = FlowKey {
        source: header.destination,
        destination: reverse.address,
        source_port: client_port,
        destination_port: reverse.port,
        protocol: header.protocol,
        direction: Direction::Forward as u8,
        pad: 0,
    };
    if let Some(forward) = map::flows(header.protocol).get_ptr_mut(&key) {
        // SAFETY: as in `try_uplink_egress`; one byte is written.
        unsafe { (*forward).state = state as u8 };
    }
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
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
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
        pad: [0; 6],
    };
    if flows.insert(&key, flow, u64::from(BPF_ANY)).is_err() {
        count::reason(Reason::FlowTable);
    }
}
