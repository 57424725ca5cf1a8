//! Frames sent as they are (packet(7)).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Sends whole Ethernet frames by the interface of this index in the calling thread's network
/// namespace.
///
/// # Errors
/// As socket(2) and sendto(2): `ENETDOWN` when the interface is down, `ENXIO` when it is gone.
pub fn send(index: u32, frames: &[Vec<u8>]) -> io::Result<()> {
    // Protocol 0: the socket receives nothing.
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    frames
        .iter()
        .try_for_each(|frame| send_one(&socket, index, frame))
}

fn send_one(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    // In network byte order, as it stands in the frame.
    let protocol = match frame.get(12..14) {
        Some(&[a, b]) => u16::from_ne_bytes([a, b]),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the frame and the address are valid for reads of the lengths given, and the kernel
    // keeps no reference to them after the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    crate::check(sent)?;
    Ok(())
}
