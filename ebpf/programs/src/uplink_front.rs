//! XDP of an uplink, where that is wanted: packets that may enter their container at once do so before
//! the kernel makes a socket buffer of them.
//!
//! The rules are those of [`crate::uplink_ingress`], and so is the work: what is not known to be one
//! of those packets goes on as it came, to tc, which knows all of them. So nothing begins here,
//! nothing is refused, and no port but TCP's and UDP's is changed.

use abi::checksum::is_left_open;
use abi::flow::{Verdict, judge};
use abi::frontend::{Bit, answers_uplink};
use abi::map::{Direction, Reason};
use abi::packet::{Fragment, checksum_offset};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::count::{self, Lost};
use crate::frame::upper_checksum;
use crate::packet::{Header, Ports, Unknown};
use crate::rewrite::{Failed, translate_summed};
use crate::uplink_ingress::{hear, tell, translation};
use crate::{clock, map, shortcut};

#[xdp]
pub(crate) fn uplink_front(ctx: XdpContext) -> u32 {
    match try_uplink_front(&ctx) {
        Ok(Ok(action)) => action,
        Ok(Err(lost)) => {
            count::lost(&lost);
            XDP_DROP
        }
        Err(Unknown) => XDP_PASS,
    }
}

/// An inner error is a packet that must be dropped: it is half changed.
#[inline(always)]
fn try_uplink_front(ctx: &XdpContext) -> Result<Result<u32, Lost>, Unknown> {
    let header = Header::outer(ctx)?;
    if !matches!(header.fragment, Fragment::Whole) {
        return Err(Unknown);
    }
    let Ports { ports, flags } = header.ports(ctx)?;
    let port = Bit::port(header.is_v4(), header.protocol, ports.destination_port);
    if !port.is_some_and(map::is_set) || !answers_uplink(header.destination) {
        return Err(Unknown);
    }
    let key = header.flow_key(&ports, Direction::Forward);
    let flow = map::flows(header.protocol)
        .get_ptr_mut(&key)
        .ok_or(Unknown)?;
    // SAFETY: as in `uplink_ingress`.
    let flow = unsafe { &mut *flow };
    let now = clock::now();
    let backend = map::backend(flow.backend);
    if !matches!(
        judge(flow, backend, header.protocol, flags, now),
        Verdict::Follow
    ) {
        return Err(Unknown);
    }
    let place = shortcut::admitted(ctx, &header, flow, flags, now).ok_or(Unknown)?;
    if map::enter_frame(place.ifindex) != XDP_REDIRECT || may_be_left_open(ctx, &header)? {
        return Err(Unknown);
    }
    let lost = Lost::of(flow.service);
    match shortcut::address(ctx, &header, place) {
        Ok(true) => {}
        Ok(false) => return Err(Unknown),
        Err(reason) => return Ok(Err(lost(reason))),
    }
    hear(ctx, flow, flags, now);
    tell(ctx, &header, &ports, flow);
    match translate_summed(ctx, &header, &ports, &translation(flow)) {
        Ok(()) => Ok(Ok(XDP_REDIRECT)),
        Err(Failed) => Ok(Err(lost(Reason::Rewrite))),
    }
}

/// Whether the packet comes from this very host, which leaves checksums to devices, and a virtual one
/// hands them on as they are. Only a socket buffer tells; so a packet that looks like that is tc's,
/// which one in 65 536 does by chance.
#[inline(always)]
fn may_be_left_open(ctx: &XdpContext, header: &Header) -> Result<bool, Unknown> {
    let offset = checksum_offset(header.protocol).ok_or(Unknown)?;
    let checksum = upper_checksum(ctx, header.transport + offset).ok_or(Unknown)?;
    // SAFETY: the packet has it there, aligned, and any value is a good one.
    let checksum = unsafe { *checksum };
    let length = header.end.wrapping_sub(header.transport);
    Ok(is_left_open(
        checksum,
        header.source,
        header.destination,
        header.protocol,
        length,
    ))
}
