//! Encoding of nfnetlink messages: `include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h`.
//!
//! Only what the one table needs. Numbers on the wire are big-endian, attribute headers are not.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::uapi;
use crate::netlink;

/// Messages of nf_tables (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
    NewGen = 15,
}

impl Kind {
    pub(super) fn wire(self) -> u16 {
        uapi::NFNL_SUBSYS_NFTABLES << 8 | self as u16
    }
}

/// One attribute list under construction.
#[derive(Debug, Default, Clone, Hash)]
pub(super) struct Attrs(Vec<u8>);

impl Attrs {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are cut below 64 KiB");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | uapi::NLA_F_NESTED, &inner.0)
    }
}

/// A transaction: all of it happens, or nothing.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<(Kind, u16, Attrs)>,
}

impl Batch {
    pub(super) fn push(&mut self, kind: Kind, flags: u16, attrs: Attrs) {
        self.messages.push((kind, flags, attrs));
    }

    fn encode(&self) -> Vec<u8> {
        let control = |kind| Message {
            kind,
            flags: uapi::NLM_F_REQUEST,
            sequence: 0,
            family: uapi::NFPROTO_UNSPEC,
            resource: uapi::NFNL_SUBSYS_NFTABLES,
            payload: &[],
        };
        let mut datagram = Vec::new();
        control(uapi::NFNL_MSG_BATCH_BEGIN).append(&mut datagram);
        for (sequence, (kind, flags, attrs)) in (1..).zip(&self.messages) {
            let flags = uapi::NLM_F_REQUEST | uapi::NLM_F_ACK | flags;
            Message::of_table(*kind, flags, sequence, attrs).append(&mut datagram);
        }
        control(uapi::NFNL_MSG_BATCH_END).append(&mut datagram);
        datagram
    }
}

/// One message on its way to the kernel.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    fn of_table(kind: Kind, flags: u16, sequence: u32, attrs: &'a Attrs) -> Self {
        Self {
            kind: kind.wire(),
            flags,
            sequence,
            family: uapi::NFPROTO_INET,
            resource: 0,
            payload: &attrs.0,
        }
    }

    fn append(&self, datagram: &mut Vec<u8>) {
        let length = netlink::HEADER + uapi::NFGENMSG + self.payload.len();
        let length = u32::try_from(length).expect("a message below 4 GiB");
        datagram.extend(length.to_ne_bytes());
        datagram.extend(self.kind.to_ne_bytes());
        datagram.extend(self.flags.to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend(0u32.to_ne_bytes());
        datagram.extend([self.family, 0]);
        datagram.extend(self.resource.to_be_bytes());
        datagram.extend(self.payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
}

impl Connection {
    /// A socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        let timeout = Some(Duration::from_secs(10));
        set_socket_timeout(socket.as_fd(), Timeout::Recv, timeout)?;
        Ok(Self { socket })
    }

    pub(super) fn commit(&self, batch: &Batch) -> io::Result<()> {
        if batch.messages.is_empty() {
            return Ok(());
        }
        let datagram = batch.encode();
        // The send buffer must take the whole transaction (`nfnetlink_rcv_batch` wants it in one
        // datagram); FORCE needs CAP_NET_ADMIN, which writing tables needs anyway.
        rustix::net::sockopt::set_socket_send_buffer_size_force(
            self.socket.as_fd(),
            datagram.len() * 2,
        )?;
        self.socket.send(&datagram, 0)?;
        let mut missing = batch.messages.len();
        while missing > 0 {
            let (answer, _) = self.socket.recv_from_full()?;
            for frame in netlink::frames(&answer) {
                if frame.kind == uapi::NLMSG_ERROR {
                    // A transaction that is refused as a whole has one error and no other answer.
                    check(frame.payload)?;
                    missing = missing.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Asks for one object of our family; shows its attributes.
    pub(super) fn ask(
        &self,
        kind: Kind,
        attrs: &Attrs,
        mut show: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let request = Message::of_table(kind, uapi::NLM_F_REQUEST | uapi::NLM_F_ACK, 1, attrs);
        self.query(&request, |_family, attrs| show(attrs))
    }

    /// Dumps objects of our family; shows the attributes of each.
    pub(super) fn dump(
        &self,
        kind: Kind,
        attrs: &Attrs,
        mut show: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let request = Message::of_table(kind, uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP, 1, attrs);
        self.query(&request, |_family, attrs| show(attrs))
    }

    /// Dumps the chains of every family; shows family and attributes of each.
    pub(super) fn dump_chains(&self, show: impl FnMut(u8, &[u8])) -> io::Result<()> {
        let flags = uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP;
        let all = Attrs::new();
        let request = Message {
            family: uapi::NFPROTO_UNSPEC,
            ..Message::of_table(Kind::GetChain, flags, 1, &all)
        };
        self.query(&request, show)
    }

    fn query(&self, request: &Message<'_>, mut show: impl FnMut(u8, &[u8])) -> io::Result<()> {
        let mut datagram = Vec::new();
        request.append(&mut datagram);
        self.socket.send(&datagram, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            for frame in netlink::frames(&answer) {
                match frame.kind {
                    // An error of 0 is the end of an answer, and of a dump alike.
                    uapi::NLMSG_DONE | uapi::NLMSG_ERROR => return check(frame.payload),
                    _ => {
                        let family = frame.payload.first().copied().unwrap_or_default();
                        show(family, attributes_of(frame.payload));
                    }
                }
            }
        }
    }
}

fn check(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .get(..4)
        .and_then(|code| code.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
    }
}

/// What follows the family header of a message of nfnetlink.
pub(super) fn attributes_of(payload: &[u8]) -> &[u8] {
    payload.get(uapi::NFGENMSG..).unwrap_or_default()
}

pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0])?).ok()
}
