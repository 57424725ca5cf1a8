//! tc ingress of the host's end of an endpoint's link: what a container sends, before anybody on
//! the host sees it.
//!
//! Fails closed, other than the uplink's programs: what cannot be checked is no packet an endpoint
//! has to send, and an endpoint without an entry is one that is being removed.

use abi::endpoint::{EndpointValue, Mac, Refusal};
use abi::guard::{
    self, Arp, Icmp6, MAX_OPTIONS, PROTOCOL_ARP, PROTOCOL_QINQ, PROTOCOL_VLAN, UdpPorts,
};
use abi::map::TcSlot;
use abi::packet::{ETHERNET_LEN, Fragment, IPV6_LEN, PROTOCOL_IPV4, PROTOCOL_IPV6};
use abi::{Address, protocol};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::packet::{Header, NETWORK, Unknown, load, near, quoted_ports};
use crate::{count, map};

/// In a frame.
const IPV4_DESTINATION: usize = NETWORK + 16;

#[classifier]
pub(crate) fn endpoint_ingress(ctx: TcContext) -> i32 {
    match try_endpoint_ingress(&ctx) {
        Ok(()) => {
            // SAFETY: the table holds tc programs only; if the slot is empty the packet goes on.
            unsafe { map::JUMP_TC.tail_call(&ctx, TcSlot::Vouch as u32) };
            TC_ACT_UNSPEC
        }
        Err(refusal) => {
            count::refusal(refusal);
            TC_ACT_SHOT
        }
    }
}

impl From<Unknown> for Refusal {
    #[inline(always)]
    fn from(_unknown: Unknown) -> Self {
        Self::Malformed
    }
}

#[inline(always)]
fn try_endpoint_ingress(ctx: &TcContext) -> Result<(), Refusal> {
    let endpoint = map::endpoint(ifindex(ctx)).ok_or(Refusal::Unknown)?;
    if endpoint.is_checked() {
        check(ctx, endpoint)?;
    }
    if endpoint.resolver != 0 && asks(ctx, endpoint) {
        // SAFETY: the table holds tc programs only; if the slot is empty the daemon answers.
        unsafe { map::JUMP_TC.tail_call(ctx, TcSlot::Names as u32) };
    }
    Ok(())
}

/// Whether this may be a query for the network's resolver; the program for names looks closer.
#[inline(always)]
fn asks(ctx: &TcContext, endpoint: &EndpointValue) -> bool {
    if ctx.skb.protocol() != PROTOCOL_IPV4 {
        return false;
    }
    match near::<Target, IPV4_DESTINATION>(ctx) {
        Ok(target) => {
            target.address == endpoint.resolver && target.port == endpoint.resolver_port.0
        }
        Err(Unknown) => false,
    }
}

/// Where a packet without IP options goes.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Target {
    address: u32,
    source_port: u16,
    port: u16,
}

#[inline(always)]
fn check(ctx: &TcContext, endpoint: &EndpointValue) -> Result<(), Refusal> {
    let protocol = ctx.skb.protocol();
    if is_tagged(ctx) || matches!(protocol, PROTOCOL_VLAN | PROTOCOL_QINQ) {
        return Err(Refusal::Vlan);
    }
    let [_, source] = near::<[Mac; 2], 0>(ctx)?;
    guard::source_mac(endpoint, source)?;
    match protocol {
        PROTOCOL_IPV4 => {
            let header = Header::outer4(ctx)?;
            let udp = udp_ports(ctx, &header)?;
            guard::ipv4(endpoint, header.source.0[3], header.destination.0[3], udp)
        }
        PROTOCOL_IPV6 => check6(ctx, endpoint),
        PROTOCOL_ARP => guard::arp(endpoint, &load::<Arp>(ctx, ETHERNET_LEN)?),
        _ => Err(Refusal::EtherType),
    }
}

#[inline(always)]
fn check6(ctx: &TcContext, endpoint: &EndpointValue) -> Result<(), Refusal> {
    let header = Header::outer6(ctx)?;
    let udp = udp_ports(ctx, &header)?;
    let source = guard::ipv6(endpoint, header.source, udp)?;
    let later = matches!(header.fragment, Fragment::Later);
    if header.protocol != protocol::ICMPV6 || later {
        // Of a later fragment nothing but the source can be told; its first one was judged whole.
        return guard::upper6(source, 0, 0, header.fragment).map(|_nothing| ());
    }
    let kind: u8 = load(ctx, header.transport)?;
    match guard::upper6(source, header.protocol, kind, header.fragment)? {
        Icmp6::Nothing => Ok(()),
        Icmp6::Neighbour { options, target } => {
            if target {
                let about = Address(load(ctx, header.transport + 8)?);
                guard::target(endpoint, source, kind, about)?;
            }
            check_options(ctx, endpoint, &header, options)
        }
    }
}

/// Receivers take every option seriously, and the first of two as well as the second.
#[inline(always)]
fn check_options(
    ctx: &TcContext,
    endpoint: &EndpointValue,
    header: &Header,
    first: u32,
) -> Result<(), Refusal> {
    let length = u16::from_be(load(ctx, header.network + 4)?);
    let end = header.network + IPV6_LEN + u32::from(length);
    let mut at = header.transport + first;
    for _ in 0..MAX_OPTIONS {
        if at == end {
            return Ok(());
        }
        at += guard::option(endpoint, load(ctx, at)?)?;
    }
    if at == end {
        Ok(())
    } else {
        Err(Refusal::Malformed)
    }
}

#[inline(always)]
fn udp_ports(ctx: &TcContext, header: &Header) -> Result<UdpPorts, Refusal> {
    if header.protocol != protocol::UDP || matches!(header.fragment, Fragment::Later) {
        return Ok(None);
    }
    let ports = quoted_ports(ctx, header)?;
    Ok(Some((
        ports.source_port.get(),
        ports.destination_port.get(),
    )))
}

/// Whether the frame had a VLAN tag, which the kernel keeps beside the packet.
#[inline(always)]
fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as in `is_tagged`.
    unsafe { (*ctx.skb.skb).ifindex }
}
