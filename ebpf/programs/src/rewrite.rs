//! Changing addresses and ports, with checksums that hold for every kind of packet: complete,
//! partial (to be finished by the device) and verified by the device.
//!
//! Only the kernel's checksum helpers know which kind a packet is. A transport's checksum computed
//! here and stored is wrong for partial ones, which shows only where one device offloads and another
//! does not. That of IPv4's header is always complete.

use core::ptr::addr_of;

use abi::checksum::Change;
use abi::map::FragmentPorts;
use abi::packet::{Fragment, checksum_offset};
use abi::{Address, Be16, MARK_PUBLISHED, protocol};
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::programs::TcContext;

use crate::frame::Frame;
use crate::packet::{Header, Ipv4, Ipv6, NETWORK, direct, put_ports};
use crate::sctp;

/// Offsets within the IP headers.
const IPV4_CHECKSUM: u32 = 10;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;

/// The packet could not be changed; it may be half rewritten and must not go on.
pub(crate) struct Failed;

impl From<i64> for Failed {
    #[inline(always)]
    fn from(_code: i64) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// What the packet gets: an address on one side, mostly, and both ports.
pub(crate) struct Translation {
    pub side: Side,
    pub address: Address,
    /// The other side gets the address that this one had.
    pub turned: bool,
    pub ports: FragmentPorts,
}

/// Marks the packet as one of a published port, for the host's packet filter.
#[inline(always)]
pub(crate) fn vouch(ctx: &TcContext) {
    // SAFETY: `skb` is the program's context; the field is an aligned u32 that tc programs may read.
    let mark = unsafe { addr_of!((*ctx.skb.skb).mark).read_volatile() };
    ctx.set_mark(mark | MARK_PUBLISHED);
}

/// Where the checksum of a packet's upper layer is that covers the addresses, and the flags that it is
/// changed with. A later fragment has neither ports nor a checksum; the first one's covers all.
#[inline(always)]
fn checksum(header: &Header) -> Option<(u32, u64)> {
    let offset = match header.fragment {
        Fragment::Later => return None,
        _ => checksum_offset(header.protocol)?,
    };
    let flags = match header.protocol {
        // Zero says "no checksum" in UDP over IPv4: it stays zero, and none becomes zero.
        protocol::UDP => u64::from(BPF_F_MARK_MANGLED_0),
        _ => 0,
    };
    Some((header.transport + offset, flags))
}

/// Translates a packet whose ports are `old` now.
#[inline(always)]
pub(crate) fn translate(
    ctx: &TcContext,
    header: &Header,
    old: &FragmentPorts,
    new: &Translation,
) -> Result<(), Failed> {
    translate_summed(ctx, header, old, new)?;
    if header.protocol == protocol::SCTP && !matches!(header.fragment, Fragment::Later) {
        sctp::ports(ctx, header, old, &new.ports)?;
    }
    Ok(())
}

/// As [`translate`], but for the ports of SCTP.
#[inline(always)]
pub(crate) fn translate_summed(
    ctx: &impl Frame,
    header: &Header,
    old: &FragmentPorts,
    new: &Translation,
) -> Result<(), Failed> {
    let (had, other) = match new.side {
        Side::Source => (header.source, header.destination),
        Side::Destination => (header.destination, header.source),
    };
    let mut change = Change::of_addresses(had, new.address);
    if new.turned {
        change = change.and(Change::of_addresses(other, had));
    }
    let checksum = checksum(header);
    if let Some((checksum, flags)) = checksum {
        // Calls come first: none of them leaves the places known where the packet is written below.
        ctx.sum(checksum, flags, change, (old.word(), new.ports.word()))?;
    }
    if header.is_v4() {
        addresses4(ctx, header, new, change)?;
    } else {
        addresses6(ctx, header, new, change)?;
    }
    if checksum.is_some() {
        put_ports(ctx, header.transport, &new.ports)?;
    }
    Ok(())
}

/// Writes the addresses of the outer header, and its checksum. That balances them in a sum that a
/// device made of the packet (`CHECKSUM_COMPLETE`).
#[inline(always)]
fn addresses4(
    ctx: &impl Frame,
    header: &Header,
    new: &Translation,
    change: Change,
) -> Result<(), Failed> {
    // SAFETY: the packet has the header there, and is ours to write; nothing else leads there.
    let ip = unsafe { &mut *direct::<Ipv4, NETWORK>(ctx).ok_or(Failed)? };
    ip.checksum = change.apply(ip.checksum);
    match new.side {
        Side::Source => {
            ip.source = new.address.0[3];
            if new.turned {
                ip.destination = header.source.0[3];
            }
        }
        Side::Destination => {
            ip.destination = new.address.0[3];
            if new.turned {
                ip.source = header.destination.0[3];
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn addresses6(
    ctx: &impl Frame,
    header: &Header,
    new: &Translation,
    change: Change,
) -> Result<(), Failed> {
    ctx.balance(change);
    // SAFETY: as in `addresses4`.
    let ip = unsafe { &mut *direct::<Ipv6, NETWORK>(ctx).ok_or(Failed)? };
    match new.side {
        Side::Source => {
            ip.source = new.address.0;
            if new.turned {
                ip.destination = header.source.0;
            }
        }
        Side::Destination => {
            ip.destination = new.address.0;
            if new.turned {
                ip.source = header.destination.0;
            }
        }
    }
    Ok(())
}

/// Replaces one address of the header. `pseudo` is the offset, with flags, of an upper-layer
/// checksum that covers the address.
#[inline(always)]
pub(crate) fn address(
    ctx: &TcContext,
    header: &Header,
    side: Side,
    new: Address,
    pseudo: Option<(u32, u64)>,
) -> Result<(), Failed> {
    let old = match side {
        Side::Source => header.source,
        Side::Destination => header.destination,
    };
    if header.is_v4() {
        let offset = match side {
            Side::Source => IPV4_SOURCE,
            Side::Destination => IPV4_DESTINATION,
        };
        address4(ctx, header.network, offset, old.0[3], new.0[3], pseudo)
    } else {
        let offset = match side {
            Side::Source => IPV6_SOURCE,
            Side::Destination => IPV6_DESTINATION,
        };
        address6(ctx, header.network + offset, old, new, pseudo)
    }
}

#[inline(always)]
fn address4(
    ctx: &TcContext,
    network: u32,
    offset: u32,
    old: u32,
    new: u32,
    pseudo: Option<(u32, u64)>,
) -> Result<(), Failed> {
    let (from, to) = (u64::from(old), u64::from(new));
    if let Some((checksum, flags)) = pseudo {
        let flags = flags | u64::from(BPF_F_PSEUDO_HDR) | 4;
        ctx.l4_csum_replace(checksum as usize, from, to, flags)?;
    }
    ctx.l3_csum_replace((network + IPV4_CHECKSUM) as usize, from, to, 4)?;
    Ok(ctx.store((network + offset) as usize, &new, 0)?)
}

#[inline(always)]
fn address6(
    ctx: &TcContext,
    offset: u32,
    old: Address,
    new: Address,
    pseudo: Option<(u32, u64)>,
) -> Result<(), Failed> {
    if let Some((checksum, flags)) = pseudo {
        let change = Change::of_addresses(old, new);
        let flags = flags | u64::from(BPF_F_PSEUDO_HDR);
        ctx.l4_csum_replace(checksum as usize, 0, change.0.into(), flags)?;
    }
    // As in `Frame::balance`.
    Ok(ctx.store(offset as usize, &new.0, u64::from(BPF_F_RECOMPUTE_CSUM))?)
}

/// Replaces a quoted IPv6 address, which the ICMPv6 checksum at `checksum` covers as data.
#[inline(always)]
pub(crate) fn quoted_address6(
    ctx: &TcContext,
    header: &Header,
    side: Side,
    new: Address,
    checksum: u32,
) -> Result<(), Failed> {
    let (offset, old) = match side {
        Side::Source => (IPV6_SOURCE, header.source),
        Side::Destination => (IPV6_DESTINATION, header.destination),
    };
    let change = Change::of_addresses(old, new);
    ctx.l4_csum_replace(checksum as usize, 0, change.0.into(), 0)?;
    Ok(ctx.store((header.network + offset) as usize, &new.0, 0)?)
}

/// Replaces a port at `offset`, which the checksum at `checksum.0` covers as data.
#[inline(always)]
pub(crate) fn port(
    ctx: &TcContext,
    offset: u32,
    old: Be16,
    new: Be16,
    checksum: (u32, u64),
) -> Result<(), Failed> {
    if old == new {
        return Ok(());
    }
    let (checksum, flags) = checksum;
    ctx.l4_csum_replace(
        checksum as usize,
        u64::from(old.0),
        u64::from(new.0),
        flags | 2,
    )?;
    Ok(ctx.store(offset as usize, &new.0, 0)?)
}
