//! Answers in the name of a service's own address, at the link of the container that asks: an echo
//! reply, and a refusal of what nobody serves.
//!
//! No interface has the address, so that nobody else says a word, and who asks would wait for a
//! timeout. A packet becomes its own answer and goes back where it came from; only there, because what
//! came by an uplink may be in anybody's name.

use abi::answer::{
    self, ERROR_LEN4, ERROR_LEN6, Quote4, Quote6, TCP_LEN, Tcp, ipv4, ipv6, reset, unreachable4,
    unreachable6,
};
use abi::map::Reason;
use abi::packet::{ETHERNET_LEN, Fragment, IPV4_MIN_LEN, IPV6_LEN, checksum_offset};
use abi::protocol;
use aya_ebpf::bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_skb_change_tail;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::endpoint_ingress::ifindex;
use crate::packet::{Header, Unknown, load};
use crate::rewrite::{Failed, Side, address};
use crate::{count, hairpin, lookup, map};

pub(crate) const FIXED: u64 = BPF_F_RECOMPUTE_CSUM as u64;

#[classifier]
pub(crate) fn endpoint_answer(ctx: TcContext) -> i32 {
    let Ok(header) = asked(&ctx) else {
        return TC_ACT_UNSPEC;
    };
    match try_answer(&ctx, &header) {
        Ok(true) => hairpin::back(&ctx),
        Ok(false) => TC_ACT_SHOT,
        Err(Failed) => {
            count::reason(Reason::Rewrite);
            TC_ACT_SHOT
        }
    }
}

/// A container's packet to a service's address.
#[inline(always)]
fn asked(ctx: &TcContext) -> Result<Header, Unknown> {
    let header = Header::outer(ctx)?;
    let ours = map::endpoint(ifindex(ctx)).is_some() && lookup::is_vip(header.destination);
    if ours { Ok(header) } else { Err(Unknown) }
}

/// Makes the packet its own answer; false where it has none.
#[inline(always)]
fn try_answer(ctx: &TcContext, header: &Header) -> Result<bool, Failed> {
    if matches!(header.fragment, Fragment::Later) {
        return Ok(false);
    }
    let answered = match (header.protocol, header.is_v4()) {
        (protocol::ICMP, true) | (protocol::ICMPV6, false) => echo(ctx, header)?,
        (protocol::TCP, _) => refuse_segment(ctx, header)?,
        (_, true) => refuse4(ctx, header)?,
        (_, false) => refuse6(ctx, header)?,
    };
    if answered {
        hairpin::turn(ctx).map_err(|_reason| Failed)?;
    }
    Ok(answered)
}

#[inline(always)]
fn echo(ctx: &TcContext, header: &Header) -> Result<bool, Failed> {
    let (request, reply) = answer::echo(header.is_v4());
    let kind: u16 = load(ctx, header.transport)?;
    if kind != request || !matches!(header.fragment, Fragment::Whole) {
        return Ok(false);
    }
    let checksum = header.transport + checksum_offset(header.protocol).ok_or(Failed)?;
    ctx.l4_csum_replace(checksum as usize, request.into(), reply.into(), 2)?;
    ctx.store(header.transport as usize, &reply, 0)?;
    // What is changed twice adds up to the same: no other checksum changes.
    let pseudo = if header.is_v4() {
        None
    } else {
        Some((checksum, 0))
    };
    address(ctx, header, Side::Source, header.destination, pseudo)?;
    address(ctx, header, Side::Destination, header.source, pseudo)?;
    Ok(true)
}

#[inline(always)]
fn refuse_segment(ctx: &TcContext, header: &Header) -> Result<bool, Failed> {
    let segment: Tcp = load(ctx, header.transport)?;
    let length = header.end.wrapping_sub(header.transport);
    let Some(reset) = reset(header.source, header.destination, &segment, length) else {
        return Ok(false);
    };
    let at = begin(ctx, header, protocol::TCP, TCP_LEN)?;
    ctx.store(at as usize, &reset, FIXED)?;
    Ok(true)
}

#[inline(always)]
fn refuse4(ctx: &TcContext, header: &Header) -> Result<bool, Failed> {
    // An error quotes a header without options, and what follows it.
    if header.transport != header.network + IPV4_MIN_LEN {
        return Ok(false);
    }
    let quote: Quote4 = load(ctx, header.network)?;
    let at = begin(ctx, header, protocol::ICMP, ERROR_LEN4)?;
    ctx.store(at as usize, &unreachable4(header.protocol, &quote), FIXED)?;
    ctx.store(at as usize + 8, &quote, FIXED)?;
    Ok(true)
}

#[inline(always)]
fn refuse6(ctx: &TcContext, header: &Header) -> Result<bool, Failed> {
    if header.transport != header.network + IPV6_LEN {
        return Ok(false);
    }
    let quote: Quote6 = load(ctx, header.network)?;
    let at = begin(ctx, header, protocol::ICMPV6, ERROR_LEN6)?;
    let error = unreachable6(header.source, header.destination, header.protocol, &quote);
    ctx.store(at as usize, &error, FIXED)?;
    ctx.store(at as usize + 8, &quote, FIXED)?;
    Ok(true)
}

/// Makes the packet one of `length` bytes behind a header of its own, and returns where they go.
#[inline(always)]
pub(crate) fn begin(
    ctx: &TcContext,
    header: &Header,
    number: u8,
    length: u32,
) -> Result<u32, Failed> {
    let (from, to) = (header.destination, header.source);
    let at = if header.is_v4() {
        ETHERNET_LEN + IPV4_MIN_LEN
    } else {
        ETHERNET_LEN + IPV6_LEN
    };
    // SAFETY: the context is valid; the helper changes the packet only where it succeeds.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, at + length, 0) } != 0 {
        return Err(Failed);
    }
    let network = header.network as usize;
    if header.is_v4() {
        ctx.store(network, &ipv4(from, to, number, length), FIXED)?;
    } else {
        ctx.store(network, &ipv6(from, to, number, length), FIXED)?;
    }
    Ok(at)
}
