//! Replies of backends: they get the address the client asked.

use abi::Address;
use abi::flow::State;
use abi::map::{Direction, FLOW_SELF, Flow, FlowKey, FragmentPorts, Reason};
use abi::packet::{Flags, Fragment};
use abi::trace::Decision;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::packet::Header;
use crate::rewrite::{Failed, Side, Translation, translate};
use crate::{clock, count, map, shortcut, trace};

/// Translates a reply back, at an uplink or at the link of the container that asked, where a backend may
/// have asked itself. That is read anew where it matters: the verifier would go through all that
/// follows for either answer.
#[inline(always)]
pub(crate) fn reply(
    ctx: &TcContext,
    header: &Header,
    ports: &FragmentPorts,
    flow: &mut Flow,
    flags: Flags,
    at_link: bool,
) -> Result<(), Lost> {
    let is_own = |flow: &Flow| at_link && flow.flags & FLOW_SELF != 0;
    let length = u64::from(ctx.len());
    flow.last_seen = clock::now();
    flow.packets += 1;
    flow.bytes += length;
    let (from, client_port) = (State::from_raw(flow.state), flow.client_port);
    let state = from.next(Direction::Reverse, flags);
    flow.state = state as u8;
    if from as u8 != state as u8 {
        let client = if is_own(flow) {
            header.source
        } else {
            header.destination
        };
        tell_forward(header.protocol, client, flow, flags);
    }
    shortcut::crossed_outward(ctx, header.protocol, flow, flags);
    count::traffic(flow.service, flow.backend, |counters| {
        counters.packets_out += 1;
        counters.bytes_out += length;
    });
    trace::flow(ctx, header, ports, flow, Decision::Reply);
    if matches!(header.fragment, Fragment::First) {
        map::remember_fragment(&header.fragment_key(), *ports);
    }
    let new = Translation {
        side: Side::Source,
        address: flow.address,
        turned: is_own(flow),
        ports: FragmentPorts {
            source_port: flow.port,
            destination_port: client_port,
        },
    };
    translate(ctx, header, ports, &new).map_err(|Failed| Lost::of(flow.service)(Reason::Rewrite))
}

/// What changed the state changes that of the flow's other entry, which is the one ingress judges, and
/// knows what the client has done.
#[inline(always)]
fn tell_forward(protocol: u8, client: Address, reverse: &Flow, flags: Flags) {
    let key = FlowKey {
        source: client,
        destination: reverse.address,
        source_port: reverse.client_port,
        destination_port: reverse.port,
        protocol,
        direction: Direction::Forward as u8,
        pad: 0,
    };
    if let Some(forward) = map::flow(&key) {
        // SAFETY: a live or recycled LRU value; one byte is read and written, and any is valid.
        let state = unsafe { &mut (*forward).state };
        *state = State::from_raw(*state).next(Direction::Reverse, flags) as u8;
    }
}
