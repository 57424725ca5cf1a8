//! clsact filters: what tc had before TCX, and has still.
//!
//! The kernel keeps a filter without anybody holding it, and drops it with its interface. Priority
//! and handle are fixed, so that there is never a second one of ours.

use std::io;
use std::mem::ManuallyDrop;

use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle as Handle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::NetlinkError;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use super::error::BpfError;
use crate::netlink::{Mode, Rtnl};
use crate::observe;

/// Ahead of filters that ask for no priority (49152 and down from there).
pub(crate) const PRIORITY: u16 = 0x4a57;
pub(crate) const FILTER_HANDLE: u32 = 1;
const HANDLE: Handle = Handle::new(0, FILTER_HANDLE as u16);

/// Attaches the program in the place of one of ours that is there already; returns whether the
/// interface took no filters before.
pub(super) fn attach(
    program: &mut SchedClassifier,
    ifname: &str,
    side: TcAttachType,
) -> Result<bool, ProgramError> {
    let added = add_qdisc(ifname)?;
    // One that a daemon left before it could set its mark.
    detach(ifname, side)?;
    add_filter(program, ifname, side)?;
    Ok(added)
}

/// Attaches the program unless one of ours is there; returns whether it had to. The interface has
/// been through [`add_qdisc`].
pub(super) fn ensure(
    program: &mut SchedClassifier,
    ifname: &str,
    side: TcAttachType,
) -> Result<bool, ProgramError> {
    match add_filter(program, ifname, side) {
        Ok(()) => Ok(true),
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if is_errno(&error, Errno::EXIST) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Removes our filter, if it is there.
pub(super) fn detach(ifname: &str, side: TcAttachType) -> Result<(), ProgramError> {
    let link = SchedClassifierLink::attached(ifname, side, PRIORITY, HANDLE, None)
        .map_err(TcError::IoError)?;
    match link.detach() {
        // The kernel says EINVAL where there is no clsact, ENOENT where it lacks the filter.
        Err(ProgramError::NetlinkError(error))
            if is_errno(&error, Errno::NOENT) || is_errno(&error, Errno::INVAL) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Whether our filter is there.
pub(super) fn has_filter(ifindex: u32, side: TcAttachType) -> io::Result<bool> {
    let side = match side {
        TcAttachType::Egress => TcHandle::MIN_EGRESS,
        _ => TcHandle::MIN_INGRESS,
    };
    let found = observe::filtered(&mut Rtnl::open()?, &[ifindex], side)?;
    Ok(found.contains(&ifindex))
}

/// Makes the interface take filters; returns whether it did not before.
pub(super) fn add_qdisc(ifname: &str) -> Result<bool, ProgramError> {
    match qdisc_add_clsact(ifname) {
        Err(TcError::NetlinkError(error)) if is_errno(&error, Errno::EXIST) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Undoes [`add_qdisc`], unless somebody else has filters there by now.
pub(super) fn remove_idle_qdisc(ifindex: u32) -> io::Result<()> {
    let mut rtnl = Rtnl::open()?;
    let of = |parent| {
        let mut message = TcMessage::default();
        // Interface numbers are positive ints in the kernel.
        message.header.index = ifindex.cast_signed();
        message.header.parent = parent;
        message
    };
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let side = of(TcHandle {
            minor,
            ..TcHandle::CLSACT
        });
        if !rtnl
            .dump(RouteNetlinkMessage::GetTrafficFilter(side))?
            .is_empty()
        {
            return Ok(());
        }
    }
    let qdisc = RouteNetlinkMessage::DelQueueDiscipline(of(TcHandle::CLSACT));
    match rtnl.ask(qdisc, Mode::Change) {
        // The kernel says EINVAL or ENOENT where there is none, by version.
        Err(error)
            if [Errno::NOENT, Errno::INVAL, Errno::NODEV]
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn add_filter(
    program: &mut SchedClassifier,
    ifname: &str,
    side: TcAttachType,
) -> Result<(), ProgramError> {
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = program.attach_with_options(ifname, side, options)?;
    // Dropping the link would remove the filter, which is to outlive the daemon.
    let _filter = ManuallyDrop::new(program.take_link(id)?);
    Ok(())
}

fn is_errno(error: &NetlinkError, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The interface's name in the caller's network namespace; `None` if there is none.
pub(super) fn interface_name(ifindex: u32) -> Result<Option<String>, BpfError> {
    let failed = |error: Errno| {
        BpfError::attach("tc programs", &format!("interface {ifindex}"))(io::Error::from(error))
    };
    let socket =
        rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(failed)?;
    match rustix::net::netdevice::index_to_name(&socket, ifindex) {
        Ok(name) => Ok(Some(name)),
        Err(Errno::NODEV | Errno::NXIO) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The interface's index in the caller's network namespace.
pub(super) fn interface_index(ifname: &str) -> io::Result<u32> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(&socket, ifname)?)
}
