//! Answers to DNS queries for the names of containers, where the asker's packets enter the host.
//!
//! The query becomes the answer and goes back out of the interface it came in by: no process wakes
//! up, and names resolve while the daemon is away. Reached from [`crate::endpoint_ingress`], which
//! has judged the packet already; a packet that is not answered goes on untouched.

use abi::dns::{
    Answered, AskerKey, Found, Header, Kind, NAME_LEN, NameKey, NameReader, NameValue, OPT,
    OPT_COOKIE_LEN, OPT_LEN, Octet, Record4, Record6, RecordHead, add_sums, find, is_plain_opt,
    sum_at,
};
use abi::endpoint::{EndpointValue, Mac, Refusal};
use abi::packet::ETHERNET_LEN;
use abi::protocol;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_redirect, bpf_skb_change_tail};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::endpoint_ingress::ifindex;
use crate::packet::{Ipv4, Unknown, load};
use crate::rewrite::Failed;
use crate::{count, map};

/// Offsets of a packet without IP options.
const IP: u32 = ETHERNET_LEN;
const IP_LEN: u32 = IP + 2;
const IP_CHECKSUM: u32 = IP + 10;
const IP_ADDRESSES: u32 = IP + 12;
const UDP: u32 = IP + 20;
const UDP_LEN: u32 = UDP + 4;
const UDP_CHECKSUM: u32 = UDP + 6;
const DNS: u32 = UDP + 8;
const NAME: u32 = DNS + 12;

/// What replaces the end of the query: at most an AAAA record and an OPT record, in whole words.
const TAIL_LEN: usize = 40;

#[classifier]
pub(crate) fn endpoint_names(ctx: TcContext) -> i32 {
    let Ok(answer) = try_names(&ctx) else {
        return TC_ACT_UNSPEC;
    };
    match answer.write(&ctx) {
        Ok(Written::Yes) => {
            count::answered(answer.what);
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_redirect(ifindex(&ctx), 0) as i32 }
        }
        Ok(Written::No) => TC_ACT_UNSPEC,
        Err(Failed) => {
            count::refusal(Refusal::Rewrite);
            TC_ACT_SHOT
        }
    }
}

/// The headers before a message.
#[repr(C)]
#[derive(Clone, Copy)]
struct Headers {
    ip: Ipv4,
    source_port: u16,
    destination_port: u16,
    udp_length: u16,
    udp_checksum: u16,
}

/// A query, and what becomes of it.
struct Answer {
    headers: Headers,
    header: Header,
    kind: Kind,
    what: Answered,
    value: NameValue,
    /// Offset of the first byte behind the question.
    end: u32,
    /// Bytes of the query's OPT record; none if zero.
    opt: u32,
}

/// Decides, and changes nothing.
#[inline(always)]
fn try_names(ctx: &TcContext) -> Result<Answer, Unknown> {
    let endpoint = map::endpoint(ifindex(ctx)).ok_or(Unknown)?;
    let headers: Headers = load(ctx, IP)?;
    if !is_ours(ctx, endpoint, &headers) {
        return Err(Unknown);
    }
    let header: Header = load(ctx, DNS)?;
    if !header.is_plain_query() {
        return Err(Unknown);
    }
    // SAFETY: a per-CPU slot, which only this program uses, and no reference to it lives on.
    let key = unsafe { &mut *map::name_key().ok_or(Unknown)? };
    key.name = [0; NAME_LEN];
    let length = read_name(ctx, key)?;
    let [kind, class]: [u16; 2] = load(ctx, NAME + length)?;
    let kind = Kind::of(kind, class).ok_or(Unknown)?;
    let end = NAME + length + 4;
    let opt = opt_length(ctx, &header, end)?;
    let (what, value) = look_up(endpoint, kind, key)?;
    Ok(Answer {
        headers,
        header,
        kind,
        what,
        value,
        end,
        opt,
    })
}

/// Whether this is a whole datagram from the endpoint itself to its network's resolver, and nothing
/// follows it.
#[inline(always)]
fn is_ours(ctx: &TcContext, endpoint: &EndpointValue, headers: &Headers) -> bool {
    let length = u32::from(u16::from_be(headers.ip.length));
    headers.ip.version_length == 0x45
        // Whole: neither an offset nor more to come.
        && headers.ip.fragment & 0xbfff_u16.to_be() == 0
        && headers.ip.protocol == protocol::UDP
        && headers.ip.source == endpoint.v4
        && headers.ip.destination == endpoint.resolver
        && headers.destination_port == endpoint.resolver_port.0
        && ctx.len() == IP + length
        && u32::from(u16::from_be(headers.udp_length)) + 20 == length
}

