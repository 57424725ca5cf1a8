//! Which frontend a packet means, and the bit maps that let other packets pass at once.
//!
//! A host forwards far more packets than it publishes ports for, so that both tc programs begin
//! with one bit of [`crate::map::PREFILTER`]. Ports are exact; sources are folded to 16 bits, and a
//! false positive costs a flow lookup.

use crate::address::{Address, Be16};
use crate::map::FrontendKey;
use crate::protocol;

/// 65 536 bits each: TCP and UDP ports over IPv4, over IPv6, folded backend addresses, and SCTP
/// ports over IPv4 and over IPv6. The latter two lie in a map of their own, because the first one
/// keeps the size that it is pinned with.
const WORDS: u32 = 65_536 / 64;
const SOURCES: u32 = 4;
const SCTP: u32 = 5;
const VIPS: u32 = 7;
pub const PREFILTER_WORDS: u32 = 5 * WORDS;
pub const PREFILTER_SCTP_WORDS: u32 = 2 * WORDS;
/// Folded addresses of virtual services, in a map of their own for the same reason.
pub const PREFILTER_VIPS_WORDS: u32 = WORDS;

/// One bit of the prefilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bit {
    /// Index into [`crate::map::PREFILTER`]; what exceeds it into [`crate::map::PREFILTER_SCTP`],
    /// and what exceeds that into [`crate::map::PREFILTER_VIPS`].
    pub word: u32,
    pub mask: u64,
}

impl Bit {
    #[inline(always)]
    const fn new(section: u32, value: u16) -> Self {
        Self {
            word: section * WORDS + (value as u32 >> 6),
            mask: 1 << (value & 63),
        }
    }

    /// Set while `port` is published on an address of that family; `None` for other protocols.
    #[inline(always)]
    pub const fn port(v4: bool, protocol: u8, port: Be16) -> Option<Self> {
        let (section, family) = match protocol {
            protocol::TCP => (0, 2),
            protocol::UDP => (1, 2),
            protocol::SCTP => (SCTP, 1),
            _ => return None,
        };
        Some(Self::new(section + if v4 { 0 } else { family }, port.get()))
    }

    /// Set while a service has all ports of an address that folds like `address`.
    #[inline(always)]
    pub const fn vip(address: Address) -> Self {
        Self::new(VIPS, address.fold())
    }

    /// Set while a backend has an address that folds like `source`.
    #[inline(always)]
    pub const fn source(source: Address) -> Self {
        Self::new(SOURCES, source.fold())
    }
}

/// The frontends that may answer for a destination: at most one exact and one wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    pub exact: FrontendKey,
    pub wildcard: FrontendKey,
}

impl Candidates {
    #[inline(always)]
    pub const fn of(destination: Address, port: Be16, protocol: u8) -> Self {
        let exact = FrontendKey {
            address: destination,
            port,
            protocol,
            scope: 0,
        };
        Self {
            exact,
            wildcard: FrontendKey {
                address: destination.wildcard(),
                ..exact
            },
        }
    }
}

/// Whether a packet that arrives at an uplink may be for a frontend at all.
///
/// A loopback destination on a wire is forged: without this rule a port published on 127.0.0.1
/// would answer the neighbors on the link.
#[inline(always)]
pub const fn answers_uplink(destination: Address) -> bool {
    !destination.is_loopback() && !destination.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_protocols_have_bits_of_their_own() {
        let port = Be16::new(8080);
        let bits = [
            Bit::port(true, protocol::TCP, port).unwrap(),
            Bit::port(true, protocol::UDP, port).unwrap(),
            Bit::port(false, protocol::TCP, port).unwrap(),
            Bit::port(false, protocol::UDP, port).unwrap(),
            Bit::source(Address::v4(u32::from(8080_u16.to_be()))),
            Bit::port(true, protocol::SCTP, port).unwrap(),
            Bit::port(false, protocol::SCTP, port).unwrap(),
            Bit::vip(Address::v4(u32::from(8080_u16.to_be()))),
        ];
        for (i, a) in bits.iter().enumerate() {
            assert_eq!(a.word < PREFILTER_WORDS, i < 5);
            assert_eq!(a.word < PREFILTER_WORDS + PREFILTER_SCTP_WORDS, i < 7);
            let all = PREFILTER_WORDS + PREFILTER_SCTP_WORDS + PREFILTER_VIPS_WORDS;
            assert!(a.word < all);
            assert!(bits[..i].iter().all(|b| a != b), "{a:?}");
        }
        assert_eq!(Bit::port(true, protocol::ICMP, port), None);
    }

    #[test]
    fn the_last_port_and_the_last_fold_are_inside() {
        let last = Bit::source(Address([0, 0, 0, 0xffff]));
        assert_eq!((last.word, last.mask), (PREFILTER_WORDS - 1, 1 << 63));
        let port = Bit::port(true, protocol::TCP, Be16::new(65_535)).unwrap();
        assert_eq!((port.word, port.mask), (WORDS - 1, 1 << 63));
        let port = Bit::port(false, protocol::SCTP, Be16::new(65_535)).unwrap();
        assert_eq!(port.word + 1, PREFILTER_WORDS + PREFILTER_SCTP_WORDS);
    }

    #[test]
    fn candidates_keep_the_family() {
        let v4 = Address::v4(0x0a00_0001_u32.to_be());
        let found = Candidates::of(v4, Be16::new(80), protocol::TCP);
        assert_eq!(
            (found.exact.address, found.wildcard.address),
            (v4, Address::ANY4)
        );
        let v6 = Address([1, 2, 3, 4]);
        let found = Candidates::of(v6, Be16::new(80), protocol::TCP);
        assert_eq!(
            (found.exact.address, found.wildcard.address),
            (v6, Address::ANY6)
        );
    }

    #[test]
    fn forged_loopback_destinations_are_nobodys() {
        assert!(!answers_uplink(Address::v4(0x7f00_0001_u32.to_be())));
        assert!(!answers_uplink(Address([0, 0, 0, 1_u32.to_be()])));
        assert!(!answers_uplink(Address::ANY4));
        assert!(answers_uplink(Address::v4(0x0a00_0001_u32.to_be())));
    }
}
