//! How sums of RFC 1071 change with what they cover (RFC 1624), for what the programs write to a
//! packet themselves. Words are as in the packet: the sum of swapped words is the swapped sum.

use crate::address::Address;

/// Where the ones' complement of a sum goes from, as the kernel has it (`__wsum`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change(pub u32);

impl Change {
    /// Of words that become others.
    #[inline(always)]
    pub const fn of_words(old: u32, new: u32) -> Self {
        Self::folded(!old as u64 + new as u64)
    }

    #[inline(always)]
    pub const fn of_addresses(old: Address, new: Address) -> Self {
        let (old, new) = (old.0, new.0);
        let gone = !old[0] as u64 + !old[1] as u64 + !old[2] as u64 + !old[3] as u64;
        let come = new[0] as u64 + new[1] as u64 + new[2] as u64 + new[3] as u64;
        Self::folded(gone + come)
    }

    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self::folded(self.0 as u64 + other.0 as u64)
    }

    /// The checksum of what was changed so.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = !(checksum as u32) as u64 + self.0 as u64;
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// The same where zero says "no checksum", as in UDP (RFC 768): it stays, and none becomes zero.
    #[inline(always)]
    pub const fn apply_unless_none(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => u16::MAX,
            changed => changed,
        }
    }

    #[inline(always)]
    const fn folded(sum: u64) -> Self {
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        Self(((sum & 0xffff_ffff) + (sum >> 32)) as u32)
    }
}

/// Whether this is what the kernel leaves in the place of a checksum for a device to complete
/// (`CHECKSUM_PARTIAL`): the sum of the pseudo header alone (RFC 9293, 3.1; RFC 8200, 8.1), of an upper
/// layer of `length` bytes.
#[inline(always)]
pub fn is_left_open(
    checksum: u16,
    source: Address,
    destination: Address,
    protocol: u8,
    length: u32,
) -> bool {
    let skipped = if source.is_v4() { 3 } else { 0 };
    let mut sum = u64::from(u32::from(protocol).to_be()) + u64::from(length.to_be());
    let mut at = 0;
    while at < 4 {
        if at >= skipped {
            sum += u64::from(source.0[at]) + u64::from(destination.0[at]);
        }
        at += 1;
    }
    Change::folded(sum).apply(u16::MAX) == !checksum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of words that are not yet complemented.
    fn sum(words: &[u32]) -> u16 {
        let halves = words.iter().flat_map(|word| [word >> 16, word & 0xffff]);
        let mut sum: u32 = halves.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// Numbers without an order (Numerical Recipes, 7.1), and those at the ends.
    fn numbers() -> impl Iterator<Item = u32> {
        let next = |seed: &mut u32| {
            *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(*seed)
        };
        let ends = [0, 1, 0xffff, 0x1_0000, 0xffff_0000, u32::MAX];
        let mut seed = 7;
        ends.into_iter()
            .chain(core::iter::from_fn(move || next(&mut seed)).take(500))
    }

    #[test]
    fn a_changed_checksum_is_that_of_the_changed_words() {
        for old in numbers() {
            for new in numbers() {
                let checksum = !sum(&[old, 0x1234_5678]);
                let got = Change::of_words(old, new).apply(checksum);
                assert_eq!(got, !sum(&[new, 0x1234_5678]), "{old:x} {new:x}");
            }
        }
    }

    #[test]
    fn addresses_change_it_like_their_words() {
        let mut words = numbers();
        let mut address = || Address(core::array::from_fn(|_| words.next().unwrap_or(3)));
        for _ in 0..50 {
            let (old, new) = (address(), address());
            let words = old.0.into_iter().zip(new.0);
            let words = words.map(|(old, new)| Change::of_words(old, new));
            let words = words.fold(Change(0), Change::and);
            for checksum in [0, 1, 0xfffe, 0x1234] {
                let change = Change::of_addresses(old, new);
                assert_eq!(change.apply(checksum), words.apply(checksum));
            }
        }
    }

    #[test]
    fn no_checksum_stays_none_and_none_appears() {
        for (old, new) in numbers().zip(numbers().skip(3)) {
            let change = Change::of_words(old, new);
            assert_eq!(change.apply_unless_none(0), 0);
            let before = !sum(&[old, !new]);
            if before != 0 {
                let after = change.apply_unless_none(before);
                assert!(after != 0, "{old:x} {new:x}");
                assert!([0, after].contains(&change.apply(before)));
            }
        }
    }

    #[test]
    fn the_sum_of_a_pseudo_header_is_no_checksum() {
        let v4 = |octets: [u8; 4]| Address::v4(u32::from_ne_bytes(octets));
        let (a, b) = (v4([192, 0, 2, 1]), v4([198, 51, 100, 7]));
        // 192.0.2.1 198.51.100.7, protocol 6, 20 bytes: by hand.
        let open = u16::to_be(fold(0xc000 + 0x0201 + 0xc633 + 0x6407 + 6 + 20));
        assert!(is_left_open(open, a, b, 6, 20));
        assert!(
            !is_left_open(!open, a, b, 6, 20),
            "complete, without a body"
        );
        assert!(!is_left_open(open, a, b, 6, 21) && !is_left_open(open, a, b, 17, 20));
        let v6 = |last| Address([0x2001_0db8_u32.to_be(), 0, 0, u32::to_be(last)]);
        let open = u16::to_be(fold(2 * (0x2001 + 0x0db8) + 1 + 2 + 17 + 0xffff));
        assert!(is_left_open(open, v6(1), v6(2), 17, 0xffff));
        assert!(!is_left_open(open ^ 1, v6(1), v6(2), 17, 0xffff));
    }

    fn fold(sum: u32) -> u16 {
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn there_and_back_changes_nothing() {
        for (old, new) in numbers().zip(numbers().skip(3)) {
            let both = Change::of_words(old, new).and(Change::of_words(new, old));
            assert_eq!(both.apply(0x1234), 0x1234);
        }
    }
}
