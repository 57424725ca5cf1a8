//! The answer of a container to a connection that comes from another node: the segments that it asks
//! for must fit into the tunnel by which they come.

use abi::map::{Reason, StepSlot};
use abi::packet::{MAX_TCP_OPTIONS, TCP_MIN_LEN, TcpOption, checksum_offset, tcp_option};
use abi::protocol;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::packet::{Header, Unknown, load};
use crate::rewrite::{Failed, vouch};
use crate::shortcut::TCP_OFFSET;
use crate::{count, map};

#[classifier]
pub(crate) fn endpoint_clamp(ctx: TcContext) -> i32 {
    if let Ok(Some(segment)) = asked(&ctx)
        && clamp(&ctx, &segment).is_err()
    {
        count::reason(Reason::Rewrite);
        return TC_ACT_SHOT;
    }
    // What the host has asked by way of another node leaves by no uplink.
    if Header::outer(&ctx).is_ok_and(|header| map::is_local(&header.destination)) {
        // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
        unsafe { map::JUMP_STEPS.tail_call(&ctx, StepSlot::Reply as u32) };
    }
    vouch(&ctx);
    TC_ACT_UNSPEC
}

/// The largest segment that the container asks for.
struct Segment {
    /// Where the number is, from TCP's header on.
    at: u32,
    transport: u32,
    asked: u16,
    fits: u16,
}

/// `None` if it asks for nothing that does not fit.
#[inline(always)]
fn asked(ctx: &TcContext) -> Result<Option<Segment>, Unknown> {
    let header = Header::outer(ctx)?;
    if header.protocol != protocol::TCP {
        return Err(Unknown);
    }
    let fits = map::arriving().segment(header.is_v4());
    let length: u8 = load(ctx, header.transport + TCP_OFFSET)?;
    let end = u32::from(length >> 4) * 4;
    let mut at = TCP_MIN_LEN;
    for _ in 0..MAX_TCP_OPTIONS {
        if at + 4 > end {
            break;
        }
        let [kind, length]: [u8; 2] = load(ctx, header.transport + at)?;
        match tcp_option(kind, length) {
            TcpOption::End => break,
            TcpOption::Skip(length) => at += length,
            TcpOption::Segment => {
                let asked = u16::from_be(load(ctx, header.transport + at + 2)?);
                return Ok((fits != 0 && asked > fits).then_some(Segment {
                    at: at + 2,
                    transport: header.transport,
                    asked,
                    fits,
                }));
            }
        }
    }
    Ok(None)
}

#[inline(always)]
fn clamp(ctx: &TcContext, segment: &Segment) -> Result<(), Failed> {
    let checksum = segment.transport + checksum_offset(protocol::TCP).ok_or(Failed)?;
    let (from, to) = (segment.asked.to_be(), segment.fits.to_be());
    // The checksum is of words, and the number may lie across two of them.
    let (old, new) = if segment.at & 1 == 0 {
        (from, to)
    } else {
        (from.swap_bytes(), to.swap_bytes())
    };
    ctx.l4_csum_replace(checksum as usize, old.into(), new.into(), 2)?;
    Ok(ctx.store((segment.transport + segment.at) as usize, &to, 0)?)
}
