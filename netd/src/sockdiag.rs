//! Sockets of a network namespace (`sock_diag(7)`): which ports they have bound, whom they talk to, and
//! the end of some.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use api::net::Protocol;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::model::port::{Bound, BoundSocket};

// include/net/tcp_states.h. An unconnected UDP socket is in state CLOSE.
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

// include/uapi/linux/sock_diag.h
const SOCK_DESTROY: u16 = 21;

/// The bound sockets of one protocol in the calling thread's namespace, of both families.
pub(crate) fn bound(protocol: Protocol, which: Bound) -> io::Result<Vec<BoundSocket>> {
    let socket = open()?;
    let states = match (which, protocol) {
        (Bound::All, _) => StateFlags::all(),
        // With any other state the kernel walks the table of all connections of all namespaces
        // (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
        (Bound::Listening, Protocol::Tcp) => StateFlags::LISTEN,
        (Bound::Listening, Protocol::Udp | Protocol::Sctp) => StateFlags::CLOSE,
    };
    let mut result = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        dump(&socket, protocol, &states, family, |header| {
            // TIME_WAIT holds no port that a publisher would disturb.
            if header.state != TCP_TIME_WAIT && header.socket_id.source_port != 0 {
                result.push(BoundSocket {
                    protocol,
                    address: header.socket_id.source_address,
                    port: header.socket_id.source_port,
                    listens: matches!(header.state, TCP_LISTEN | TCP_CLOSE),
                    inode: u64::from(header.inode),
                });
            }
        })?;
    }
    Ok(result)
}

/// A socket that has a peer.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    family: u8,
    id: SocketId,
}

impl Connected {
    pub(crate) fn peer(&self) -> std::net::SocketAddr {
        (self.id.destination_address, self.id.destination_port).into()
    }

    /// As `SO_COOKIE` has it: two words, the lower one first (`sock_diag_save_cookie`,
    /// net/core/sock_diag.c).
    pub(crate) fn cookie(&self) -> u64 {
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
        word([a, b, c, d]) | word([e, f, g, h]) << 32
    }
}

/// The sockets of one protocol in the calling thread's namespace that have a peer.
pub(crate) fn connected(protocol: Protocol) -> io::Result<Vec<Connected>> {
    let socket = open()?;
    let without = StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::TIME_WAIT;
    let states = StateFlags::all() - without;
    let mut result = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        dump(&socket, protocol, &states, family, |header| {
            result.push(Connected {
                family: header.family,
                id: header.socket_id.clone(),
            });
        })?;
    }
    Ok(result)
}

/// Ends a socket of the calling thread's namespace: its process sees ECONNABORTED. Returns whether it
/// was still there.
pub(crate) fn destroy(protocol: Protocol, which: &Connected) -> io::Result<bool> {
    let request = InetRequest {
        family: which.family,
        protocol: protocol.number(),
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: which.id.clone(),
    };
    let mut datagram = datagram(request, NLM_F_REQUEST | NLM_F_ACK);
    // The crate knows of no other message than SOCK_DIAG_BY_FAMILY.
    datagram[4..6].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
    let socket = open()?;
    socket.send(&datagram, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // `struct nlmsgerr` behind the header.
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
    let code = code
        .map(i32::from_ne_bytes)
        .ok_or(io::ErrorKind::InvalidData)?;
    let error = io::Error::from_raw_os_error(code.saturating_neg());
    match error.kind() {
        _ if code == 0 => Ok(true),
        io::ErrorKind::NotFound => Ok(false),
        _ => Err(error),
    }
}

/// A socket to ask with, which waits ten seconds for an answer.
fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let timeout = Some(Duration::from_secs(10));
    set_socket_timeout(socket.as_fd(), Timeout::Recv, timeout)?;
    Ok(socket)
}

fn datagram(request: InetRequest, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
    message.header.flags = flags;
    message.finalize();
    let mut datagram = vec![0; message.buffer_len()];
    message.serialize(&mut datagram);
    datagram
}

fn dump(
    socket: &Socket,
    protocol: Protocol,
    states: &StateFlags,
    family: AddressFamily,
    mut found: impl FnMut(&InetResponseHeader),
) -> io::Result<()> {
    let request = InetRequest {
        family: u8::try_from(family.as_raw()).map_err(io::Error::other)?,
        protocol: protocol.number(),
        extensions: ExtensionFlags::empty(),
        states: states.clone(),
        socket_id: SocketId::new_v4(),
    };
    socket.send(&datagram(request, NLM_F_REQUEST | NLM_F_DUMP), 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while rest.len() >= 16 {
            let message =
                NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(done) => return finished(done.code),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found(&response.header);
                }
                _ => {}
            }
            let length = message.header.length as usize;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The verdict on a dump. The kernel answers ENOENT for a protocol that it does not have: then no
/// socket has it either.
fn finished(code: i32) -> io::Result<()> {
    match code.saturating_neg() {
        0 => Ok(()),
        code if code == Errno::NOENT.raw_os_error() => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_protocol_that_the_kernel_lacks_has_no_sockets() {
        let namespace = sys::netns::NetNs::create().expect("root is needed");
        let sctp = || bound(Protocol::Sctp, Bound::All).unwrap();
        assert_eq!(namespace.run(sctp).unwrap(), []);
        assert!(finished(-Errno::PERM.raw_os_error()).is_err());
    }

    #[test]
    fn listeners_and_unconnected_sockets_are_seen() {
        let namespace = sys::netns::NetNs::create().expect("root is needed");
        namespace
            .run(|| {
                let listener = TcpListener::bind("0.0.0.0:0").unwrap();
                let socket = UdpSocket::bind("[::]:0").unwrap();
                let tcp = bound(Protocol::Tcp, Bound::Listening).unwrap();
                assert_eq!(tcp.len(), 1);
                assert_eq!(tcp[0].port, listener.local_addr().unwrap().port());
                assert!(tcp[0].listens);
                assert_eq!(bound(Protocol::Tcp, Bound::All).unwrap(), tcp);
                let udp = bound(Protocol::Udp, Bound::Listening).unwrap();
                assert_eq!(udp.len(), 1);
                assert_eq!(udp[0].port, socket.local_addr().unwrap().port());
                assert!(udp[0].address.is_ipv6() && udp[0].listens);
                let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
                assert_eq!(udp[0].inode, inode);
            })
            .unwrap();
    }

    #[test]
    fn a_socket_that_is_ended_says_so_and_its_neighbours_live_on() {
        let namespace = sys::netns::NetNs::create().expect("root is needed");
        namespace
            .run(|| {
                let mut up = std::process::Command::new("ip");
                up.args(["link", "set", "lo", "up"]);
                assert!(up.status().unwrap().success());
                let server = TcpListener::bind("127.0.0.1:0").unwrap();
                let to = server.local_addr().unwrap();
                let mut streams = [(); 2].map(|()| TcpStream::connect(to).unwrap());
                let own = streams[0].local_addr().unwrap();
                let found = connected(Protocol::Tcp).unwrap();
                let mut of_own = found
                    .iter()
                    .filter(|socket| socket.peer() == to && socket.id.source_port == own.port());
                let socket = of_own.next().unwrap();
                let cookie = rustix::net::sockopt::socket_cookie(&streams[0]).unwrap();
                assert_eq!(socket.cookie(), cookie);
                assert!(destroy(Protocol::Tcp, socket).unwrap());
                assert!(!destroy(Protocol::Tcp, socket).unwrap());
                let error = streams[0].read(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                streams[1].set_nonblocking(true).unwrap();
                let error = streams[1].read(&mut [0]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            })
            .unwrap();
    }
}
