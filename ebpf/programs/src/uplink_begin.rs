//! The first packet of a flow at an uplink, or at the link of a container that asks: a frontend, a
//! backend, and an entry for each direction.
//!
//! A program of its own, because one has 512 bytes of stack. Once the entries are there, the packet is
//! one of a flow, and goes where those go.

use abi::flow::{
    PORT_ATTEMPTS, State, alternative_port, is_connection, is_current, is_same_flow, reverse_key,
};
use abi::maglev::{client_hash, flow_hash};
use abi::map::{
    Direction, FLOW_ENDPOINT, FLOW_REMOTE, FLOW_SELF, FLOW_VIP, Flow, FlowKey, PreviousSlot,
    Reason, StepSlot, TcSlot,
};
use abi::packet::Flags;
use abi::socket::Wildcard;
use abi::{Be16, protocol};
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::endpoint_ingress::ifindex;
use crate::lookup::{self, Asker, Found, Target};
use crate::packet::{Header, Ports};
use crate::{clock, count, map, trace};

#[classifier]
pub(crate) fn uplink_begin(ctx: TcContext) -> i32 {
    match try_uplink_begin(&ctx) {
        Ok(Begun::Nothing) => {}
        // SAFETY: the table holds tc programs only, and nothing here needs to be dropped.
        Ok(Begun::Flow) => unsafe { map::JUMP_TC.tail_call(&ctx, TcSlot::Ingress as u32) },
        Err(lost) => {
            count::lost(&lost);
            return TC_ACT_SHOT;
        }
    }
    TC_ACT_UNSPEC
}

enum Begun {
    Nothing,
    Flow,
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_uplink_begin(ctx: &TcContext) -> Result<Begun, Lost> {
    let Ok(header) = Header::outer(ctx) else {
        return Ok(Begun::Nothing);
    };
    let Ok(Ports { ports, flags }) = header.ports(ctx) else {
        return Ok(Begun::Nothing);
    };
    let key = header.flow_key(&ports, Direction::Forward);
    if header.protocol == protocol::TCP && promote(&key, flags) {
        return Ok(Begun::Flow);
    }
    let target = match lookup::find(
        header.destination,
        ports.destination_port,
        header.protocol,
        Wildcard::IfLocal,
        &key,
    ) {
        Found::Nothing => {
            trace::nowhere(ctx, &header, &ports, None);
            answer(ctx, &header);
            return Ok(Begun::Nothing);
        }
        Found::NoBackend(service) => {
            // Nobody listens on a published port of the host, so that its stack refuses the packet
            // at once, which a drop would leave the client to find out.
            let lost = Lost::of(service)(Reason::NoBackend);
            count::lost(&lost);
            trace::nowhere(ctx, &header, &ports, Some(&lost));
            answer(ctx, &header);
            return Ok(Begun::Nothing);
        }
        Found::Target(mut target) => {
            if map::endpoint(ifindex(ctx)).is_some() {
                target.near(ports.destination_port);
            }
            target
        }
    };
    if target.backend.address.is_v4() != header.is_v4() {
        // The packet cannot become one of the other family; the host's stack refuses it.
        let lost = Lost::of(target.service)(Reason::Family);
        count::lost(&lost);
        trace::nowhere(ctx, &header, &ports, Some(&lost));
        return Ok(Begun::Nothing);
    }
    // SAFETY: the table holds tc programs only. While an upgrade fills it, the program before this
    // one may know the flow, and begins it otherwise; the packet is as it came.
    unsafe { map::PREVIOUS.tail_call(ctx, PreviousSlot::Ingress as u32) };
    if let Err(reason) = begin(&key, &target, flags_of(ctx, &key, &target)) {
        let lost = Lost::of(target.service)(reason);
        trace::nowhere(ctx, &header, &ports, Some(&lost));
        return Err(lost);
    }
    count::begun(target.service, target.id, |counters| {
        counters.new_flows += 1;
    });
    Ok(Begun::Flow)
}

/// Refuses in the name of a service's own address, which no stack does. Does not return if so.
#[inline(always)]
fn answer(ctx: &TcContext, header: &Header) {
    if map::may_be_vip(header.destination) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_STEPS.tail_call(ctx, StepSlot::Answer as u32) };
    }
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

/// A container asks at its own link, others at an uplink. Its own packets reach other nodes as those of
/// the host do, without a tunnel of ours.
#[inline(always)]
fn flags_of(ctx: &TcContext, key: &FlowKey, target: &Target) -> u8 {
    let mut flags = if target.vip { FLOW_VIP } else { 0 };
    if map::endpoint(ifindex(ctx)).is_some() {
        let own = key.source.is(target.backend.address);
        flags |= if own { FLOW_SELF } else { FLOW_ENDPOINT };
    } else if target.backend.is_remote() {
        flags |= FLOW_REMOTE;
    }
    flags
}

