//! A socket to a receiver. Nothing here blocks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use rustls::ClientConnection;

use super::journald;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    Later,
    /// It is too large.
    Never,
    /// An earlier one was refused; this one is to be sent again.
    EarlierLost,
}

#[derive(Debug)]
pub(super) enum Wire {
    /// Messages too large for the socket go as files if the receiver is the journal.
    Datagrams {
        socket: OwnedFd,
        is_journal: bool,
    },
    Stream(Box<Stream>),
}

#[derive(Debug)]
pub(super) struct Stream {
    socket: File,
    is_connected: bool,
    tls: Option<ClientConnection>,
    /// How much of the message is written.
    written: usize,
}

impl Wire {
    /// A datagram socket to one at a path.
    pub(super) fn datagrams(path: &Path, is_journal: bool) -> io::Result<Self> {
        let socket = socket(AddressFamily::UNIX, SocketType::DGRAM)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self::Datagrams { socket, is_journal })
    }

    pub(super) fn udp(address: SocketAddr) -> io::Result<Self> {
        let socket = socket(family(address), SocketType::DGRAM)?;
        connect(&socket, &address)?;
        Ok(Self::Datagrams {
            socket,
            is_journal: false,
        })
    }

    pub(super) fn stream(path: &Path) -> io::Result<Self> {
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self::of_stream(socket, true, None))
    }

    pub(super) fn tcp(address: SocketAddr, tls: Option<ClientConnection>) -> io::Result<Self> {
        let socket = socket(family(address), SocketType::STREAM)?;
        let is_connected = match connect(&socket, &address) {
            Ok(()) => true,
            Err(Errno::INPROGRESS) => false,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self::of_stream(socket, is_connected, tls))
    }

    fn of_stream(socket: OwnedFd, is_connected: bool, tls: Option<ClientConnection>) -> Self {
        Self::Stream(Box::new(Stream {
            socket: socket.into(),
            is_connected,
            tls,
            written: 0,
        }))
    }

    pub(super) fn interest(&self, has_unsent: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Datagrams { socket, .. } => {
                has_unsent.then_some((socket.as_fd(), PollFlags::OUT))
            }
            Self::Stream(stream) => {
                let mut events = PollFlags::IN;
                let writes = has_unsent || !stream.is_connected;
                let says = stream.tls.as_ref().is_some_and(|tls| tls.wants_write());
                events.set(PollFlags::OUT, writes || says);
                Some((stream.socket.as_fd(), events))
            }
        }
    }

    /// Whether messages can be sent.
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        match self {
            Self::Datagrams { .. } => Ok(true),
            Self::Stream(stream) => stream.is_ready(),
        }
    }

    /// Notices a receiver that has hung up.
    pub(super) fn hear(&mut self) -> io::Result<()> {
        match self {
            Self::Datagrams { .. } => Ok(()),
            Self::Stream(stream) => stream.hear(),
        }
    }

    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<Sent> {
        match self {
            Self::Datagrams { socket, is_journal } => send_datagram(socket, message, *is_journal),
            Self::Stream(stream) => Ok(match stream.send(message)? {
                true => Sent::Whole,
                false => Sent::Later,
            }),
        }
    }
}

fn socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, None)?)
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

fn send_datagram(socket: &OwnedFd, message: &[u8], is_journal: bool) -> io::Result<Sent> {
    match send(socket, message, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(Sent::Whole),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Sent::Later),
        Err(Errno::MSGSIZE | Errno::NOBUFS) if is_journal => {
            journald::send_as_file(socket, message).map(|()| Sent::Whole)
        }
        Err(Errno::MSGSIZE | Errno::NOBUFS) => Ok(Sent::Never),
        // Told once of what an ICMP message has said (udp(7)).
        Err(Errno::CONNREFUSED) if is_udp(socket) => Ok(Sent::EarlierLost),
        Err(errno) => Err(errno.into()),
    }
}

fn is_udp(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_domain(socket).is_ok_and(|domain| domain != AddressFamily::UNIX)
}

impl Stream {
    fn is_ready(&mut self) -> io::Result<bool> {
        if !self.is_connected {
            socket_error(&self.socket)??;
            match rustix::net::getpeername(&self.socket) {
                Ok(Some(_)) => self.is_connected = true,
                Ok(None) | Err(Errno::NOTCONN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.is_handshaking()) {
            let moved = match tls.wants_write() {
                true => tls.write_tls(&mut self.socket).map(drop),
                false => self.hear_tls(),
            };
            match moved {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Fails with `WouldBlock` when there is nothing to hear.
    fn hear_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if tls.read_tls(&mut self.socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        if state.peer_has_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Nobody answers syslog messages.
        let mut said = vec![0; state.plaintext_bytes_to_read()];
        tls.reader().read_exact(&mut said)
    }

    fn hear(&mut self) -> io::Result<()> {
        let heard = match &self.tls {
            Some(_) => self.hear_tls(),
            None => {
                let mut said = [0; 512];
                self.socket.read(&mut said).and_then(|length| match length {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(()),
                })
            }
        };
        match heard {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            outcome => outcome,
        }
    }

    /// True when all of the message is on its way; else to be called again with the same one.
    fn send(&mut self, message: &[u8]) -> io::Result<bool> {
        let written = match &mut self.tls {
            None => write_rest(&mut self.socket, message, &mut self.written),
            Some(tls) => write_rest(&mut tls.writer(), message, &mut self.written)
                .and_then(|()| flush(tls, &mut self.socket)),
        };
        match written {
            Ok(()) => {
                self.written = 0;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn write_rest(out: &mut impl Write, message: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < message.len() {
        match out.write(&message[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Ok(length) => *written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn flush(tls: &mut ClientConnection, socket: &mut File) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    Ok(())
}
