//! Tests of the eBPF data plane: frame by frame, and under real traffic. They need root and a bpffs,
//! and fail without.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod answer;
mod arrive;
mod balance;
mod bridged;
mod cases;
mod cost;
mod counters;
mod endpoint;
mod flood;
mod frame;
mod front;
mod guard;
mod hairpin;
mod instance;
mod live;
mod load;
mod nodes;
mod oracle;
mod packet;
mod programs;
mod range;
mod remote;
mod sealed;
mod severance;
mod shortcut;
mod states;
mod tags;
mod together;
mod topology;
mod trace;
mod traps;
mod upgrade;
mod verifier;
mod vip;
mod ways;
