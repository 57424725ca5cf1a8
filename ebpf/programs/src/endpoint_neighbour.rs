//! Who has a service's own address? Nobody does, and yet a container on its network must know where to
//! send what it has for it: this answers its ARP requests and neighbour solicitations (RFC 826; RFC
//! 4861, 7.2). Any link address is right, because a packet to a service gets its backend's.

use core::ptr::addr_of;

use abi::endpoint::Mac;
use abi::guard::{Arp, PROTOCOL_ARP};
use abi::neighbour::{self, Solicitation};
use abi::packet::ETHERNET_LEN;
use aya_ebpf::bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_csum_diff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::hairpin;
use crate::lookup::is_vip;
use crate::packet::{Header, Unknown, load};

/// Offsets within the headers.
const SOURCE: u32 = 8;
const CHECKSUM: u32 = 2;

#[classifier]
pub(crate) fn endpoint_neighbour(ctx: TcContext) -> i32 {
    let answered = if ctx.skb.protocol() == PROTOCOL_ARP {
        arp(&ctx)
    } else {
        solicitation(&ctx)
    };
    match answered {
        Ok(()) => hairpin::back(&ctx),
        Err(Unknown) => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn arp(ctx: &TcContext) -> Result<(), Unknown> {
    let asked: Arp = load(ctx, ETHERNET_LEN)?;
    let (address, answer) = neighbour::arp(&asked).ok_or(Unknown)?;
    if !is_vip(address) {
        return Err(Unknown);
    }
    let macs = [asked.sender_mac, answer.sender_mac];
    ctx.store(ETHERNET_LEN as usize, &answer, 0)
        .map_err(unknown)?;
    ctx.store(0, &macs, 0).map_err(unknown)
}

#[inline(always)]
fn solicitation(ctx: &TcContext) -> Result<(), Unknown> {
    let header = Header::outer6(ctx)?;
    let asked: Solicitation = load(ctx, header.transport)?;
    let answer = neighbour::answer(&asked).ok_or(Unknown)?;
    if header.source.is_unspecified() || !is_vip(asked.target) {
        return Err(Unknown);
    }
    let [_, client]: [Mac; 2] = load(ctx, 0)?;
    // The asked address comes in the place of the group's, and the asker's changes sides.
    let sum = difference(&header.destination, &asked.target, 0)?;
    let sum = difference(&asked, &answer, sum)?;
    let checksum = (header.transport + CHECKSUM) as usize;
    let fixed = BPF_F_RECOMPUTE_CSUM;
    ctx.store(header.transport as usize, &answer, fixed.into())
        .map_err(unknown)?;
    let ends = [asked.target, header.source];
    ctx.store((header.network + SOURCE) as usize, &ends, fixed.into())
        .map_err(unknown)?;
    ctx.l4_csum_replace(checksum, 0, sum.into(), 0)
        .map_err(unknown)?;
    ctx.store(0, &[client, answer.mac], 0).map_err(unknown)
}

/// What a checksum over `old` differs by from one over `new`, and from `seed`. Both are of whole words.
#[inline(always)]
fn difference<T>(old: &T, new: &T, seed: u32) -> Result<u32, Unknown> {
    let (old, new) = (addr_of!(*old), addr_of!(*new));
    let size = size_of::<T>() as u32;
    // SAFETY: both pointers lead to `size` bytes of this stack frame, which the helper only reads.
    let sum = unsafe {
        bpf_csum_diff(
            old.cast_mut().cast(),
            size,
            new.cast_mut().cast(),
            size,
            seed,
        )
    };
    u32::try_from(sum).map_err(|_negative| Unknown)
}

#[inline(always)]
fn unknown(_code: i64) -> Unknown {
    Unknown
}
