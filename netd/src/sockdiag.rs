//! Which ports the processes of the host have bound (`sock_diag(7)`).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use api::net::Protocol;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
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

/// The bound sockets of one protocol in the calling thread's namespace, of both families.
pub(crate) fn bound(protocol: Protocol, which: Bound) -> io::Result<Vec<BoundSocket>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let timeout = Some(Duration::from_secs(10));
    set_socket_timeout(socket.as_fd(), Timeout::Recv, timeout)?;
    let states = match (which, protocol) {
        (Bound::All, _) => StateFlags::all(),
        // With any other state the kernel walks the table of all connections of all namespaces
        // (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
        (Bound::Listening, Protocol::Tcp) => StateFlags::LISTEN,
        (Bound::Listening, Protocol::Udp | Protocol::Sctp) => StateFlags::CLOSE,
    };
    let mut result = dump(&socket, protocol, states.clone(), AddressFamily::INET)?;
    result.extend(dump(&socket, protocol, states, AddressFamily::INET6)?);
    Ok(result)
}

fn dump(
    socket: &Socket,
    protocol: Protocol,
    states: StateFlags,
    family: AddressFamily,
) -> io::Result<Vec<BoundSocket>> {
    let request = SockDiagMessage::InetRequest(InetRequest {
        family: u8::try_from(family.as_raw()).map_err(io::Error::other)?,
        protocol: protocol.number(),
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId::new_v4(),
    });
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut datagram = vec![0; message.buffer_len()];
    message.serialize(&mut datagram);
    socket.send(&datagram, 0)?;

    let mut result = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while rest.len() >= 16 {
            let message =
                NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(done) => return finished(done.code).map(|()| result),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let header = &response.header;
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
    use std::net::{TcpListener, UdpSocket};

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
}
