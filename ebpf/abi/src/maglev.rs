//! Which of several backends a flow goes to.
//!
//! A service with several backends has a table of slots, each with a backend's number, made by the
//! daemon so that it hardly changes when a backend comes or goes (Eisenbud et al., "Maglev", NSDI
//! 2016, §3.4). A flow's hash names its slot. A packet whose flow is not remembered therefore goes
//! where the flow's earlier packets went, on every host that has the same table.

use crate::address::{Address, Be16};

/// Slots of the table of a service with up to [`FEW`] backends: a prime. The loss of one of `n`
/// moves at most `1/n` of the flows and another percent (the table's own tests).
pub const SMALL: usize = 16_381;
/// The same for more of them.
pub const LARGE: usize = 65_537;
pub const FEW: usize = 20;

/// What a table of `N` slots takes: one word more than it has. The verifier knows the offset of a
/// slot to within three bytes only.
pub const SMALL_WORDS: usize = SMALL + 1;
pub const LARGE_WORDS: usize = LARGE + 1;

/// Multiplier and finalizer of SplitMix64 (Steele et al., OOPSLA 2014), one multiplication a word.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 32)
}

#[inline(always)]
const fn finish(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Of one flow: the same on every host.
#[inline(always)]
pub const fn flow_hash(
    client: Address,
    client_port: Be16,
    frontend: Address,
    frontend_port: Be16,
    protocol: u8,
) -> u64 {
    let hash = address_hash(address_hash(0, client), frontend);
    let ports = (client_port.0 as u64) << 32 | (frontend_port.0 as u64) << 16;
    finish(mix(hash, ports | protocol as u64))
}

/// Of a client, whatever it asks for: for services with affinity.
#[inline(always)]
pub const fn client_hash(client: Address) -> u64 {
    finish(address_hash(0, client))
}

/// Of anything that has a number: sockets and network namespaces by their cookies.
#[inline(always)]
pub const fn number_hash(number: u64) -> u64 {
    finish(mix(0, number))
}

#[inline(always)]
const fn address_hash(hash: u64, address: Address) -> u64 {
    let Address([a, b, c, d]) = address;
    let hash = mix(hash, (a as u64) << 32 | b as u64);
    mix(hash, (c as u64) << 32 | d as u64)
}

/// The slot of a hash in a table of `length` slots, without a division (Lemire, TOMACS 2019).
#[inline(always)]
pub const fn slot(hash: u64, length: usize) -> usize {
    (((hash >> 32) * length as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    const WEB: Address = Address::v4(0x0a00_0001_u32.to_be());

    fn client(number: u32) -> Address {
        Address::v4((0xc000_0200 + number).to_be())
    }

    /// Pearson's statistic over the number of slots, about one for a uniform distribution.
    fn unevenness(hashes: impl Iterator<Item = u64>) -> f64 {
        let mut counts = vec![0_u32; SMALL];
        let mut total = 0_u32;
        for hash in hashes {
            counts[slot(hash, SMALL)] += 1;
            total += 1;
        }
        let expected = f64::from(total) / SMALL as f64;
        let squares = counts
            .iter()
            .map(|count| (f64::from(*count) - expected).powi(2));
        squares.sum::<f64>() / expected / SMALL as f64
    }

    #[test]
    fn clients_that_differ_a_little_spread_evenly() {
        let http = Be16::new(80);
        let ports = (1024..=u16::MAX).map(Be16::new);
        let by_port = ports.map(|port| flow_hash(client(1), port, WEB, http, 6));
        let by_client = (0..65_536).map(|c| flow_hash(client(c), Be16::new(40_000), WEB, http, 6));
        let affine = (0..65_536).map(|c| client_hash(client(c)));
        let cookies = (0..65_536).map(number_hash);
        for (name, found) in [
            ("ports", unevenness(by_port)),
            ("clients", unevenness(by_client)),
            ("affinity", unevenness(affine)),
            ("cookies", unevenness(cookies)),
        ] {
            // The standard deviation of the statistic is sqrt(2 / SMALL), about 0.011.
            assert!((0.95..1.05).contains(&found), "{name}: {found}");
        }
    }

    #[test]
    fn every_part_of_a_flow_counts() {
        let (a, b) = (Be16::new(80), Be16::new(81));
        let hashes = [
            flow_hash(client(1), a, WEB, a, 6),
            flow_hash(client(2), a, WEB, a, 6),
            flow_hash(client(1), b, WEB, a, 6),
            flow_hash(client(1), a, client(3), a, 6),
            flow_hash(client(1), a, WEB, b, 6),
            flow_hash(client(1), a, WEB, a, 17),
        ];
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..at].contains(hash), "{at}");
        }
    }

    #[test]
    fn the_extreme_hashes_have_slots() {
        for length in [SMALL, LARGE] {
            assert_eq!((slot(0, length), slot(u64::MAX, length)), (0, length - 1));
        }
    }
}
