//! ICMP errors about translated packets: the packet they quote is translated like the flow's own,
//! so that path MTU discovery and "port unreachable" work through a published port.
//!
//! In programs of their own behind the tail-call table: the hot ones stay small.

use abi::Address;
use abi::map::{
    Direction, FLOW_REMOTE, FLOW_SELF, Flow, FlowKey, FragmentPorts, NO_BACKEND, Reason,
};
use abi::packet::{Fragment, ICMP_ERROR_LEN, checksum_offset};
use abi::protocol;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::endpoint_ingress::ifindex;
use crate::hairpin::{self, Way};
use crate::packet::{Header, Unknown, load, quoted_ports};
use crate::rewrite::{self, Failed, Side};
use crate::{count, map, remote};

#[classifier]
pub(crate) fn icmp_ingress(ctx: TcContext) -> i32 {
    match try_icmp_ingress(&ctx) {
        Ok(Way::Back) => hairpin::back(&ctx),
        Ok(Way::Out(ifindex)) => hairpin::out(ifindex),
        result => verdict(result.map(drop)),
    }
}

#[classifier]
pub(crate) fn icmp_egress(ctx: TcContext) -> i32 {
    verdict(try_icmp_egress(&ctx))
}

enum Stop {
    /// Not about a flow of ours.
    Pass,
    Drop,
}

impl From<Unknown> for Stop {
    #[inline(always)]
    fn from(_unknown: Unknown) -> Self {
        Self::Pass
    }
}

impl From<Failed> for Stop {
    #[inline(always)]
    fn from(_failed: Failed) -> Self {
        Self::Drop
    }
}

#[inline(always)]
fn verdict(result: Result<(), Stop>) -> i32 {
    match result {
        Ok(()) | Err(Stop::Pass) => TC_ACT_UNSPEC,
        Err(Stop::Drop) => {
            count::reason(Reason::Rewrite);
            TC_ACT_SHOT
        }
    }
}

/// From outside, about a reply that left as (frontend → client): it must reach the container as an
/// error about (container → client), perhaps on another node. Or from a container that asked itself, about what it was asked or
/// answered.
#[inline(always)]
fn try_icmp_ingress(ctx: &TcContext) -> Result<Way, Stop> {
    let error = IcmpError::parse(ctx)?;
    if error.outer.destination != error.quoted.source {
        return Err(Stop::Pass);
    }
    let (flow, side) = match error.flow(Direction::Forward) {
        Ok(flow) => (flow, Side::Source),
        Err(_unknown) => (error.flow(Direction::Reverse)?, Side::Destination),
    };
    if flow.flags & FLOW_SELF != 0 && map::endpoint(ifindex(ctx)).is_some() {
        error.turn(ctx, side, &flow)?;
        return Ok(Way::Back);
    }
    if flow.flags & FLOW_SELF != 0 || matches!(side, Side::Destination) {
        return Err(Stop::Pass);
    }
    if flow.flags & FLOW_REMOTE != 0 {
        return remote::send(ctx, &error.outer, &error.ports, &flow).map_err(|_reason| Stop::Drop);
    }
    error.translate_quoted(ctx, Side::Source, &flow)?;
    rewrite::vouch(ctx);
    error.translate_outer(ctx, Side::Destination, flow.address)?;
    Ok(Way::Stack)
}

/// Towards the client, about a packet that arrived as (client → frontend) and went on as
/// (client → container).
#[inline(always)]
fn try_icmp_egress(ctx: &TcContext) -> Result<(), Stop> {
    let error = IcmpError::parse(ctx)?;
    let flow = error.flow(Direction::Reverse)?;
    error.translate_quoted(ctx, Side::Destination, &flow)?;
    if error.outer.source == error.quoted.destination {
        // The container's own error must not show its address; a router's on the way may.
        error.translate_outer(ctx, Side::Source, flow.address)?;
    }
    Ok(())
}

struct IcmpError {
    outer: Header,
    quoted: Header,
    ports: FragmentPorts,
    /// Offset of the ICMP checksum.
    checksum: u32,
}

