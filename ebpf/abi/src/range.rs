//! Ranges of published ports, as prefixes of a longest-prefix-match trie: 10 000 ports are at most
//! 28 entries an address, and one service.
//!
//! **Invariant:** the entries of a range are the canonical prefixes of `[first, first + n)`. They are
//! written in ascending and removed in descending order, so that a write that stopped half way left
//! the canonical prefixes of a shorter range.

use crate::address::{Address, Be16};
use crate::map::FrontendKey;

/// Bits of [`RangeKey`] before the port.
const FIXED_BITS: u32 = 144;
/// Of a key that is looked up.
pub const ALL_BITS: u32 = FIXED_BITS + 16;

/// The part of [`crate::map::RANGES`]' key that follows the length of the prefix. The port comes last,
/// because prefixes are cut there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeKey {
    pub address: Address,
    pub protocol: u8,
    pub scope: u8,
    pub port: Be16,
}

impl RangeKey {
    #[inline(always)]
    pub const fn of(frontend: &FrontendKey) -> Self {
        Self {
            address: frontend.address,
            protocol: frontend.protocol,
            scope: frontend.scope,
            port: frontend.port,
        }
    }
}

/// Which service a port belongs to, and where its range begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeValue {
    pub service: u32,
    pub first: Be16,
    pub pad: u16,
}

impl RangeValue {
    /// The value of a port that is no part of a range.
    #[inline(always)]
    pub const fn single(service: u32, port: Be16) -> Self {
        Self {
            service,
            first: port,
            pad: 0,
        }
    }

    /// Where a packet for `port` goes, if packets for the first port go to `backend`.
    #[inline(always)]
    pub const fn target(&self, port: Be16, backend: Be16) -> Be16 {
        let offset = port.get().wrapping_sub(self.first.get());
        Be16::new(backend.get().wrapping_add(offset))
    }
}

/// Ports that share their leading bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub port: u16,
    /// A power of two.
    pub count: u32,
}

impl Prefix {
    /// The length of its key.
    pub const fn bits(self) -> u32 {
        ALL_BITS - self.count.trailing_zeros()
    }

    /// The ports of a key with `bits` bits.
    pub const fn of(port: u16, bits: u32) -> Option<Self> {
        if bits < FIXED_BITS || bits > ALL_BITS {
            return None;
        }
        let count = 1 << (ALL_BITS - bits);
        Some(Self { port, count })
    }
}

/// The fewest prefixes that make up `count` ports from `first` on, in ascending order.
pub fn prefixes(first: u16, count: u32) -> impl Iterator<Item = Prefix> {
    let end = (u32::from(first) + count).min(1 << 16);
    let mut next = u32::from(first);
    core::iter::from_fn(move || {
        let left = end.checked_sub(next).filter(|left| *left > 0)?;
        let aligned = 1 << next.trailing_zeros().min(16);
        let fitting = 1 << left.ilog2();
        let prefix = Prefix {
            port: u16::try_from(next).ok()?,
            count: if aligned < fitting { aligned } else { fitting },
        };
        next += prefix.count;
        Some(prefix)
    })
}

const _: () = {
    assert!(size_of::<RangeKey>() == 20);
    assert!(size_of::<RangeValue>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: u16, count: u32, most: usize) {
        let mut next = u32::from(first);
        let mut found = 0;
        for prefix in prefixes(first, count) {
            assert_eq!(u32::from(prefix.port), next, "no gap");
            assert_eq!(next % prefix.count, 0, "aligned");
            assert_eq!(Prefix::of(prefix.port, prefix.bits()), Some(prefix));
            // What a crash leaves is canonical as well.
            next += prefix.count;
            found += 1;
            let done = next - u32::from(first);
            assert!(prefixes(first, done).eq(prefixes(first, count).take(found)));
        }
        assert_eq!(next, u32::from(first) + count);
        assert!(found <= most, "{found} prefixes");
    }

    #[test]
    fn a_range_is_few_prefixes_without_gap_or_overlap() {
        check(8000, 10_000, 28);
        check(0, 65_536, 1);
        check(1, 65_535, 16);
        check(65_535, 1, 1);
        for first in [1, 7, 80, 1023, 1024, 32_767, 40_000] {
            for count in [1, 2, 3, 99, 1000, 4096, 20_001] {
                check(first, count, 30);
            }
        }
    }

    #[test]
    fn ports_keep_their_offset() {
        let value = RangeValue {
            service: 1,
            first: Be16::new(8000),
            pad: 0,
        };
        let target = |port| value.target(Be16::new(port), Be16::new(80)).get();
        assert_eq!((target(8000), target(8099)), (80, 179));
        let single = RangeValue::single(1, Be16::new(8000));
        assert_eq!(single.target(Be16::new(8000), Be16::new(80)).get(), 80);
    }
}
