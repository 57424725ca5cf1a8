//! Counters. A run owns its CPU's slot, but for a softirq that interrupts a socket hook: rare, and
//! it loses one increment.

use abi::dns::Answered;
use abi::endpoint::Refusal;
use abi::map::{Counters, DropKey, NO_SERVICE, Reason};

use crate::map;

/// Counts a packet that was dropped or could not be served.
#[inline(always)]
pub(crate) fn reason(reason: Reason) {
    if let Some(slot) = map::drop_counter(reason as u32) {
        // SAFETY: the kernel returned a valid per-CPU slot, which only this CPU writes.
        unsafe { *slot += 1 };
    }
}

/// A packet that must be dropped, or cannot be served.
pub(crate) struct Lost {
    /// [`NO_SERVICE`] while it is not known.
    pub service: u32,
    pub reason: Reason,
}

impl Lost {
    #[inline(always)]
    pub(crate) fn of(service: u32) -> impl Fn(Reason) -> Self {
        move |reason| Self { service, reason }
    }
}

/// Counts it for its service as well.
#[inline(always)]
pub(crate) fn lost(lost: &Lost) {
    reason(lost.reason);
    if lost.service == NO_SERVICE {
        return;
    }
    let key = DropKey {
        service: lost.service,
        reason: lost.reason as u32,
    };
    if let Some(slot) = map::service_drop_counter(&key) {
        // SAFETY: as in `reason`.
        unsafe { *slot += 1 };
    }
}

/// Counts a packet that an endpoint should not have sent.
#[inline(always)]
pub(crate) fn refusal(refusal: Refusal) {
    if let Some(slot) = map::refusal_counter(refusal as u32) {
        // SAFETY: as in `reason`.
        unsafe { *slot += 1 };
    }
}

/// Counts a query that was answered.
#[inline(always)]
pub(crate) fn answered(what: Answered) {
    if let Some(slot) = map::answer_counter(what as u32) {
        // SAFETY: as in `reason`.
        unsafe { *slot += 1 };
    }
}

/// Applies `add` to the counters of a service's backend, if it still is one.
#[inline(always)]
pub(crate) fn traffic(service: u32, backend: u32, add: impl FnOnce(&mut Counters)) {
    if let Some(slot) = map::traffic(service, backend) {
        // SAFETY: as in `reason`; the reference ends with the call.
        add(unsafe { &mut *slot });
    }
}

/// As [`traffic`], of a flow that begins.
#[inline(always)]
pub(crate) fn begun(service: u32, backend: u32, add: impl FnOnce(&mut Counters)) {
    map::make_traffic(service, backend);
    traffic(service, backend, add);
}
