//! What a host says for an address of a service when nobody serves what is asked of it: headers made
//! from those of the question, checksums and all.
//!
//! All fields are in network order; sums of words are the same in any order (RFC 1071, 2).

use crate::address::Address;
use crate::packet::{Flags, IPV4_MIN_LEN, IPV6_LEN};
use crate::protocol;

/// Headers as words: of IPv4, of IPv6, of TCP without options, of an ICMP error.
pub type Ipv4 = [u16; 10];
pub type Ipv6 = [u16; 20];
pub type Tcp = [u16; 10];
pub type IcmpError = [u16; 4];
/// What an error quotes: the headers, and the ports and what else makes the first eight bytes.
pub type Quote4 = [u16; 14];
pub type Quote6 = [u16; 24];

/// What one quotes of a packet that is long: options and all, with what follows; and of extension headers
/// as many as there mostly are.
pub type LongQuote4 = [u16; 34];
pub type LongQuote6 = [u16; 36];

pub const TCP_LEN: u32 = 20;
pub const ERROR_LEN4: u32 = 8 + 28;
pub const ERROR_LEN6: u32 = 8 + 48;
pub const LONG_ERROR_LEN4: u32 = 8 + size_of::<LongQuote4>() as u32;
pub const LONG_ERROR_LEN6: u32 = 8 + size_of::<LongQuote6>() as u32;

/// What Linux begins with.
const HOPS: u8 = 64;

const RST: u8 = 4;
const ACK: u8 = 16;

#[inline(always)]
const fn word(a: u8, b: u8) -> u16 {
    u16::from_ne_bytes([a, b])
}

#[inline(always)]
const fn halves(number: u32) -> [u16; 2] {
    let [a, b, c, d] = number.to_be_bytes();
    [word(a, b), word(c, d)]
}

#[inline(always)]
const fn whole(high: u16, low: u16) -> u32 {
    let ([a, b], [c, d]) = (high.to_ne_bytes(), low.to_ne_bytes());
    u32::from_be_bytes([a, b, c, d])
}

#[inline(always)]
const fn add<const N: usize>(words: &[u16; N], mut sum: u32) -> u32 {
    let mut at = 0;
    while at < N {
        sum += words[at] as u32;
        at += 1;
    }
    sum
}

/// The checksum of what adds up to `sum`.
#[inline(always)]
const fn checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1), whose addresses count the same in both
/// directions.
#[inline(always)]
const fn pseudo(source: Address, destination: Address, number: u8, length: u32) -> u32 {
    let (from, to) = if source.is_v4() {
        (address4(source), address4(destination))
    } else {
        return add(
            &address6(source),
            add(&address6(destination), tail(number, length)),
        );
    };
    add(&from, add(&to, tail(number, length)))
}

#[inline(always)]
const fn tail(number: u8, length: u32) -> u32 {
    add(&halves(length), word(0, number) as u32)
}

#[inline(always)]
const fn address4(address: Address) -> [u16; 2] {
    let [a, b, c, d] = address.0[3].to_ne_bytes();
    [word(a, b), word(c, d)]
}

#[inline(always)]
const fn address6(address: Address) -> [u16; 8] {
    let mut words = [0; 8];
    let mut at = 0;
    while at < 4 {
        let [a, b, c, d] = address.0[at].to_ne_bytes();
        words[2 * at] = word(a, b);
        words[2 * at + 1] = word(c, d);
        at += 1;
    }
    words
}

/// A header of IPv4 (RFC 791, 3.1) before `length` bytes. Never fragmented, so that it needs no id
/// (RFC 6864, 4.1).
#[inline(always)]
pub const fn ipv4(source: Address, destination: Address, number: u8, length: u32) -> Ipv4 {
    let ([s0, s1], [d0, d1]) = (address4(source), address4(destination));
    let [_, total] = halves(IPV4_MIN_LEN + length);
    let dont_fragment = word(0x40, 0);
    let mut header = [
        word(0x45, 0),
        total,
        0,
        dont_fragment,
        word(HOPS, number),
        0,
        s0,
        s1,
        d0,
        d1,
    ];
    header[5] = checksum(add(&header, 0));
    header
}

/// A header of IPv6 (RFC 8200, 3) before `length` bytes.
#[inline(always)]
pub const fn ipv6(source: Address, destination: Address, number: u8, length: u32) -> Ipv6 {
    let (from, to) = (address6(source), address6(destination));
    let [_, length] = halves(length);
    let mut header = [0; IPV6_LEN as usize / 2];
    header[0] = word(0x60, 0);
    header[2] = length;
    header[3] = word(number, HOPS);
    let mut at = 0;
    while at < 8 {
        header[4 + at] = from[at];
        header[12 + at] = to[at];
        at += 1;
    }
    header
}

