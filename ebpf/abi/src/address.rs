//! Addresses and ports in network byte order.

/// A 16-bit number in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be16(pub u16);

impl Be16 {
    pub const ZERO: Self = Self(0);

    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An IPv6 address, or an IPv4 address in its v4-mapped form (RFC 4291, 2.5.5.2).
///
/// Four words rather than sixteen bytes: comparisons become four instructions instead of a loop.
/// Each word holds its four bytes in the order in which a packet has them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u32; 4]);

const _: () = assert!(size_of::<Address>() == 16);

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// `0.0.0.0`: in a frontend, every IPv4 address of the host.
    pub const ANY4: Self = Self::v4(0);
    /// `::`: in a frontend, every IPv6 address of the host.
    pub const ANY6: Self = Self([0; 4]);
    const LOOPBACK4: Self = Self::v4(0x7f00_0001_u32.to_be());
    const LOOPBACK6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    /// `word` as in a packet.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut i = 0;
        while i < 4 {
            words[i] = u32::from_ne_bytes([
                octets[4 * i],
                octets[4 * i + 1],
                octets[4 * i + 2],
                octets[4 * i + 3],
            ]);
            i += 1;
        }
        Self(words)
    }

    pub const fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        let mut i = 0;
        while i < 16 {
            octets[i] = self.0[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        octets
    }

    /// The IPv4 address as in a packet, if this is one.
    #[inline(always)]
    pub const fn as_v4(self) -> Option<u32> {
        if self.is_v4() { Some(self.0[3]) } else { None }
    }

    /// The same as `==`, word by word: of that the compiler makes one number of 128 bits, and then, in
    /// some places, finds no instruction for it and crashes (LLVM 22).
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        let ([a, b, c, d], [w, x, y, z]) = (self.0, other.0);
        (a ^ w) | (b ^ x) | (c ^ y) | (d ^ z) == 0
    }

    /// One comparison, as the ones below: the verifier follows each by itself.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] | self.0[1] | (self.0[2] ^ MAPPED) == 0
    }

    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let host = self.0[0] | self.0[1] | self.0[3];
        host | self.0[2] == 0 || host | (self.0[2] ^ MAPPED) == 0
    }

    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] | self.0[1] | self.0[2] | (self.0[3] ^ 1_u32.to_be()) == 0
        }
    }

    /// The wildcard of the same family.
    #[inline(always)]
    pub const fn wildcard(self) -> Self {
        if self.is_v4() { Self::ANY4 } else { Self::ANY6 }
    }

    /// Where a connect to this address goes: Linux takes the unspecified address for loopback.
    #[inline(always)]
    pub const fn connect_target(self) -> Self {
        if !self.is_unspecified() {
            self
        } else if self.is_v4() {
            Self::LOOPBACK4
        } else {
            Self::LOOPBACK6
        }
    }

    /// 16 bits that differ for most pairs of addresses: the low half of each family's host part.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let word = self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3];
        (word ^ (word >> 16)) as u16
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::net::{IpAddr, Ipv6Addr};

    fn address(text: &str) -> Address {
        let octets = match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Address::from_octets(octets)
    }

    #[test]
    fn octets_round_trip() {
        let v6: Ipv6Addr = "2001:db8::1:2".parse().unwrap();
        assert_eq!(Address::from_octets(v6.octets()).octets(), v6.octets());
        let all = [
            [1, 2, 3, 4],
            [0, 2, 3, 4],
            [1, 0, 3, 4],
            [1, 2, 0, 4],
            [1, 2, 3, 0],
        ];
        for (a, b) in all
            .iter()
            .flat_map(|a| all.map(|b| (Address(*a), Address(b))))
        {
            assert_eq!(a.is(b), a == b);
        }
    }

    #[test]
    fn kinds_of_addresses() {
        for (text, v4, loopback, unspecified) in [
            ("127.0.0.1", true, true, false),
            ("127.255.1.2", true, true, false),
            ("::1", false, true, false),
            ("::ffff:127.0.0.11", true, true, false),
            ("0.0.0.0", true, false, true),
            ("::", false, false, true),
            ("10.0.0.1", true, false, false),
            ("fd00::1", false, false, false),
            ("::2", false, false, false),
        ] {
            let got = address(text);
            assert_eq!(
                (got.is_v4(), got.is_loopback(), got.is_unspecified()),
                (v4, loopback, unspecified),
                "{text}"
            );
        }
    }

    #[test]
    fn connecting_to_no_address_means_loopback() {
        assert_eq!(address("0.0.0.0").connect_target(), address("127.0.0.1"));
        assert_eq!(address("::").connect_target(), address("::1"));
        assert_eq!(address("10.1.1.1").connect_target(), address("10.1.1.1"));
    }
}
