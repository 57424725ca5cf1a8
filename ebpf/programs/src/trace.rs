//! Telling decisions to whoever traces; `abi::trace` says what.

use abi::map::{Flow, FragmentPorts, NO_SERVICE};
use abi::trace::{Decision, Ends, Event};
use abi::{Address, Be16};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::frame::Frame;
use crate::map;
use crate::packet::Header;

/// What a program decided about a packet or a call.
pub(crate) struct Said {
    pub decision: Decision,
    /// A `Reason`, where something is lost.
    pub reason: u8,
    pub service: u32,
    pub to: Address,
    pub to_port: Be16,
    pub length: u32,
}

impl Said {
    /// Of something that leads nowhere.
    #[inline(always)]
    pub(crate) fn nowhere(decision: Decision, lost: Option<&Lost>, length: u32) -> Self {
        Self {
            decision,
            reason: lost.map_or(0, |lost| lost.reason as u8),
            service: lost.map_or(NO_SERVICE, |lost| lost.service),
            to: Address::ANY6,
            to_port: Be16::ZERO,
            length,
        }
    }
}

/// Tells of a packet that follows a flow.
#[inline(always)]
pub(crate) fn flow(
    ctx: &impl Frame,
    header: &Header,
    ports: &FragmentPorts,
    flow: &Flow,
    decision: Decision,
) {
    let said = || Said {
        decision,
        reason: 0,
        service: flow.service,
        to: flow.address,
        to_port: flow.port,
        length: ctx.length(),
    };
    tell(|| ends(header, ports), said);
}

/// Tells of a packet that is nobody's, or that nobody serves.
#[inline(always)]
pub(crate) fn nowhere(
    ctx: &TcContext,
    header: &Header,
    ports: &FragmentPorts,
    lost: Option<&Lost>,
) {
    let decision = if lost.is_some() {
        Decision::Lost
    } else {
        Decision::Miss
    };
    let said = || Said::nowhere(decision, lost, ctx.len());
    tell(|| ends(header, ports), said);
}

#[inline(always)]
fn ends(header: &Header, ports: &FragmentPorts) -> Ends {
    Ends {
        source: header.source,
        destination: header.destination,
        source_port: ports.source_port,
        destination_port: ports.destination_port,
        protocol: header.protocol,
    }
}

/// Nobody asks, most of the time: `ends` and `said` are made only if somebody does.
#[inline(always)]
pub(crate) fn tell(ends: impl FnOnce() -> Ends, said: impl FnOnce() -> Said) {
    let Some(filter) = map::trace_filter() else {
        return;
    };
    if filter.until == 0 {
        return;
    }
    let (ends, said) = (ends(), said());
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > filter.until || !filter.wants(&ends, (said.to, said.to_port), said.service) {
        return;
    }
    // SAFETY: as above.
    if filter.one_in > 1 && unsafe { bpf_get_prandom_u32() } % filter.one_in != 0 {
        return;
    }
    let Some(mut room) = map::TRACE_EVENTS.reserve::<Event>(0) else {
        if let Some(lost) = map::trace_lost() {
            // SAFETY: a per-CPU slot, which only this CPU writes.
            unsafe { *lost += 1 };
        }
        return;
    };
    room.write(Event {
        at: now,
        source: ends.source,
        destination: ends.destination,
        to: said.to,
        service: said.service,
        length: said.length,
        source_port: ends.source_port,
        destination_port: ends.destination_port,
        to_port: said.to_port,
        protocol: ends.protocol,
        decision: said.decision as u8,
        reason: said.reason,
        pad: [0; 7],
    });
    room.submit(0);
}