/// The reset that answers a segment of `length` bytes, header and all, from `source` (RFC 9293,
/// 3.10.7.1); nothing if that is one itself.
#[inline(always)]
pub const fn reset(source: Address, destination: Address, asked: &Tcp, length: u32) -> Option<Tcp> {
    let [offset, bits] = asked[6].to_ne_bytes();
    let flags = Flags(bits);
    if flags.resets() {
        return None;
    }
    let (sequence, acknowledged, said) = if bits & ACK != 0 {
        ([asked[4], asked[5]], [0, 0], RST)
    } else {
        let data = length.wrapping_sub((offset >> 4) as u32 * 4);
        let begins_and_ends = (bits & 1) as u32 + (bits >> 1 & 1) as u32;
        let next = whole(asked[2], asked[3])
            .wrapping_add(data)
            .wrapping_add(begins_and_ends);
        ([0, 0], halves(next), RST | ACK)
    };
    let mut answer = [
        asked[1],
        asked[0],
        sequence[0],
        sequence[1],
        acknowledged[0],
        acknowledged[1],
        word(0x50, said),
        0,
        0,
        0,
    ];
    let sum = add(&answer, pseudo(source, destination, protocol::TCP, TCP_LEN));
    answer[8] = checksum(sum);
    Some(answer)
}

/// The error that answers a packet of a protocol with ports, or of one that nobody knows (RFC 792; RFC
/// 1122, 3.2.2.1).
#[inline(always)]
pub const fn unreachable4(number: u8, quote: &Quote4) -> IcmpError {
    const PROTOCOL: u8 = 2;
    const PORT: u8 = 3;
    let code = if number == protocol::UDP {
        PORT
    } else {
        PROTOCOL
    };
    let mut error = [word(3, code), 0, 0, 0];
    error[1] = checksum(add(quote, add(&error, 0)));
    error
}

/// The same for IPv6 (RFC 4443, 3.1 and 3.4), which has a pointer for a protocol that nobody knows: to
/// where its number is in the quoted packet.
#[inline(always)]
pub const fn unreachable6(
    source: Address,
    destination: Address,
    number: u8,
    quote: &Quote6,
) -> IcmpError {
    const UNREACHABLE_PORT: u16 = word(1, 4);
    const UNKNOWN_NEXT_HEADER: u16 = word(4, 1);
    let [_, pointer] = halves(6);
    let mut error = if number == protocol::UDP {
        [UNREACHABLE_PORT, 0, 0, 0]
    } else {
        [UNKNOWN_NEXT_HEADER, 0, 0, pointer]
    };
    let sum = pseudo(source, destination, protocol::ICMPV6, ERROR_LEN6);
    error[1] = checksum(add(quote, add(&error, sum)));
    error
}

/// The error that answers a packet too long for its way, and tells what fits (RFC 1191, 4).
#[inline(always)]
pub const fn too_long4(mtu: u16, quote: &LongQuote4) -> IcmpError {
    const FRAGMENTATION_NEEDED: u16 = word(3, 4);
    let mut error = [FRAGMENTATION_NEEDED, 0, 0, mtu.to_be()];
    error[1] = checksum(add(quote, add(&error, 0)));
    error
}

/// The same for IPv6 (RFC 4443, 3.2).
#[inline(always)]
pub const fn too_long6(
    source: Address,
    destination: Address,
    mtu: u16,
    quote: &LongQuote6,
) -> IcmpError {
    const PACKET_TOO_BIG: u16 = word(2, 0);
    let mut error = [PACKET_TOO_BIG, 0, 0, mtu.to_be()];
    let sum = pseudo(source, destination, protocol::ICMPV6, LONG_ERROR_LEN6);
    error[1] = checksum(add(quote, add(&error, sum)));
    error
}

