//! The sockets of one network's or one sandbox's resolver: UDP and TCP on one address and one port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// Ports tried after the preferred one. The kernel proposes them free for UDP; only a clash with
/// somebody's TCP listener makes another try necessary.
const TRIES: usize = 16;
const BACKLOG: i32 = 128;
/// Room for the queries that arrive together while the reader is busy, as when hundreds of
/// containers start: the default holds about 250.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Both on one port of one address.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    pub(super) local: SocketAddr,
}

impl Sockets {
    /// Where they are bound.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

/// Binds both sockets to `preferred` or, when that port is taken, to one the kernel chooses.
///
/// The address need not be up yet.
///
/// # Errors
/// That of the last port tried.
pub fn bind(address: IpAddr, preferred: u16) -> io::Result<Sockets> {
    let fallback = std::iter::repeat_n(0, TRIES);
    let ports = (preferred != 0)
        .then_some(preferred)
        .into_iter()
        .chain(fallback);
    let mut taken = Errno::ADDRINUSE;
    for port in ports {
        match bind_both(address, port) {
            Err(error @ (Errno::ADDRINUSE | Errno::ACCESS)) => taken = error,
            done => return Ok(done?),
        }
    }
    Err(taken.into())
}

fn bind_both(address: IpAddr, port: u16) -> rustix::io::Result<Sockets> {
    let udp: UdpSocket = socket(address, SocketType::DGRAM)?.into();
    // Above what others may have (`rmem_max`) only with CAP_NET_ADMIN; what there is will do.
    if sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER)?;
    }
    rustix::net::bind(&udp, &SocketAddr::new(address, port))?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&udp)?)?;
    let tcp: TcpListener = socket(address, SocketType::STREAM)?.into();
    // Connections of a predecessor in TIME_WAIT must not keep us from its port. A listener of
    // somebody else still does.
    sockopt::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &local)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    Ok(Sockets { udp, tcp, local })
}

fn socket(address: IpAddr, kind: SocketType) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let (family, protocol) = match (address, kind) {
        (IpAddr::V4(_), SocketType::STREAM) => (AddressFamily::INET, ipproto::TCP),
        (IpAddr::V6(_), SocketType::STREAM) => (AddressFamily::INET6, ipproto::TCP),
        (IpAddr::V4(_), _) => (AddressFamily::INET, ipproto::UDP),
        (IpAddr::V6(_), _) => (AddressFamily::INET6, ipproto::UDP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    match address {
        IpAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        IpAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    Ok(socket)
}
