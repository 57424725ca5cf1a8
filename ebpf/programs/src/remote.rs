//! Packets for backends on other nodes: into the tunnel, as they are. `abi::tunnel` says what is told
//! with them; the headers around them are the tunnel's own work, segments and checksums included.

use core::ptr::addr_of;

use abi::map::{Flow, FragmentPorts, Reason, StepSlot};
use abi::packet::Fragment;
use abi::tunnel::Remote;
use aya_ebpf::helpers::bpf_skb_vlan_pop;
use aya_ebpf::programs::TcContext;

use crate::hairpin::Way;
use crate::packet::Header;
use crate::{map, shortcut};

/// Prepares a packet of `flow` for its way to the backend's node. Does not return where the packet is
/// too long for that: another program judges what then.
#[inline(always)]
pub(crate) fn send(
    ctx: &TcContext,
    header: &Header,
    ports: &FragmentPorts,
    flow: &Flow,
) -> Result<Way, Reason> {
    let remote = map::remote(flow.backend).ok_or(Reason::NoBackend)?;
    if !shortcut::length(ctx, header).is_some_and(|length| length <= u32::from(remote.mtu)) {
        // SAFETY: the table holds tc programs only, and nothing here needs to be dropped.
        unsafe { map::JUMP_STEPS.tail_call(ctx, StepSlot::Large as u32) };
        return Err(Reason::TooLong);
    }
    encapsulate(ctx, header, ports, remote)
}

#[inline(always)]
pub(crate) fn encapsulate(
    ctx: &TcContext,
    header: &Header,
    ports: &FragmentPorts,
    remote: &Remote,
) -> Result<Way, Reason> {
    // Only now: those after a first one that does not go on would be nobody's there.
    if matches!(header.fragment, Fragment::First) {
        map::remember_fragment(&header.fragment_key(), *ports);
    }
    // A tag is of the link that the packet came by.
    // SAFETY: as below; the field is an aligned u32 that tc programs may read.
    let tagged = unsafe { addr_of!((*ctx.skb.skb).vlan_present).read_volatile() } != 0;
    // SAFETY: the context is valid while the program runs.
    if tagged && unsafe { bpf_skb_vlan_pop(ctx.skb.skb) } != 0 {
        return Err(Reason::Rewrite);
    }
    ctx.store(0, &[remote.to, remote.from], 0)
        .map_err(|_errno| Reason::Rewrite)?;
    Ok(Way::Out(remote.ifindex))
}