/// Takes a flow that has become a connection to the table of those.
#[inline(always)]
pub(crate) fn promote(key: &FlowKey, flags: Flags) -> bool {
    let (half, connections) = (&map::CT_HALF, map::flows(protocol::TCP));
    let Some(flow) = half.get_ptr(key) else {
        return false;
    };
    // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
    let flow = unsafe { &*flow };
    if !is_connection(flow, flags) || !is_current(flow, map::backend(flow.backend)) {
        return false;
    }
    if flow.flags & FLOW_REMOTE != 0 {
        let entered = connections.insert(key, flow, u64::from(BPF_ANY)).is_ok();
        if entered {
            let _gone = half.remove(key);
        }
        return entered;
    }
    let client = if flow.flags & FLOW_SELF == 0 {
        key.source
    } else {
        key.destination
    };
    let reverse = reverse_key(
        client,
        flow.client_port,
        flow.address,
        flow.port,
        key.protocol,
    );
    let Some(reply) = half.get_ptr(&reverse) else {
        return false;
    };
    // SAFETY: as above; what is recycled while it is copied is another flow's reply, for one packet.
    let reply = unsafe { &*reply };
    let entered = connections
        .insert(&reverse, reply, u64::from(BPF_ANY))
        .is_ok()
        && connections.insert(key, flow, u64::from(BPF_ANY)).is_ok();
    if entered {
        let _gone = (half.remove(&reverse), half.remove(key));
    }
    entered
}

/// Removes what an earlier connection has left, which would be found first.
#[inline(always)]
fn forget(key: &FlowKey) {
    if key.protocol == protocol::TCP {
        let _absent = map::flows(protocol::TCP).remove(key);
    }
}

/// Enters a new flow in both directions, or in the only one that comes by here.
#[inline(always)]
pub(crate) fn begin(key: &FlowKey, target: &Target, flags: u8) -> Result<(), Reason> {
    // First the reverse entry, then the other one in its place: the stack is short.
    let mut flow = Flow {
        address: key.destination,
        last_seen: clock::now(),
        packets: 0,
        bytes: 0,
        service: target.service,
        backend: target.id,
        generation: target.backend.generation,
        port: key.destination_port,
        client_port: key.source_port,
        state: State::New as u8,
        flags,
        exit: 0,
        epoch: 0,
    };
    if flags & FLOW_REMOTE == 0 {
        flow.client_port = reserve(key, target, &flow)?;
    }
    flow.address = target.backend.address;
    flow.port = target.backend.port;
    forget(key);
    map::beginnings(key.protocol)
        .insert(key, &flow, u64::from(BPF_ANY))
        .map_err(|_errno| Reason::FlowTable)
}

/// Enters the reverse flow and returns the client port it is entered under: the client's own
/// unless another frontend of the same backend is already used from it.
#[inline(always)]
fn reserve(key: &FlowKey, target: &Target, entry: &Flow) -> Result<Be16, Reason> {
    let client = if entry.flags & FLOW_SELF == 0 {
        key.source
    } else {
        key.destination
    };
    let backend = &target.backend;
    let mut reverse = reverse_key(
        client,
        key.source_port,
        backend.address,
        backend.port,
        key.protocol,
    );
    for attempt in 0..PORT_ATTEMPTS {
        if claim(&reverse, entry) {
            return Ok(reverse.destination_port);
        }
        reverse.destination_port = alternative_port(key.source_port, key.destination_port, attempt);
    }
    Err(Reason::PortsExhausted)
}

/// Enters `entry` unless the key belongs to another flow that is still in use.
#[inline(always)]
fn claim(key: &FlowKey, entry: &Flow) -> bool {
    if key.protocol == protocol::TCP
        && let Some(holder) = map::flows(protocol::TCP).get_ptr(key)
    {
        // SAFETY: as below.
        if !is_free(unsafe { &*holder }, entry) {
            return false;
        }
        forget(key);
    }
    let flows = map::beginnings(key.protocol);
    if flows.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    let Some(holder) = flows.get_ptr(key) else {
        return flows.insert(key, entry, u64::from(BPF_ANY)).is_ok();
    };
    // SAFETY: as for the forward flow; a recycled value costs at worst another source port.
    let free = is_free(unsafe { &*holder }, entry);
    free && flows.insert(key, entry, u64::from(BPF_ANY)).is_ok()
}

/// Whether `entry` may take the place of `holder`.
#[inline(always)]
fn is_free(holder: &Flow, entry: &Flow) -> bool {
    is_same_flow(holder, entry.address, entry.port, entry.client_port)
        || State::from_raw(holder.state).is_ending()
        || !is_current(holder, map::backend(holder.backend))
}