impl IcmpError {
    #[inline(always)]
    fn parse(ctx: &TcContext) -> Result<Self, Stop> {
        let outer = Header::outer(ctx)?;
        let at = outer.transport + ICMP_ERROR_LEN;
        let quoted = if outer.is_v4() {
            Header::ipv4(load(ctx, at)?, at)?
        } else {
            Header::ipv6(ctx, load(ctx, at)?, at)?
        };
        let has_ports = matches!(
            quoted.protocol,
            protocol::TCP | protocol::UDP | protocol::SCTP
        ) && !matches!(quoted.fragment, Fragment::Later);
        if !has_ports {
            return Err(Stop::Pass);
        }
        let ports = quoted_ports(ctx, &quoted)?;
        let checksum = outer.transport + checksum_offset(outer.protocol).ok_or(Stop::Pass)?;
        Ok(Self {
            outer,
            quoted,
            ports,
            checksum,
        })
    }

    /// The flow the quoted packet belongs to. It travelled the other way from `direction`.
    #[inline(always)]
    fn flow(&self, direction: Direction) -> Result<Flow, Stop> {
        let key = FlowKey {
            source: self.quoted.destination,
            destination: self.quoted.source,
            source_port: self.ports.destination_port,
            destination_port: self.ports.source_port,
            protocol: self.quoted.protocol,
            direction: direction as u8,
            pad: 0,
        };
        // SAFETY: an LRU value, copied at once; integers are valid in any state.
        let flow = unsafe { *map::flow(&key).ok_or(Stop::Pass)? };
        if flow.backend == NO_BACKEND {
            Err(Stop::Pass)
        } else {
            Ok(flow)
        }
    }

    /// A container and its frontend change places, in the error as in what it quotes: to one end of the
    /// connection it is the frontend that does not listen, to the other one as well.
    #[inline(always)]
    fn turn(&self, ctx: &TcContext, side: Side, flow: &Flow) -> Result<(), Stop> {
        self.translate_ports(ctx, side, flow)?;
        let Self { outer, quoted, .. } = self;
        for (side, new) in [
            (Side::Source, quoted.destination),
            (Side::Destination, quoted.source),
        ] {
            self.translate_address(ctx, side, new)?;
        }
        self.translate_outer(ctx, Side::Source, outer.destination)?;
        self.translate_outer(ctx, Side::Destination, outer.source)?;
        hairpin::turn(ctx).map_err(|_reason| Stop::Drop)
    }

    /// `side` is the one of the quoted packet that the flow translates; the client is opposite.
    #[inline(always)]
    fn translate_quoted(&self, ctx: &TcContext, side: Side, flow: &Flow) -> Result<(), Stop> {
        self.translate_ports(ctx, side, flow)?;
        self.translate_address(ctx, side, flow.address)
    }

    #[inline(always)]
    fn translate_ports(&self, ctx: &TcContext, side: Side, flow: &Flow) -> Result<(), Stop> {
        let (old, at) = (&self.ports, self.quoted.transport);
        let (source, destination) = match side {
            Side::Source => (flow.port, flow.client_port),
            Side::Destination => (flow.client_port, flow.port),
        };
        let checksum = (self.checksum, 0);
        rewrite::port(ctx, at, old.source_port, source, checksum)?;
        rewrite::port(ctx, at + 2, old.destination_port, destination, checksum)?;
        Ok(())
    }

    #[inline(always)]
    fn translate_address(&self, ctx: &TcContext, side: Side, new: Address) -> Result<(), Stop> {
        if self.quoted.is_v4() {
            // The quoted header's own checksum balances the change, so the ICMP checksum, which
            // sums both, stays right.
            rewrite::address(ctx, &self.quoted, side, new, None)?;
        } else {
            rewrite::quoted_address6(ctx, &self.quoted, side, new, self.checksum)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn translate_outer(&self, ctx: &TcContext, side: Side, new: Address) -> Result<(), Stop> {
        // ICMPv6's checksum covers the addresses (RFC 4443, 2.3), ICMP's does not.
        let pseudo = if self.outer.is_v4() {
            None
        } else {
            Some((self.checksum, 0))
        };
        Ok(rewrite::address(ctx, &self.outer, side, new, pseudo)?)
    }
}
