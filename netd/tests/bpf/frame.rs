//! Builds Ethernet frames with right checksums, so that "frame out equals the frame built with the
//! translated addresses" also verifies every checksum.

use std::net::{IpAddr, SocketAddr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN_ACK: u8 = 17;

/// What makes a packet unusual.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape<'a> {
    /// IPv4 options, or IPv6 extension headers (the first one's number in `extension`).
    pub options: &'a [u8],
    pub extension: Option<u8>,
    /// IPv4: offset in units of eight bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    /// UDP over IPv4 without a checksum.
    pub no_checksum: bool,
}

pub(crate) fn tcp(from: &str, to: &str, flags: u8) -> Vec<u8> {
    shaped_tcp(from, to, flags, Shape::default())
}

pub(crate) fn udp(from: &str, to: &str) -> Vec<u8> {
    shaped_udp(from, to, Shape::default())
}

pub(crate) fn shaped_tcp(from: &str, to: &str, flags: u8, shape: Shape<'_>) -> Vec<u8> {
    let (from, to) = (socket(from), socket(to));
    frame(
        from.ip(),
        to.ip(),
        TCP,
        &tcp_segment(from, to, flags),
        shape,
    )
}

pub(crate) fn shaped_udp(from: &str, to: &str, shape: Shape<'_>) -> Vec<u8> {
    let (from, to) = (socket(from), socket(to));
    frame(
        from.ip(),
        to.ip(),
        UDP,
        &udp_datagram(from, to, shape.no_checksum),
        shape,
    )
}

/// A later IPv4 fragment: no transport header.
pub(crate) fn later_fragment(from: &str, to: &str, protocol: u8) -> Vec<u8> {
    let shape = Shape {
        fragment: Some((185, false)),
        ..Shape::default()
    };
    frame(
        address(from),
        address(to),
        protocol,
        b"rest of a datagram",
        shape,
    )
}

/// An ICMP "fragmentation needed" or ICMPv6 "packet too big" from `from` to `to`, quoting the TCP
/// packet (`quoted_from` to `quoted_to`) as far as its ports and sequence number.
pub(crate) fn icmp_error(from: &str, to: &str, quoted_from: &str, quoted_to: &str) -> Vec<u8> {
    let (source, destination) = (socket(quoted_from), socket(quoted_to));
    // Routers need not quote more, and the quoted checksum, further on, is nobody's business.
    let segment = &tcp_segment(source, destination, ACK)[..8];
    let quoted = frame(
        source.ip(),
        destination.ip(),
        TCP,
        segment,
        Shape::default(),
    );
    let (from, to) = (address(from), address(to));
    let (kind, code, protocol) = if from.is_ipv4() {
        (3, 4, 1)
    } else {
        (2, 0, 58)
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 5, 20];
    message.extend_from_slice(&quoted[14..]);
    let sum = match protocol {
        1 => checksum(&message, 0),
        _ => transport_checksum(from, to, protocol, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(from, to, protocol, &message, Shape::default())
}

fn tcp_segment(from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend_from_slice(&from.port().to_be_bytes());
    segment.extend_from_slice(&to.port().to_be_bytes());
    segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    segment.extend_from_slice(b"odd");
    let sum = transport_checksum(from.ip(), to.ip(), TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

fn udp_datagram(from: SocketAddr, to: SocketAddr, no_checksum: bool) -> Vec<u8> {
    let payload = b"datagram";
    let mut datagram = Vec::new();
    datagram.extend_from_slice(&from.port().to_be_bytes());
    datagram.extend_from_slice(&to.port().to_be_bytes());
    datagram.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    if !no_checksum {
        let sum = transport_checksum(from.ip(), to.ip(), UDP, &datagram);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    datagram
}

pub(crate) fn frame(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: &[u8],
    shape: Shape<'_>,
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header_len = 20 + shape.options.len();
            let (offset, more) = shape.fragment.unwrap_or((0, false));
            let fragment = offset | if more { 0x2000 } else { 0 };
            let mut header = vec![0x40 | (header_len / 4) as u8, 0];
            header.extend_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
            header.extend_from_slice(&0x1234_u16.to_be_bytes());
            header.extend_from_slice(&u16::to_be_bytes(fragment));
            header.extend_from_slice(&[64, protocol, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header.extend_from_slice(shape.options);
            let sum = checksum(&header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            let length = (shape.options.len() + payload.len()) as u16;
            frame.extend_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(&[shape.extension.unwrap_or(protocol), 64]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
            frame.extend_from_slice(shape.options);
        }
        _ => panic!("{from} and {to} are of two families"),
    }
    frame.extend_from_slice(payload);
    frame
}

fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, data: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => pseudo.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => pseudo.extend_from_slice(&ip.octets()),
        }
    }
    pseudo.extend_from_slice(&(data.len() as u32).to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, protocol]);
    checksum(data, sum(&pseudo, 0))
}

/// RFC 1071.
fn checksum(data: &[u8], seed: u32) -> u16 {
    let mut sum = sum(data, seed);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum(data: &[u8], seed: u32) -> u32 {
    data.chunks(2).fold(seed, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0))
    })
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
