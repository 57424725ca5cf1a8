//! tc ingress of an uplink: packets to a published port get their container's address.

use abi::Be16;
use abi::flow::{
    PORT_ATTEMPTS, State, Verdict, alternative_port, is_current, is_same_flow, judge, reverse_key,
};
use abi::frontend::{Bit, answers_uplink};
use abi::maglev::{client_hash, flow_hash};
use abi::map::{Direction, FLOW_VIP, Flow, FlowKey, FragmentPorts, Reason, TcSlot};
use abi::packet::Fragment;
use abi::socket::Wildcard;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::lookup::{self, Asker, Found, Target};
use crate::packet::{Header, Ports};
use crate::rewrite::{Failed, Side, Translation, translate, vouch};
use crate::{count, map};

#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    match try_uplink_ingress(&ctx) {
        Ok(()) => TC_ACT_UNSPEC,
        Err(lost) => {
            count::lost(&lost);
            TC_ACT_SHOT
        }
    }
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_uplink_ingress(ctx: &TcContext) -> Result<(), Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(());
    };
    if header.is_icmp_error(ctx) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::IngressIcmp as u32) };
        return Ok(());
    }
    let Ok(Ports { ports, flags }) = header.ports(ctx) else {
        return Ok(());
    };
    let Some(bit) = Bit::port(header.is_v4(), header.protocol, ports.destination_port) else {
        return Ok(());
    };
    if !map::is_set(bit) && !map::may_be_vip(header.destination)
        || !answers_uplink(header.destination)
    {
        return Ok(());
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let key = header.flow_key(&ports, Direction::Forward);
    let flows = map::flows(header.protocol);
    if let Some(flow) = flows.get_ptr_mut(&key) {
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
            Verdict::Pass => return Ok(()),
            Verdict::Follow => {
                flow.state = State::from_raw(flow.state).next(Direction::Forward, flags) as u8;
                flow.last_seen = now;
                flow.packets += 1;
                flow.bytes += u64::from(ctx.len());
                return follow(ctx, &header, &ports, flow);
            }
            Verdict::Renew => {}
        }
    }
    let target = match lookup::find(
        header.destination,
        ports.destination_port,
        header.protocol,
        Wildcard::IfLocal,
        &key,
    ) {
        Found::Nothing => return Ok(()),
        Found::NoBackend(service) => return Err(Lost::of(service)(Reason::NoBackend)),
        Found::Target(target) => target,
    };
    if target.backend.address.is_v4() != header.is_v4() {
        // The packet cannot become one of the other family; the host's stack refuses it.
        count::lost(&Lost::of(target.service)(Reason::Family));
        return Ok(());
    }
    let flow = begin(ctx, &key, &target, now).map_err(Lost::of(target.service))?;
    count::traffic(target.service, target.id, |counters| {
        counters.new_flows += 1;
    });
    follow(ctx, &header, &ports, &flow)
}

impl Asker for FlowKey {
    #[inline(always)]
    fn hash(&self, affinity: bool) -> u64 {
        if affinity {
            return client_hash(self.source);
        }
        flow_hash(
            self.source,
            self.source_port,
            self.destination,
            self.destination_port,
            self.protocol,
        )
    }
}

#[inline(always)]
fn flags_of(target: &Target) -> u8 {
    if target.vip { FLOW_VIP } else { 0 }
}

/// Enters a new flow in both directions.
#[inline(always)]
fn begin(ctx: &TcContext, key: &FlowKey, target: &Target, now: u64) -> Result<Flow, Reason> {
    let client_port = reserve(key, target, now)?;
    let flow = Flow {
        address: target.backend.address,
        last_seen: now,
        packets: 1,
        bytes: u64::from(ctx.len()),
        service: target.service,
        backend: target.id,
        generation: target.backend.generation,
        port: target.backend.port,
        client_port,
        state: State::New as u8,
        flags: flags_of(target),
        pad: [0; 6],
    };
    map::flows(key.protocol)
        .insert(key, flow, u64::from(BPF_ANY))
        .map_err(|_errno| Reason::FlowTable)?;
    Ok(flow)
}

/// Enters the reverse flow and returns the client port it is entered under: the client's own
/// unless another frontend of the same backend is already used from it.
#[inline(always)]
fn reserve(key: &FlowKey, target: &Target, now: u64) -> Result<Be16, Reason> {
    let entry = Flow {
        address: key.destination,
        last_seen: now,
        packets: 0,
        bytes: 0,
        service: target.service,
        backend: target.id,
        generation: target.backend.generation,
        port: key.destination_port,
        client_port: key.source_port,
        state: State::New as u8,
        flags: flags_of(target),
        pad: [0; 6],
    };
    let mut port = key.source_port;
    for attempt in 0..PORT_ATTEMPTS {
        let backend = &target.backend;
        let reverse = reverse_key(
            key.source,
            port,
            backend.address,
            backend.port,
            key.protocol,
        );
        if claim(&reverse, &entry) {
            return Ok(port);
        }
        port = alternative_port(key.source_port, key.destination_port, attempt);
    }
    Err(Reason::PortsExhausted)
}

/// Enters `entry` unless the key belongs to another flow that is still in use.
#[inline(always)]
fn claim(key: &FlowKey, entry: &Flow) -> bool {
    let flows = map::flows(key.protocol);
    if flows.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    let Some(holder) = flows.get_ptr(key) else {
        return flows.insert(key, entry, u64::from(BPF_ANY)).is_ok();
    };
    // SAFETY: as for the forward flow; a recycled value costs at worst another source port.
    let holder = unsafe { &*holder };
    let free = is_same_flow(holder, entry.address, entry.port, entry.client_port)
        || matches!(State::from_raw(holder.state), State::Closing)
        || !is_current(holder, map::backend(holder.backend));
    free && flows.insert(key, entry, u64::from(BPF_ANY)).is_ok()
}

/// Translates the packet as its flow says.
#[inline(always)]
fn follow(
    ctx: &TcContext,
    header: &Header,
    ports: &FragmentPorts,
    flow: &Flow,
) -> Result<(), Lost> {
    let length = u64::from(ctx.len());
    count::traffic(flow.service, flow.backend, |counters| {
        counters.packets_in += 1;
        counters.bytes_in += length;
    });
    if matches!(header.fragment, Fragment::First) {
        map::remember_fragment(&header.fragment_key(), *ports);
    }
    let new = Translation {
        side: Side::Destination,
        address: flow.address,
        ports: FragmentPorts {
            source_port: flow.client_port,
            destination_port: flow.port,
        },
    };
    if flow.flags & FLOW_VIP == 0 {
        vouch(ctx);
    }
    translate(ctx, header, ports, &new).map_err(|Failed| Lost::of(flow.service)(Reason::Rewrite))
}
