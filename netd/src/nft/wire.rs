//! Encoding of nfnetlink messages: `include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h`.
//!
//! Only what the one table needs. Numbers on the wire are big-endian, attribute headers are not.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// Messages of nf_tables (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    NewSetElem = 12,
    GetSetElem = 13,
}

/// One attribute list under construction.
#[derive(Debug, Default, Clone)]
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
        self.bytes(kind | NLA_F_NESTED, &inner.0)
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
        let mut datagram = Vec::new();
        let control = |datagram: &mut Vec<u8>, kind, sequence| {
            let resource = NFNL_SUBSYS_NFTABLES;
            put(
                datagram,
                kind,
                NLM_F_REQUEST,
                sequence,
                NFPROTO_UNSPEC,
                resource,
                &[],
            );
        };
        control(&mut datagram, NFNL_MSG_BATCH_BEGIN, 0);
        for (at, (kind, flags, attrs)) in self.messages.iter().enumerate() {
            let sequence = u32::try_from(at + 1).expect("fewer messages");
            let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            put(
                &mut datagram,
                wire(*kind),
                flags,
                sequence,
                NFPROTO_INET,
                0,
                &attrs.0,
            );
        }
        control(&mut datagram, NFNL_MSG_BATCH_END, 0);
        datagram
    }
}

fn wire(kind: Kind) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind as u16
}

fn put(
    datagram: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    payload: &[u8],
) {
    let length = u32::try_from(HEADER + NFGENMSG + payload.len()).expect("a message below 4 GiB");
    datagram.extend(length.to_ne_bytes());
    datagram.extend(kind.to_ne_bytes());
    datagram.extend(flags.to_ne_bytes());
    datagram.extend(sequence.to_ne_bytes());
    datagram.extend(0u32.to_ne_bytes());
    datagram.extend([family, 0]);
    datagram.extend(resource.to_be_bytes());
    datagram.extend(payload);
    datagram.resize(datagram.len().next_multiple_of(4), 0);
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
            for message in Messages(&answer) {
                if message.kind == NLMSG_ERROR {
                    // A transaction that is refused as a whole has one error and no other answer.
                    check(message.payload)?;
                    missing = missing.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Dumps objects; shows the attributes of each.
    pub(super) fn dump(
        &self,
        kind: Kind,
        attrs: &Attrs,
        mut show: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut datagram = Vec::new();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        put(
            &mut datagram,
            wire(kind),
            flags,
            1,
            NFPROTO_INET,
            0,
            &attrs.0,
        );
        self.socket.send(&datagram, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            for message in Messages(&answer) {
                match message.kind {
                    NLMSG_DONE => {
                        // The dump's own error code, 0 for none.
                        return check(message.payload);
                    }
                    NLMSG_ERROR => return check(message.payload),
                    _ => show(message.payload.get(NFGENMSG..).unwrap_or_default()),
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

struct Message<'a> {
    kind: u16,
    payload: &'a [u8],
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?) as usize;
        let message = self.0.get(..length)?;
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind,
            payload: message.get(HEADER..)?,
        })
    }
}

/// The attributes of a list: kind without flags, and value.
pub(super) fn attributes(mut list: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(list.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(list.get(2..4)?.try_into().ok()?);
        let value = list.get(4..length)?;
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NLA_F_NESTED, value))
    })
}

pub(super) fn attribute(list: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(list)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}
