//! Builds packets with every checksum right, unless told otherwise: "the packet out equals the one
//! built between the translated ends" then verifies checksums, too.

use std::net::{IpAddr, SocketAddr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;

pub(crate) const SYN: u8 = 2;
pub(crate) const SYN_ACK: u8 = 18;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN_ACK: u8 = 17;
pub(crate) const RST: u8 = 4;

/// Chunk types of SCTP.
pub(crate) const DATA: u8 = 0;
pub(crate) const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;
pub(crate) const ABORT: u8 = 6;
pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fragment {
    Whole,
    First,
    Later,
}

/// A packet to be built. The methods change one thing each.
#[derive(Clone)]
pub(crate) struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    /// TCP's flags, the type of SCTP's chunk, the type of ICMP's message.
    kind: u8,
    /// Of an ICMP message.
    code: u8,
    payload: Vec<u8>,
    /// For a quoted packet: the ends between which its transport checksum was right.
    summed: Option<(SocketAddr, SocketAddr)>,
    ttl: u8,
    tags: Vec<u16>,
    options: Vec<u8>,
    /// IPv6 extension headers: their numbers, and their bytes after the next header's number.
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Fragment,
    wrong: u16,
    wrong_header: u16,
    no_checksum: bool,
    cut: Option<usize>,
    padding: usize,
    edits: Vec<(usize, u8)>,
}

