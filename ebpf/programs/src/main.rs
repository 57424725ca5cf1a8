//! The eBPF programs of the data plane: one object.
//!
//! Each attached program is a stub ([`entry`]) that tail-calls the real one through a pinned table,
//! so that an upgrade replaces programs under running traffic. A program parses, looks up, asks
//! `abi` for the decision, and acts.
//!
//! **Invariants.** Fail open: a packet or socket call that is not understood goes on untouched, as
//! if the program were not there; only a packet of a published port that can go nowhere is dropped, and
//! a frame in clear text of a network that is encrypted ([`sealed`]).
//! What endpoints send is the exception: [`endpoint_ingress`] lets through what it can check.
//! Runs on 5.10: no `bpf_loop`, no atomics with a result, no helper newer than that but in programs
//! the loader may leave out.
#![no_std]
#![no_main]

mod bind;
mod clock;
mod connect;
mod count;
mod endpoint_answer;
mod endpoint_clamp;
mod endpoint_ingress;
mod endpoint_names;
mod endpoint_neighbour;
mod endpoint_reply;
mod endpoint_vouch;
mod entry;
mod frame;
mod hairpin;
mod icmp;
mod learn;
mod lookup;
mod map;
mod packet;
mod peer;
mod remote;
mod reply;
mod rewrite;
mod sctp;
mod sealed;
mod sendmsg;
mod shortcut;
mod socket;
mod trace;
mod tunnel_admit;
mod tunnel_arrive;
mod uplink_begin;
mod uplink_egress;
mod uplink_front;
mod uplink_ingress;
mod uplink_large;

/// Unreachable: the programs contain nothing that panics, and the verifier would refuse it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
