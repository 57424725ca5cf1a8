//! Packets that are too long for the way to the node of their backend: their sender is told what fits,
//! as by a router with a link of that MTU on the way. What may be cut up goes on, and the tunnel cuts; over
//! IPv6 it does not (`ip6_fragment` obeys nobody but the sender's socket), so that all are told.

use abi::answer::{LONG_ERROR_LEN4, LONG_ERROR_LEN6, LongQuote4, LongQuote6, too_long4, too_long6};
use abi::map::{Direction, NO_SERVICE, Reason};
use abi::packet::may_be_cut;
use abi::protocol;
use abi::tunnel::{REMOTE_V6, Remote};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::Lost;
use crate::endpoint_answer::{FIXED, begin};
use crate::hairpin::{self, Way};
use crate::packet::{Header, Ipv4, NETWORK, load, near};
use crate::rewrite::Failed;
use crate::uplink_ingress::verdict;
use crate::{count, map, remote};

#[classifier]
pub(crate) fn uplink_large(ctx: TcContext) -> i32 {
    verdict(&ctx, try_uplink_large(&ctx))
}

/// An error is a packet that must be dropped.
#[inline(always)]
fn try_uplink_large(ctx: &TcContext) -> Result<Way, Lost> {
    let nobodys = || Lost::of(NO_SERVICE)(Reason::TooLong);
    let header = Header::outer(ctx).map_err(|_unknown| nobodys())?;
    let ports = header.ports(ctx).map_err(|_unknown| nobodys())?;
    let key = header.flow_key(&ports.ports, Direction::Forward);
    let flow = map::flow(&key).ok_or_else(nobodys)?;
    // SAFETY: a live or recycled LRU value; fields are integers, valid in any state.
    let flow = unsafe { &*flow };
    let lost = Lost::of(flow.service);
    let remote = map::remote(flow.backend).ok_or_else(|| lost(Reason::NoBackend))?;
    if remote.flags & REMOTE_V6 == 0
        && header.is_v4()
        && near::<Ipv4, NETWORK>(ctx).is_ok_and(|ip| may_be_cut(u16::from_be(ip.fragment)))
    {
        return remote::encapsulate(ctx, &header, &ports.ports, remote).map_err(lost);
    }
    if header.is_v4() {
        tell4(ctx, &header, remote)
    } else {
        tell6(ctx, &header, remote)
    }
    .map_err(|Failed| lost(Reason::Rewrite))?;
    count::lost(&lost(Reason::TooLong));
    hairpin::turn(ctx).map_err(lost)?;
    Ok(Way::Back)
}

/// Makes the packet the error about itself.
#[inline(always)]
fn tell4(ctx: &TcContext, header: &Header, remote: &Remote) -> Result<(), Failed> {
    let quote: LongQuote4 = load(ctx, header.network)?;
    let at = begin(ctx, header, protocol::ICMP, LONG_ERROR_LEN4)? as usize;
    ctx.store(at, &too_long4(remote.mtu, &quote), FIXED)?;
    Ok(ctx.store(at + 8, &quote, FIXED)?)
}

#[inline(always)]
fn tell6(ctx: &TcContext, header: &Header, remote: &Remote) -> Result<(), Failed> {
    let quote: LongQuote6 = load(ctx, header.network)?;
    let at = begin(ctx, header, protocol::ICMPV6, LONG_ERROR_LEN6)? as usize;
    let error = too_long6(header.source, header.destination, remote.mtu, &quote);
    ctx.store(at, &error, FIXED)?;
    Ok(ctx.store(at + 8, &quote, FIXED)?)
}