/// Reads the question's name; returns its length with the root label. Direct access: each octet by
/// a helper would cost more than everything else. What is not in the linear part is left alone.
#[inline(always)]
fn read_name(ctx: &TcContext, key: &mut NameKey) -> Result<u32, Unknown> {
    let (data, end) = (ctx.data(), ctx.data_end());
    let mut reader = NameReader::default();
    for (at, slot) in key.name.iter_mut().enumerate() {
        let octet = data + NAME as usize + at;
        if octet + 1 > end {
            return Err(Unknown);
        }
        // SAFETY: just compared with the packet's end, which the verifier insists on.
        match reader.next(unsafe { *(octet as *const u8) }) {
            Octet::Part(octet) => *slot = octet,
            Octet::End => return Ok(at as u32 + 1),
            Octet::Foreign => return Err(Unknown),
        }
    }
    Err(Unknown)
}

/// The length of the OPT record that ends the query, if it has one.
#[inline(always)]
fn opt_length(ctx: &TcContext, header: &Header, end: u32) -> Result<u32, Unknown> {
    let length = ctx.len().wrapping_sub(end);
    if !header.has_opt() {
        return if length == 0 { Ok(0) } else { Err(Unknown) };
    }
    let option = match length {
        OPT_LEN => 0,
        OPT_COOKIE_LEN => load(ctx, end + OPT_LEN + 2)?,
        _ => return Err(Unknown),
    };
    if is_plain_opt(&load(ctx, end)?, length, option) {
        Ok(length)
    } else {
        Err(Unknown)
    }
}

/// Looks through the asker's networks, as the daemon does: the first that has an address of the
/// family answers; a name that has none anywhere exists nevertheless.
#[inline(always)]
fn look_up(
    endpoint: &EndpointValue,
    kind: Kind,
    key: &mut NameKey,
) -> Result<(Answered, NameValue), Unknown> {
    let asker = AskerKey {
        network: endpoint.network,
        address: endpoint.v4,
        pad: 0,
    };
    let mut known = None;
    for network in map::asker(&asker).ok_or(Unknown)?.networks {
        if network == 0 {
            break;
        }
        key.network = network;
        let Some(value) = map::name(key) else {
            continue;
        };
        match find(kind, &value) {
            Found::Several => return Err(Unknown),
            Found::Other => known = Some(value),
            Found::One => {
                let what = match kind {
                    Kind::A => Answered::A,
                    Kind::Aaaa => Answered::Aaaa,
                };
                return Ok((what, value));
            }
        }
    }
    Ok((Answered::NoData, known.ok_or(Unknown)?))
}

enum Written {
    Yes,
    /// Nothing was changed.
    No,
}

impl Answer {
    /// Turns the query into its answer. An error leaves a packet that must not go on.
    ///
    /// Addresses and ports change places, which no checksum notices; the rest is accounted for by
    /// the kernel's helpers, which alone know whether a checksum is complete, partial or absent.
    #[inline(always)]
    fn write(&self, ctx: &TcContext) -> Result<Written, Failed> {
        let (tail, length) = self.tail();
        let sum = self.difference(ctx, &tail)?;
        // SAFETY: the context is valid; the helper changes the packet only where it succeeds.
        if unsafe { bpf_skb_change_tail(ctx.skb.skb, self.end + length, 0) } != 0 {
            return Ok(Written::No);
        }
        self.write_tail(ctx, &tail, length)?;
        let [destination, source]: [Mac; 2] = ctx.load(0)?;
        ctx.store(0, &[source, destination], 0)?;
        self.write_network(ctx, length)?;
        self.write_transport(ctx, length, sum)?;
        ctx.store(DNS as usize, &self.answer_header(), 0)?;
        Ok(Written::Yes)
    }

    #[inline(always)]
    fn answer_header(&self) -> Header {
        let records = match self.what {
            Answered::NoData => 0,
            Answered::A | Answered::Aaaa => 1,
        };
        self.header.answer(records)
    }

    /// What follows the question, zeros behind it, and its length.
    #[inline(always)]
    fn tail(&self) -> ([u8; TAIL_LEN], u32) {
        let mut tail = [0; TAIL_LEN];
        let head = RecordHead::new(self.kind, self.value.ttl);
        let length = match self.what {
            Answered::NoData => 0,
            Answered::A => {
                let address = self.value.v4;
                // SAFETY: both are 16 bytes without padding.
                let record: [u8; 16] = unsafe { core::mem::transmute(Record4 { head, address }) };
                tail[..16].copy_from_slice(&record);
                16
            }
            Answered::Aaaa => {
                let address = self.value.v6;
                // SAFETY: both are 28 bytes without padding.
                let record: [u8; 28] = unsafe { core::mem::transmute(Record6 { head, address }) };
                tail[..28].copy_from_slice(&record);
                28
            }
        };
        if self.opt == 0 {
            return (tail, length);
        }
        match self.what {
            Answered::NoData => tail[..11].copy_from_slice(&OPT),
            Answered::A => tail[16..27].copy_from_slice(&OPT),
            Answered::Aaaa => tail[28..39].copy_from_slice(&OPT),
        }
        (tail, length + OPT_LEN)
    }

