//! Frames in few words, where little of them matters; [`crate::packet`] builds any.

use std::net::{IpAddr, SocketAddr};

pub(crate) use crate::packet::{ACK, FIN_ACK, SYN, TCP, UDP};
use crate::packet::{Packet, put, sum};

/// What makes a packet unusual.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape<'a> {
    /// IPv4 options, or IPv6 extension headers (the first one's number in `extension`).
    pub options: &'a [u8],
    pub extension: Option<u8>,
    /// IPv4: offset in units of eight bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
}

pub(crate) fn tcp(from: &str, to: &str, flags: u8) -> Vec<u8> {
    shaped_tcp(from, to, flags, Shape::default())
}

pub(crate) fn udp(from: &str, to: &str) -> Vec<u8> {
    shaped_udp(from, to, Shape::default())
}

pub(crate) fn shaped_tcp(from: &str, to: &str, flags: u8, shape: Shape<'_>) -> Vec<u8> {
    shaped(TCP, from, to, flags, shape)
}

pub(crate) fn shaped_udp(from: &str, to: &str, shape: Shape<'_>) -> Vec<u8> {
    shaped(UDP, from, to, 0, shape)
}

fn shaped(protocol: u8, from: &str, to: &str, flags: u8, shape: Shape<'_>) -> Vec<u8> {
    let (from, to) = (socket(from), socket(to));
    let upper = Packet::new(protocol, from, to, flags).upper();
    frame(from.ip(), to.ip(), protocol, &upper, shape)
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
            let checksum = !sum(&header, 0);
            put(&mut header, 10, checksum);
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

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