impl Packet {
    pub(crate) fn new(protocol: u8, from: SocketAddr, to: SocketAddr, kind: u8) -> Self {
        Self {
            from,
            to,
            protocol,
            kind,
            code: 0,
            payload: b"an odd payload!".to_vec(),
            summed: None,
            ttl: 64,
            tags: Vec::new(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: Fragment::Whole,
            wrong: 0,
            wrong_header: 0,
            no_checksum: false,
            cut: None,
            padding: 0,
            edits: Vec::new(),
        }
    }

    /// An ICMP error about the first `length` bytes of `quoted`, its IP header counted.
    pub(crate) fn error(from: IpAddr, to: IpAddr, kind: u8, quoted: &Self, length: usize) -> Self {
        let protocol = if from.is_ipv4() { ICMP } else { ICMP6 };
        let mut error = Self::new(protocol, (from, 0).into(), (to, 0).into(), kind);
        let quoted = quoted.build();
        error.payload = quoted[14..quoted.len().min(14 + length)].to_vec();
        error
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The same packet between other ends.
    pub(crate) fn between(&self, from: SocketAddr, to: SocketAddr) -> Self {
        self.clone().with(|p| (p.from, p.to) = (from, to))
    }

    /// The same packet between other ends, as an ICMP error quotes it: nobody translates, or looks
    /// at, the transport checksum in there.
    /// Another one between the same ends, with nothing unusual.
    pub(crate) fn plain(&self, kind: u8) -> Self {
        Self::new(self.protocol, self.from, self.to, kind)
    }

    /// One to its sender.
    pub(crate) fn answer(&self, kind: u8) -> Self {
        Self::new(self.protocol, self.to, self.from, kind)
    }

    pub(crate) fn quoted_between(&self, from: SocketAddr, to: SocketAddr) -> Self {
        let summed = Some((self.from, self.to));
        self.between(from, to).with(|p| p.summed = summed)
    }

    /// An ICMP message of another code than zero.
    pub(crate) fn code(self, code: u8) -> Self {
        self.with(|p| p.code = code)
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        self.with(|p| p.ttl = ttl)
    }

    /// A VLAN tag in the frame: what is left when the kernel has taken the outer one off.
    pub(crate) fn tag(self, kind: u16) -> Self {
        self.with(|p| p.tags.push(kind))
    }

    /// IPv4 options.
    pub(crate) fn options(self, options: &[u8]) -> Self {
        self.with(|p| p.options = options.to_vec())
    }

    /// An IPv6 extension header of `units` times eight bytes.
    pub(crate) fn extension(self, number: u8, units: u8) -> Self {
        let mut bytes = vec![units - 1];
        // PadN; a routing header of a type that no receiver knows, with no segments left.
        bytes.extend([if number == 43 { 250 } else { 1 }, 0]);
        bytes.resize(usize::from(units) * 8 - 1, 0);
        if number != 43 {
            bytes[2] = units * 8 - 4;
        }
        self.with(|p| p.extensions.push((number, bytes)))
    }

    /// An authentication header, whose length is counted in another way (RFC 4302, 2.2).
    pub(crate) fn authenticated(self) -> Self {
        let mut bytes = vec![4];
        bytes.resize(23, 7);
        self.with(|p| p.extensions.push((51, bytes)))
    }

    /// An IPv6 fragment header that says that the packet is whole (RFC 6946).
    pub(crate) fn atomic(self) -> Self {
        self.with(|p| p.extensions.push((44, vec![0, 0, 0, 0, 0, 0, 9])))
    }

    pub(crate) fn fragment(self, fragment: Fragment) -> Self {
        self.with(|p| p.fragment = fragment)
    }

    /// Makes the transport checksum wrong by this much.
    pub(crate) fn wrong(self, by: u16) -> Self {
        self.with(|p| p.wrong = by)
    }

    /// Makes the checksum of IPv4's header wrong.
    pub(crate) fn wrong_header(self, by: u16) -> Self {
        self.with(|p| p.wrong_header = by)
    }

    /// None in UDP over IPv4; to be filled in by a device, or given up by both ends, in SCTP.
    pub(crate) fn no_checksum(self) -> Self {
        self.with(|p| p.no_checksum = true)
    }

    pub(crate) fn payload(self, payload: &[u8]) -> Self {
        self.with(|p| p.payload = payload.to_vec())
    }

    /// Ends the frame after so many bytes; headers still tell the whole length.
    pub(crate) fn cut(self, length: usize) -> Self {
        self.with(|p| p.cut = Some(length))
    }

    /// Bytes behind the packet, as a device adds to short frames.
    pub(crate) fn padding(self, length: usize) -> Self {
        self.with(|p| p.padding = length)
    }

    /// Puts a byte in its place when the frame is finished, whatever belongs there.
    pub(crate) fn edit(self, at: usize, byte: u8) -> Self {
        self.with(|p| p.edits.push((at, byte)))
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for kind in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend([0, 5]);
        }
        let upper = match self.fragment {
            Fragment::Later => self.payload.clone(),
            _ => self.upper(),
        };
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0]);
                frame.extend(self.ipv4(from.octets(), to.octets(), upper.len()));
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ipv6(from.octets(), to.octets(), upper.len()));
            }
            (from, to) => panic!("{from} and {to} are of two families"),
        }
        frame.extend(upper);
        frame.extend(vec![0xee; self.padding]);
        for (at, byte) in &self.edits {
            frame[*at] = *byte;
        }
        frame.truncate(self.cut.unwrap_or(frame.len()));
        frame
    }

    fn ipv4(&self, from: [u8; 4], to: [u8; 4], length: usize) -> Vec<u8> {
        let header = 20 + self.options.len();
        let fragment: u16 = match self.fragment {
            Fragment::Whole => 0,
            Fragment::First => 0x2000,
            Fragment::Later => 185,
        };
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + length) as u16).to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend(&self.options);
        let value = plus(!sum(&bytes, 0), self.wrong_header);
        put(&mut bytes, 10, value);
        bytes
    }

    fn ipv6(&self, from: [u8; 16], to: [u8; 16], length: usize) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        match self.fragment {
            Fragment::Whole => {}
            Fragment::First => extensions.push((44, vec![0, 0, 1, 0, 0, 0, 7])),
            Fragment::Later => extensions.push((44, vec![0, 5, 0xc8, 0, 0, 0, 7])),
        }
        let numbers: Vec<u8> = extensions.iter().map(|(number, _)| *number).collect();
        let next = |i: usize| numbers.get(i).copied().unwrap_or(self.protocol);
        let mut chain = Vec::new();
        for (i, (_, bytes)) in extensions.iter().enumerate() {
            chain.push(next(i + 1));
            chain.extend(bytes);
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(((chain.len() + length) as u16).to_be_bytes());
        bytes.extend([next(0), self.ttl]);
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend(chain);
        bytes
    }

    /// The transport header and what follows it.
    pub(crate) fn upper(&self) -> Vec<u8> {
        let (source, destination) = (self.from.port(), self.to.port());
        let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        let checksum = match self.protocol {
            TCP => {
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.kind, 0x10, 0, 0, 0, 0, 0]);
                16
            }
            UDP => {
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            SCTP => {
                // The tag, the checksum, and a chunk, padded as it must be (RFC 9260, 3.2).
                bytes.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, self.kind, 0]);
                bytes.extend((4 + self.payload.len() as u16).to_be_bytes());
                8
            }
            _ => {
                bytes = vec![self.kind, self.code, 0, 0, 0, 0, 5, 20];
                2
            }
        };
        bytes.extend(&self.payload);
        if self.protocol == SCTP {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        if self.no_checksum {
            return bytes;
        }
        if let Some((from, to)) = self.summed {
            let before = self.between(from, to).with(|p| p.summed = None).upper();
            let length = if self.protocol == SCTP { 4 } else { 2 };
            bytes[checksum..checksum + length]
                .copy_from_slice(&before[checksum..checksum + length]);
            return bytes;
        }
        if self.protocol == SCTP {
            let crc = (!crc32c(&bytes)) ^ u32::from(self.wrong);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            return bytes;
        }
        let mut value = plus(!sum(&bytes, self.pseudo(bytes.len())), self.wrong);
        if self.protocol == UDP && value == 0 {
            value = 0xffff;
        }
        put(&mut bytes, checksum, value);
        bytes
    }

    /// The sum of what the checksum covers beside the message itself.
    fn pseudo(&self, length: usize) -> u32 {
        let mut bytes = Vec::new();
        for end in [self.from, self.to] {
            match end.ip() {
                IpAddr::V4(_) if self.protocol == ICMP => return 0,
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol]);
        u32::from(sum(&bytes, 0))
    }
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of RFC 1071, not yet complemented.
pub(crate) fn sum(data: &[u8], seed: u32) -> u16 {
    let sum = data.chunks(2).fold(seed, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0))
    });
    fold(sum)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn plus(a: u16, b: u16) -> u16 {
    fold(u32::from(a) + u32::from(b))
}

/// Bit by bit, over everything: slow, and nothing to get wrong (RFC 9260, appendix A).
fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |mut register, byte| {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = (register >> 1) ^ if register & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
        register
    })
}
