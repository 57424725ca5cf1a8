//! Rate limits.
//!
//! What goes to a sandbox leaves the host's end of its pair, where a token bucket holds it back.
//! What comes from it only arrives there, and arriving packets cannot wait: they are redirected to
//! an intermediate device (`ifb`), whose token bucket they leave as if they had arrived late. Both
//! are out of the sandbox's reach.

use std::io;

use api::id::IfName;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use super::link::{created, named, set_up};
use crate::model::limit::Rate;
use crate::model::step::Change;
use crate::netlink::{Mode, Rtnl};
use crate::observe;

/// The token bucket of `name`: replaced, whatever was there.
pub(super) fn set_rate(rtnl: &mut Rtnl, name: &IfName, rate: Rate) -> io::Result<Change> {
    let mut message = of(index(rtnl, name)?);
    message.header.parent = TcHandle::ROOT;
    message.attributes.extend([
        TcAttribute::Kind("tbf".to_owned()),
        TcAttribute::Options(token_bucket(rate)),
    ]);
    rtnl.ask(
        RouteNetlinkMessage::NewQueueDiscipline(message),
        Mode::Replace,
    )?;
    Ok(Change::Done)
}

/// `enum` of `TCA_TBF_*` in include/uapi/linux/pkt_sched.h.
mod tbf {
    pub(super) const PARMS: u16 = 1;
    pub(super) const RATE64: u16 = 4;
    pub(super) const BURST: u16 = 6;
    /// `TC_LINKLAYER_ETHERNET`: the kernel computes lengths and wants no table of them.
    pub(super) const ETHERNET: u8 = 1;
}

/// `struct tc_tbf_qopt`, then what does not fit it. The burst is given in bytes
/// (`TCA_TBF_BURST`, Linux 3.13), which spares the conversion to the scheduler's ticks.
fn token_bucket(rate: Rate) -> Vec<TcOption> {
    let small = u32::try_from(rate.bytes_per_second).unwrap_or(u32::MAX);
    let mut parms = Vec::with_capacity(36);
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
    parms.extend([0, tbf::ETHERNET]);
    parms.extend([0; 6]);
    parms.extend(small.to_ne_bytes());
    // The peak rate: none.
    parms.extend([0; 12]);
    // limit, buffer, mtu.
    parms.extend(rate.queue_bytes().to_ne_bytes());
    parms.extend(0u32.to_ne_bytes());
    parms.extend(0u32.to_ne_bytes());
    let mut options = vec![
        other(tbf::PARMS, parms),
        other(tbf::BURST, rate.burst_bytes.to_ne_bytes().to_vec()),
    ];
    if small == u32::MAX {
        let rate = rate.bytes_per_second.to_ne_bytes().to_vec();
        options.push(other(tbf::RATE64, rate));
    }
    options
}

fn other(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// The device that packets from a sandbox wait in.
pub(super) fn create_buffer(rtnl: &mut Rtnl, name: &IfName, mtu: u32) -> io::Result<Change> {
    let mut message = named(name);
    message.attributes.extend([
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ]);
    set_up(&mut message);
    created(rtnl.ask(RouteNetlinkMessage::NewLink(message), Mode::Create))
}

/// After all filters of others: ours of the data plane pass packets on to the next one, and so do
/// those that observe.
const REDIRECT_PRIORITY: u16 = 0xc000;
/// `ETH_P_ALL` of include/uapi/linux/if_ether.h.
const ALL_PROTOCOLS: u16 = 0x0003;

/// Sends all that arrives at `from` through `to`.
pub(super) fn redirect(rtnl: &mut Rtnl, from: &IfName, to: &IfName) -> io::Result<Change> {
    let arrival = index(rtnl, from)?;
    let buffer = index(rtnl, to)?;
    let mut clsact = of(arrival);
    clsact.header.parent = TcHandle::CLSACT;
    clsact.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    clsact
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    // Filters of others may have needed it before.
    created(rtnl.ask(
        RouteNetlinkMessage::NewQueueDiscipline(clsact),
        Mode::Create,
    ))?;
    let mut filter = of(arrival);
    filter.header.parent = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: TcHandle::MIN_INGRESS,
    };
    filter.header.info = u32::from(REDIRECT_PRIORITY) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    filter.attributes.extend([
        TcAttribute::Kind("u32".to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything())),
            TcOption::U32(TcFilterU32Option::Action(vec![through(buffer)])),
        ]),
    ]);
    // An exclusive creation: repeating it must not add a second rule, which packets would meet
    // when they come back. The old one goes first, for its device may be another's by now.
    let mut old = of(arrival);
    old.header.parent = filter.header.parent;
    old.header.info = filter.header.info;
    match rtnl.ask(RouteNetlinkMessage::DelTrafficFilter(old), Mode::Change) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rtnl.ask(RouteNetlinkMessage::NewTrafficFilter(filter), Mode::Create)?;
    Ok(Change::Done)
}

/// One key that compares no bit.
fn everything() -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    selector
}

fn through(buffer: u32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = buffer;
    let mut action = TcAction::default();
    // Actions count from one (`TCA_ACT_MAX_PRIO`).
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    action
}

fn of(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    // Interface numbers are positive ints in the kernel.
    message.header.index = index.cast_signed();
    message
}

fn index(rtnl: &mut Rtnl, name: &IfName) -> io::Result<u32> {
    let link = observe::link_by_name(rtnl, name)?.ok_or(Errno::NODEV)?;
    Ok(link.header.index)
}