/// The first word of an echo request and of its reply (RFC 792; RFC 4443, 4.1).
#[inline(always)]
pub const fn echo(v4: bool) -> (u16, u16) {
    if v4 {
        (word(8, 0), word(0, 0))
    } else {
        (word(128, 0), word(129, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT4: Address = Address::v4(u32::from_ne_bytes([172, 18, 0, 2]));
    const VIP4: Address = Address::v4(u32::from_ne_bytes([172, 18, 0, 5]));
    const CLIENT6: Address = Address([0xfd00_0018_u32.to_be(), 0, 0, 2_u32.to_be()]);
    const VIP6: Address = Address([0xfd00_0018_u32.to_be(), 0, 0, 5_u32.to_be()]);

    fn segment(sequence: u32, acknowledged: u32, flags: u8) -> Tcp {
        let ([s0, s1], [a0, a1]) = (halves(sequence), halves(acknowledged));
        [
            40_000_u16.to_be(),
            80_u16.to_be(),
            s0,
            s1,
            a0,
            a1,
            word(0x50, flags),
            1024_u16.to_be(),
            7,
            0,
        ]
    }

    /// What a receiver adds up.
    fn is_right<const N: usize>(words: &[u16; N], seed: u32) -> bool {
        checksum(add(words, seed)) == 0
    }

    #[test]
    fn a_segment_that_begins_is_acknowledged() {
        let syn = segment(u32::MAX, 0, 2);
        let answer = reset(CLIENT4, VIP4, &syn, 20).unwrap();
        assert_eq!(answer[..2], [80_u16.to_be(), 40_000_u16.to_be()]);
        assert_eq!(answer[2..6], [0; 4], "the next number comes around");
        assert_eq!(answer[6], word(0x50, RST | ACK));
        assert!(is_right(&answer, pseudo(VIP4, CLIENT4, protocol::TCP, 20)));
        let data = reset(CLIENT6, VIP6, &segment(1_000, 0, 1), 20 + 300).unwrap();
        assert_eq!(whole(data[4], data[5]), 1_301, "300 bytes and the end");
        assert!(is_right(&data, pseudo(VIP6, CLIENT6, protocol::TCP, 20)));
    }

    #[test]
    fn an_acknowledgement_is_answered_with_what_it_expects() {
        let answer = reset(CLIENT4, VIP4, &segment(5, 77_777_777, ACK), 20).unwrap();
        assert_eq!(whole(answer[2], answer[3]), 77_777_777);
        assert_eq!(answer[6], word(0x50, RST));
        assert!(is_right(&answer, pseudo(VIP4, CLIENT4, protocol::TCP, 20)));
    }

    #[test]
    fn a_reset_is_not_answered() {
        for flags in [RST, RST | ACK] {
            assert_eq!(reset(CLIENT4, VIP4, &segment(1, 1, flags), 20), None);
        }
    }

    #[test]
    fn headers_are_whole() {
        let header = ipv4(VIP4, CLIENT4, protocol::TCP, TCP_LEN);
        assert!(is_right(&header, 0));
        assert_eq!(header[1], 40_u16.to_be());
        assert_eq!(
            header[6..],
            [address4(VIP4), address4(CLIENT4)].concat()[..]
        );
        let header = ipv6(VIP6, CLIENT6, protocol::ICMPV6, ERROR_LEN6);
        assert_eq!(header[2], 56_u16.to_be());
        assert_eq!(header[4..12], address6(VIP6));
        assert_eq!(header[12..], address6(CLIENT6));
    }

    #[test]
    fn who_sends_too_much_is_told_what_fits() {
        let quote: LongQuote4 = core::array::from_fn(|at| 0x1000 + at as u16);
        let error = too_long4(1450, &quote);
        assert_eq!(error[0], word(3, 4));
        assert_eq!(error[2..], [0, 1450_u16.to_be()]);
        assert!(is_right(&error, add(&quote, 0)));
        let quote: LongQuote6 = core::array::from_fn(|at| 0xf000 + at as u16);
        let error = too_long6(CLIENT6, VIP6, 1430, &quote);
        assert_eq!(error[0], word(2, 0));
        assert_eq!(error[2..], [0, 1430_u16.to_be()]);
        let seed = add(
            &quote,
            pseudo(VIP6, CLIENT6, protocol::ICMPV6, LONG_ERROR_LEN6),
        );
        assert!(is_right(&error, seed));
    }

    #[test]
    fn errors_quote_and_add_up() {
        let quote: Quote4 = core::array::from_fn(|at| 0x1000 + at as u16);
        for (number, code) in [(protocol::UDP, 3), (protocol::SCTP, 2)] {
            let error = unreachable4(number, &quote);
            assert_eq!(error[0], word(3, code));
            assert!(is_right(&error, add(&quote, 0)));
        }
        let quote: Quote6 = core::array::from_fn(|at| 0xf000 + at as u16);
        let seed = add(&quote, pseudo(VIP6, CLIENT6, protocol::ICMPV6, ERROR_LEN6));
        for (number, kind, code) in [(protocol::UDP, 1, 4), (protocol::SCTP, 4, 1)] {
            let error = unreachable6(VIP6, CLIENT6, number, &quote);
            assert_eq!(error[0], word(kind, code));
            assert!(is_right(&error, seed));
        }
    }
}
