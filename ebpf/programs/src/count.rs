//! Counters. A run owns its CPU's slot, but for a softirq that interrupts a socket hook: rare, and
//! it loses one increment.

use abi::dns::Answered;
use abi::endpoint::Refusal;
use abi::map::{Counters, Reason};

use crate::map;

/// Counts a packet that was dropped or could not be served.
#[inline(always)]
pub(crate) fn reason(reason: Reason) {
    if let Some(slot) = map::drop_counter(reason as u32) {
        // SAFETY: the kernel returned a valid per-CPU slot, which only this CPU writes.
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

/// Applies `add` to the service's counters, if the service still exists.
#[inline(always)]
pub(crate) fn service(id: u32, add: impl FnOnce(&mut Counters)) {
    if let Some(slot) = map::counters(id) {
        // SAFETY: as in `reason`; the reference ends with the call.
        add(unsafe { &mut *slot });
    }
}
