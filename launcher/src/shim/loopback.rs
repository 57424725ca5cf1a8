//! Brings up `lo` in a new network namespace: a duty of the runtime, not of CNI plugins.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Moves this process into the network namespace of `pid` and brings up its loopback device.
///
/// Only for a process with one thread that ends soon after.
pub(crate) fn bring_up(pid: u32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is protocol 0.
    )?;
    sendto(
        &socket,
        &request(),
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    acknowledged(&socket)
}

/// `RTM_NEWLINK` that sets `IFF_UP` on interface 1 (rtnetlink(7)), all in the host's byte order.
fn request() -> Vec<u8> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const IFF_UP: u32 = 1;
    /// `LOOPBACK_IFINDEX` of the kernel's `include/net/net_namespace.h`.
    const LOOPBACK: u32 = 1;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence number and sender; then family, padding and device type.
    message.extend_from_slice(&[0; 4 + 4 + 4]);
    for word in [LOOPBACK, IFF_UP, IFF_UP] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    message
}

fn acknowledged(socket: &OwnedFd) -> io::Result<()> {
    let mut reply = [0; 128];
    let (length, _) = recv(socket, &mut reply[..], RecvFlags::empty())?;
    // After the 16 bytes of the header, NLMSG_ERROR carries the negated error number.
    match reply[..length]
        .get(16..20)
        .and_then(|code| code.first_chunk())
    {
        Some(code) => match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
