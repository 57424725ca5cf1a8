//! Reading header fields: pure functions over bytes a program has already fetched.

use crate::protocol;

pub const ETHERNET_LEN: u32 = 14;
pub const IPV4_MIN_LEN: u32 = 20;
pub const IPV6_LEN: u32 = 40;
/// Bytes of an ICMP or ICMPv6 error before the quoted packet.
pub const ICMP_ERROR_LEN: u32 = 8;

/// `ETH_P_IP` and `ETH_P_IPV6` as `__sk_buff::protocol` holds them.
pub const PROTOCOL_IPV4: u32 = 0x0800_u16.to_be() as u32;
pub const PROTOCOL_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// What a packet does to its connection, as the flag byte of TCP says it; [`Flags::NONE`] where the
/// protocol has no connections, or nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub const NONE: Self = Self(0);
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    /// From the 13th and 14th byte: TCP's flags are the latter, and the former is the type of SCTP's
    /// first chunk.
    ///
    /// One chunk tells enough: those that begin and end an association stand alone, but for an
    /// ABORT behind other control chunks and a SHUTDOWN behind a SACK (RFC 9260, 6.10), and Linux
    /// sends these alone, too.
    #[inline(always)]
    pub const fn of(protocol: u8, bytes: [u8; 2]) -> Self {
        if protocol == protocol::SCTP {
            Self::of_chunk(bytes[0])
        } else {
            Self(bytes[1])
        }
    }

    /// RFC 9260, 3.2.
    #[inline(always)]
    const fn of_chunk(kind: u8) -> Self {
        match kind {
            // INIT, and the answer to it.
            1 => Self(Self::SYN),
            2 => Self(Self::SYN | Self::ACK),
            // ABORT.
            6 => Self(Self::RST),
            // SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
            7 | 8 | 14 => Self(Self::FIN | Self::ACK),
            _ => Self(Self::ACK),
        }
    }

    /// The first packet of a connection.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// The first packet of either end.
    #[inline(always)]
    pub const fn begins(self) -> bool {
        self.0 & (Self::SYN | Self::RST) == Self::SYN
    }

    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Neither begins nor ends a connection, nor answers one that does.
    #[inline(always)]
    pub const fn is_amid(self) -> bool {
        self.0 & (Self::SYN | Self::FIN | Self::RST) == 0
    }

    #[inline(always)]
    pub const fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }
}

/// A packet's place among the fragments of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole = 0,
    /// Carries the ports.
    First = 1,
    Later = 2,
}

impl Fragment {
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Whole,
            1 => Self::First,
            _ => Self::Later,
        }
    }

    /// From an offset in any unit and the more-fragments flag.
    #[inline(always)]
    const fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }

    /// The `frag_off` field of IPv4 (RFC 791, 3.1), in host order.
    #[inline(always)]
    pub const fn of_ipv4(field: u16) -> Self {
        Self::of(field & 0x1fff, field & 0x2000 != 0)
    }

    /// The offset field of an IPv6 fragment header (RFC 8200, 4.5), in host order.
    #[inline(always)]
    pub const fn of_ipv6(field: u16) -> Self {
        Self::of(field & 0xfff8, field & 1 != 0)
    }
}

/// Whether a router may cut an IPv4 packet up, by its `frag_off` field in host order.
#[inline(always)]
pub const fn may_be_cut(field: u16) -> bool {
    field & 0x4000 == 0
}

/// The header's length from IPv4's first byte, or `None` where that is no IPv4 header.
#[inline(always)]
pub const fn ipv4_header_len(first: u8) -> Option<u32> {
    let len = (first & 0x0f) as u32 * 4;
    if first >> 4 == 4 && len >= IPV4_MIN_LEN {
        Some(len)
    } else {
        None
    }
}

/// One step along a chain of IPv6 headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// `next` is not an extension header.
    Upper,
    /// A header of this many bytes follows; its first byte is the next header's number.
    Skip(u32),
    /// A fragment header of eight bytes.
    Fragment,
}

/// Extension headers followed before a packet is taken for malformed.
pub const MAX_EXTENSIONS: u32 = 6;

/// How to step over IPv6 header `number`, of which `length` is the second byte (RFC 8200, 4;
/// RFC 4302, 2.2 for the authentication header).
#[inline(always)]
pub const fn extension(number: u8, length: u8) -> Extension {
    match number {
        0 | 43 | 60 | 135 => Extension::Skip((length as u32 + 1) * 8),
        44 => Extension::Fragment,
        51 => Extension::Skip((length as u32 + 2) * 4),
        _ => Extension::Upper,
    }
}

/// One step along the options of TCP (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// The last one, or none at all.
    End,
    /// The next one is so many bytes on.
    Skip(u32),
    /// The largest segment that the sender of this wants, in the two bytes after these.
    Segment,
}

pub const TCP_MIN_LEN: u32 = 20;
/// Options followed before the others are taken for uninteresting: they have 40 bytes.
pub const MAX_TCP_OPTIONS: u32 = 12;

