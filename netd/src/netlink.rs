//! Blocking rtnetlink.
//!
//! A socket stays in the namespace it was opened in. Requests go out together and are answered
//! together: the kernel works through one datagram of several messages in order, so that a batch
//! costs two system calls.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The kernel cuts dumps to the reader's buffer, up to this (`netlink_recvmsg`,
/// net/netlink/af_netlink.c); nothing else is nearly as long.
const MAX_DATAGRAM: usize = 32 << 10;

/// Answers that wait in the socket's buffer together.
const MAX_ANSWERS: usize = 64;

/// The kernel answers at once; a silent socket is a lost answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// It must not exist.
    Create,
    /// It must exist.
    Change,
    /// It may exist, and becomes as described.
    Replace,
}

impl Mode {
    fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Change => 0,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rtnl {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// Datagrams.
    #[cfg(test)]
    pub(crate) sent: usize,
}

impl Rtnl {
    /// A socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors without a copy of the request; filters in dumps are taken seriously (Linux 4.20).
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        set_timeout(&socket, ANSWER_TIMEOUT)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; MAX_DATAGRAM],
            #[cfg(test)]
            sent: 0,
        })
    }

    pub(crate) fn cookie(&self) -> io::Result<u64> {
        sys::netns::cookie(self.socket.as_fd())
    }

    /// One request and its errors, as an iterator would be awkward: `Ok` or the kernel's refusal.
    pub(crate) fn ask(&mut self, message: RouteNetlinkMessage, mode: Mode) -> io::Result<()> {
        self.batch(vec![(message, mode)])?
            .pop()
            .unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Several requests in one datagram; each has its own result, later ones are tried although
    /// earlier ones failed.
    pub(crate) fn batch(
        &mut self,
        requests: Vec<(RouteNetlinkMessage, Mode)>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        let mut datagram = Vec::new();
        for (message, mode) in requests {
            let flags = NLM_F_REQUEST | NLM_F_ACK | mode.flags();
            self.append(&mut datagram, message, flags);
        }
        self.send(&datagram)?;
        let mut results: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            self.receive(|header_sequence, payload| {
                let at = header_sequence.wrapping_sub(first) as usize;
                if let (NetlinkPayload::Error(answer), Some(result)) =
                    (payload, results.get_mut(at))
                {
                    *result = Some(match answer.code {
                        None => Ok(()),
                        Some(_) => Err(answer.to_io()),
                    });
                }
                false
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// The objects that answer one request, such as a link asked for by name.
    pub(crate) fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.query(message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// The object that answers each request, or the kernel's refusal of it: asked for together.
    pub(crate) fn get_each(
        &mut self,
        requests: Vec<RouteNetlinkMessage>,
    ) -> io::Result<Vec<io::Result<RouteNetlinkMessage>>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let some = requests.by_ref().take(MAX_ANSWERS).collect();
            results.extend(self.get_some(some)?);
        }
        Ok(results)
    }

    fn get_some(
        &mut self,
        requests: Vec<RouteNetlinkMessage>,
    ) -> io::Result<Vec<io::Result<RouteNetlinkMessage>>> {
        let first = self.sequence.wrapping_add(1);
        let mut results: Vec<Option<io::Result<RouteNetlinkMessage>>> =
            requests.iter().map(|_| None).collect();
        let mut datagram = Vec::new();
        for message in requests {
            self.append(&mut datagram, message, NLM_F_REQUEST);
        }
        self.send(&datagram)?;
        while results.iter().any(Option::is_none) {
            self.receive(|header_sequence, payload| {
                let at = header_sequence.wrapping_sub(first) as usize;
                let answer = match payload {
                    NetlinkPayload::InnerMessage(message) => Ok(message),
                    NetlinkPayload::Error(refusal) => Err(refusal.to_io()),
                    _ => return false,
                };
                if let Some(result) = results.get_mut(at) {
                    *result = Some(answer);
                }
                false
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    pub(crate) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.query(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn query(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut datagram = Vec::new();
        let sequence = self.append(&mut datagram, message, flags);
        self.send(&datagram)?;
        let mut answers = Vec::new();
        let mut refusal = None;
        let mut done = false;
        while !done {
            done = self.receive(|header_sequence, payload| {
                if header_sequence != sequence {
                    return false;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return true,
                    NetlinkPayload::Error(answer) => {
                        refusal = answer.code.map(|_| answer.to_io());
                        return true;
                    }
                    _ => {}
                }
                false
            })?;
        }
        match refusal {
            None => Ok(answers),
            Some(error) => Err(error),
        }
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        {
            self.sent += 1;
        }
        self.socket.send(datagram, 0).map(drop)
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len(), 0);
        message.serialize(&mut datagram[start..]);
        self.sequence
    }

    /// Reads one datagram and shows its messages; true when one was the last awaited.
    fn receive(
        &mut self,
        mut show: impl FnMut(u32, NetlinkPayload<RouteNetlinkMessage>) -> bool,
    ) -> io::Result<bool> {
        let length = self.socket.recv(&mut self.buffer.as_mut_slice(), 0)?;
        let mut last = false;
        for frame in frames(&self.buffer[..length]) {
            match frame.parse() {
                Ok(payload) => last |= show(frame.sequence(), payload),
                // One device with attributes from the future must not hide all others.
                Err(error) => tracing::debug!(%error, "unreadable netlink message"),
            }
        }
        Ok(last)
    }
}

/// A socket that hears what the kernel tells `groups` of a netlink protocol, in the calling
/// thread's namespace.
pub(crate) fn listen(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// One message of a datagram, not yet understood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u16,
    /// With the header.
    pub(crate) message: &'a [u8],
    /// Without it.
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// The message as one of rtnetlink.
    pub(crate) fn parse(&self) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        let message = NetlinkMessage::deserialize(self.message).map_err(io::Error::other)?;
        Ok(message.payload)
    }

    fn sequence(&self) -> u32 {
        let bytes = self.message.get(8..12).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }
}

/// The messages of one datagram.
pub(crate) fn frames(mut datagram: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let message = datagram.get(..length)?;
        let payload = message.get(HEADER..)?;
        // Messages are padded to four bytes (NLMSG_ALIGN).
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Frame {
            kind: u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?),
            message,
            payload,
        })
    })
}

/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The attributes of a list: kind without flags, and value.
pub(crate) fn attributes(mut list: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(list.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(list.get(2..4)?.try_into().ok()?);
        let value = list.get(4..length)?;
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

pub(crate) fn attribute(list: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(list)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn set_timeout(socket: &Socket, timeout: Duration) -> io::Result<()> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(timeout))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;

    #[test]
    fn a_batch_answers_each_request() {
        let namespace = sys::netns::NetNs::create().expect("root is needed");
        let mut rtnl = namespace.run(Rtnl::open).unwrap().unwrap();
        let links = rtnl
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .unwrap();
        assert_eq!(links.len(), 1, "loopback only: {links:?}");
        let missing = || {
            let mut link = LinkMessage::default();
            link.header.index = 4242;
            (RouteNetlinkMessage::SetLink(link), Mode::Change)
        };
        let results = rtnl.batch(vec![missing(), missing()]).unwrap();
        assert_eq!(results.len(), 2);
        for result in results {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(19), "ENODEV");
        }
    }
}