    /// By how much the sum of the message changes. Read before anything is written.
    #[inline(always)]
    fn difference(&self, ctx: &TcContext, tail: &[u8; TAIL_LEN]) -> Result<u32, Failed> {
        let mut old = [0_u8; 24];
        match self.opt {
            0 => {}
            OPT_LEN => {
                let opt: [u8; OPT_LEN as usize] = ctx.load(self.end as usize)?;
                old[..11].copy_from_slice(&opt);
            }
            _ => {
                let opt: [u8; OPT_COOKIE_LEN as usize] = ctx.load(self.end as usize)?;
                old[..23].copy_from_slice(&opt);
            }
        }
        let mut tail = *tail;
        let tail = csum_diff(&mut old, &mut tail)?;
        // The message begins at an even offset of the datagram.
        let tail = sum_at(self.end - DNS, tail);
        // SAFETY: twelve bytes without padding.
        let mut before: [u8; 12] = unsafe { core::mem::transmute(self.header) };
        // SAFETY: as above.
        let mut after: [u8; 12] = unsafe { core::mem::transmute(self.answer_header()) };
        Ok(add_sums(tail, csum_diff(&mut before, &mut after)?))
    }

    #[inline(always)]
    fn write_tail(
        &self,
        ctx: &TcContext,
        tail: &[u8; TAIL_LEN],
        length: u32,
    ) -> Result<(), Failed> {
        let at = self.end as usize;
        // Stores of constant lengths: 5.10 follows no others.
        match length {
            0 => {}
            11 => ctx.store::<[u8; 11]>(at, first(tail), 0)?,
            16 => ctx.store::<[u8; 16]>(at, first(tail), 0)?,
            27 => ctx.store::<[u8; 27]>(at, first(tail), 0)?,
            28 => ctx.store::<[u8; 28]>(at, first(tail), 0)?,
            _ => ctx.store::<[u8; 39]>(at, first(tail), 0)?,
        }
        Ok(())
    }

    #[inline(always)]
    fn write_network(&self, ctx: &TcContext, length: u32) -> Result<(), Failed> {
        let new = ((self.end + length - IP) as u16).to_be();
        ctx.l3_csum_replace(
            IP_CHECKSUM as usize,
            u64::from(self.headers.ip.length),
            u64::from(new),
            2,
        )?;
        ctx.store(IP_LEN as usize, &new, 0)?;
        let addresses = [self.headers.ip.destination, self.headers.ip.source];
        Ok(ctx.store(IP_ADDRESSES as usize, &addresses, 0)?)
    }

    #[inline(always)]
    fn write_transport(&self, ctx: &TcContext, length: u32, sum: u32) -> Result<(), Failed> {
        let (old, new) = (
            self.headers.udp_length,
            ((self.end + length - UDP) as u16).to_be(),
        );
        let checksum = UDP_CHECKSUM as usize;
        let mangled = u64::from(BPF_F_MARK_MANGLED_0);
        let pseudo = mangled | u64::from(BPF_F_PSEUDO_HDR) | 2;
        // The length counts twice: in the datagram and in its pseudo header.
        ctx.l4_csum_replace(checksum, u64::from(old), u64::from(new), pseudo)?;
        ctx.l4_csum_replace(checksum, u64::from(old), u64::from(new), mangled | 2)?;
        ctx.l4_csum_replace(checksum, 0, u64::from(sum), mangled)?;
        ctx.store(UDP_LEN as usize, &new, 0)?;
        let ports = [self.headers.destination_port, self.headers.source_port];
        Ok(ctx.store(UDP as usize, &ports, 0)?)
    }
}

/// The first bytes of the tail.
#[inline(always)]
fn first<const N: usize>(tail: &[u8; TAIL_LEN]) -> &[u8; N] {
    const { assert!(N <= TAIL_LEN) };
    // SAFETY: the array is at least as long, and bytes have no alignment.
    unsafe { &*tail.as_ptr().cast() }
}

#[inline(always)]
fn csum_diff<const N: usize, const M: usize>(
    old: &mut [u8; N],
    new: &mut [u8; M],
) -> Result<u32, Failed> {
    const { assert!(N % 4 == 0 && M % 4 == 0) };
    let (old, new) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
    // SAFETY: both lead to as many bytes of this stack frame, which the helper only reads.
    let sum = unsafe { bpf_csum_diff(old, N as u32, new, M as u32, 0) };
    u32::try_from(sum).map_err(|_negative| Failed)
}