/// How to step over an option of this kind, of which `length` is the second byte.
#[inline(always)]
pub const fn tcp_option(kind: u8, length: u8) -> TcpOption {
    match (kind, length) {
        (0, _) => TcpOption::End,
        (1, _) => TcpOption::Skip(1),
        (2, 4) => TcpOption::Segment,
        (_, 0 | 1) => TcpOption::End,
        _ => TcpOption::Skip(length as u32),
    }
}

/// Where the transport header has a checksum of the kind that the kernel's helpers keep right: the
/// sum of RFC 1071. SCTP's is another kind, see [`crate::sctp`].
#[inline(always)]
pub const fn checksum_offset(protocol: u8) -> Option<u32> {
    match protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Whether an ICMP message of this type tells the sender of a packet, which it quotes, that something is
/// wrong with it (RFC 792; RFC 4443, 2.1). A source quench is ignored by everybody (RFC 6633), and a
/// redirect is for the host on the link, which has the routes.
#[inline(always)]
pub const fn is_icmp_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => matches!(kind, 3 | 11 | 12),
        protocol::ICMPV6 => matches!(kind, 1..=4),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_flags() {
        assert!(Flags(2).opens());
        assert!(Flags(2 | 64 | 128).opens(), "a SYN that offers ECN");
        assert!(!Flags(18).opens(), "SYN-ACK");
        assert!(Flags(2).begins() && Flags(18).begins() && !Flags(16).begins());
        assert!(Flags(17).closes() && Flags(4).closes() && !Flags(24).closes());
        assert!(Flags(16).is_amid() && Flags::NONE.is_amid());
        assert!(!Flags(18).is_amid() && !Flags(17).is_amid() && !Flags(4).is_amid());
        assert_eq!(Flags::of(protocol::TCP, [0x50, 2]), Flags(2));
    }

    #[test]
    fn sctp_chunks() {
        let of = |kind| Flags::of(protocol::SCTP, [kind, 0xff]);
        assert!(of(1).opens() && !of(2).opens(), "INIT and INIT ACK");
        for (kind, name) in [
            (7, "SHUTDOWN"),
            (8, "SHUTDOWN ACK"),
            (14, "SHUTDOWN COMPLETE"),
        ] {
            assert!(of(kind).closes() && !of(kind).resets(), "{name}");
        }
        assert!(of(6).closes() && of(6).resets(), "ABORT");
        for (kind, name) in [
            (0, "DATA"),
            (3, "SACK"),
            (4, "HEARTBEAT"),
            (10, "COOKIE ECHO"),
        ] {
            assert!(!of(kind).opens() && !of(kind).closes(), "{name}");
        }
    }

    #[test]
    fn fragments() {
        assert_eq!(Fragment::of_ipv4(0x4000), Fragment::Whole, "DF");
        assert!(!may_be_cut(0x4000) && may_be_cut(0x2000) && may_be_cut(0));
        assert_eq!(Fragment::of_ipv4(0x2000), Fragment::First);
        assert_eq!(Fragment::of_ipv4(0x2001), Fragment::Later);
        assert_eq!(Fragment::of_ipv4(0x00b9), Fragment::Later, "last");
        assert_eq!(Fragment::of_ipv6(0x0001), Fragment::First);
        assert_eq!(Fragment::of_ipv6(0x0008), Fragment::Later);
        assert_eq!(Fragment::of_ipv6(0), Fragment::Whole, "atomic, RFC 6946");
        for fragment in [Fragment::Whole, Fragment::First, Fragment::Later] {
            assert_eq!(Fragment::from_raw(fragment as u8), fragment);
        }
    }

    #[test]
    fn ipv4_header_lengths() {
        assert_eq!(ipv4_header_len(0x45), Some(20));
        assert_eq!(ipv4_header_len(0x4f), Some(60));
        assert_eq!(ipv4_header_len(0x44), None);
        assert_eq!(ipv4_header_len(0x65), None);
    }

    #[test]
    fn tcp_options() {
        for (kind, length, want) in [
            (0, 9, TcpOption::End),
            (1, 2, TcpOption::Skip(1)),
            (2, 4, TcpOption::Segment),
            (2, 3, TcpOption::Skip(3)),
            (3, 3, TcpOption::Skip(3)),
            (8, 10, TcpOption::Skip(10)),
            (8, 0, TcpOption::End),
            (8, 1, TcpOption::End),
        ] {
            assert_eq!(tcp_option(kind, length), want, "{kind} {length}");
        }
    }

    #[test]
    fn extension_headers() {
        assert_eq!(extension(0, 1), Extension::Skip(16));
        assert_eq!(extension(51, 4), Extension::Skip(24));
        assert_eq!(extension(44, 0), Extension::Fragment);
        assert_eq!(extension(protocol::TCP, 0), Extension::Upper);
    }

    #[test]
    fn only_errors_are_errors() {
        assert!(!is_icmp_error(protocol::ICMP, 4) && !is_icmp_error(protocol::ICMP, 5));
        assert!(is_icmp_error(protocol::ICMP, 3) && !is_icmp_error(protocol::ICMP, 8));
        assert!(is_icmp_error(protocol::ICMPV6, 2) && !is_icmp_error(protocol::ICMPV6, 128));
    }
}
