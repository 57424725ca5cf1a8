//! The time of `bpf_ktime_get_ns`, asked for once a tick: a few milliseconds are nothing to what it is
//! compared with, and asking costs as much as a look-up in a table of connections.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};

use crate::map;

/// What a CPU read last.
pub(crate) struct Clock {
    tick: u64,
    now: u64,
}

/// Nanoseconds, of the beginning of this tick or later.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions. It is two instructions, and no call.
    let tick = unsafe { bpf_jiffies64() };
    let Some(clock) = map::clock() else {
        return asked();
    };
    // SAFETY: a per-CPU slot, which only this CPU writes, and no reference to it lives on.
    let clock = unsafe { &mut *clock };
    if clock.tick != tick {
        *clock = Clock { tick, now: asked() };
    }
    clock.now
}

#[inline(always)]
fn asked() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
