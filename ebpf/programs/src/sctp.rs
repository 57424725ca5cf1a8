//! New ports for SCTP packets; `abi::sctp` has the arithmetic of their checksum.
//!
//! The arithmetic is a program of its own, behind the tail-call table: inside the others the verifier
//! would go through it anew for each way that leads there, a million instructions in all. What it
//! needs travels in the packet's control block, which is the program's for as long as it runs.

use core::ptr::{addr_of, addr_of_mut};

use abi::map::{FragmentPorts, Reason, TcSlot};
use abi::packet::Fragment;
use abi::sctp;
use aya_ebpf::bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::hairpin;
use crate::packet::{Header, Unknown, load};
use crate::rewrite::Failed;
use crate::{count, map};

/// A device may have summed the packet for the receiver (`CHECKSUM_COMPLETE`). Changes of TCP's and
/// UDP's ports are balanced in that sum by those of their checksums, SCTP's are not.
const STORE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// The control block's words.
const DIFFERENCE: usize = 0;
const LENGTH: usize = 1;
const TRANSPORT: usize = 2;
const TURNED: usize = 3;

/// Changes the ports. Does not return where it changed them: the checksum's program ends the run.
///
/// The first fragment of a packet fails if its ports change: the checksum depends on the length of
/// the whole packet, which only the last fragment tells. SCTP itself cuts messages to the path's
/// MTU (RFC 9260, 6.9), so that fragments are rare.
#[inline(always)]
pub(crate) fn ports(
    ctx: &TcContext,
    header: &Header,
    old: &FragmentPorts,
    new: &FragmentPorts,
) -> Result<(), Failed> {
    let difference = old.word() ^ new.word();
    if difference == 0 {
        return Ok(());
    }
    let length = header.end.wrapping_sub(header.transport);
    if !matches!(header.fragment, Fragment::Whole) || !sctp::is_length(length) {
        return Err(Failed);
    }
    ctx.store(header.transport as usize, &new.word(), STORE)?;
    set(ctx, DIFFERENCE, difference);
    set(ctx, LENGTH, length);
    set(ctx, TRANSPORT, header.transport);
    // SAFETY: the table holds tc programs only, and nothing here needs to be dropped.
    unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::Sctp as u32) };
    Err(Failed)
}

/// Tells the checksum's program whether the packet goes back out of the interface it came from. Set
/// before a packet's ports are changed: what the control block has before is anybody's.
#[inline(always)]
pub(crate) fn set_turned(ctx: &TcContext, turned: bool) {
    set(ctx, TURNED, u32::from(turned));
}

#[classifier]
pub(crate) fn sctp_checksum(ctx: TcContext) -> i32 {
    let (difference, length) = (get(&ctx, DIFFERENCE), get(&ctx, LENGTH));
    match change(&ctx, difference, length, get(&ctx, TRANSPORT)) {
        Ok(()) if get(&ctx, TURNED) != 0 => hairpin::back(&ctx),
        Ok(()) => TC_ACT_UNSPEC,
        Err(Failed) => {
            count::reason(Reason::Rewrite);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn change(ctx: &TcContext, difference: u32, length: u32, transport: u32) -> Result<(), Failed> {
    let at = transport + sctp::CHECKSUM;
    let checksum: u32 = load(ctx, at)?;
    if sctp::is_left_open(checksum) {
        return Ok(());
    }
    let checksum = checksum ^ sctp::change(difference, length);
    Ok(ctx.store(at as usize, &checksum, STORE)?)
}

impl From<Unknown> for Failed {
    #[inline(always)]
    fn from(_unknown: Unknown) -> Self {
        Self
    }
}

#[inline(always)]
fn set(ctx: &TcContext, at: usize, value: u32) {
    // SAFETY: `skb` is the program's context, whose control block tc programs may write by words;
    // `at` is one of the constants above, below its length of five.
    unsafe {
        addr_of_mut!((*ctx.skb.skb).cb)
            .cast::<u32>()
            .add(at)
            .write_volatile(value);
    }
}

#[inline(always)]
fn get(ctx: &TcContext, at: usize) -> u32 {
    // SAFETY: as in `set`.
    unsafe {
        addr_of!((*ctx.skb.skb).cb)
            .cast::<u32>()
            .add(at)
            .read_volatile()
    }
}
