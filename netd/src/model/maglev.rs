//! Lookup tables that hardly change when a backend comes or goes.
//!
//! The algorithm is that of Eisenbud et al., "Maglev", NSDI 2016, §3.4: each backend goes through
//! the slots in an order of its own, and they take turns to claim the next free one. Weights are the
//! frequency of turns. Equal backends on two hosts give equal tables, whatever the order in which
//! they came.

use std::net::{IpAddr, SocketAddr};

use abi::maglev::{FEW, LARGE, SMALL, number_hash};

/// A backend that wants slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The same on every host and after a restart: a hash of address and port.
    pub(crate) identity: u64,
    /// Its share relative to the others'; zero for none.
    pub(crate) weight: u32,
}

impl Candidate {
    pub(crate) fn new(backend: SocketAddr, weight: u32) -> Self {
        let octets = match backend.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let parts = [(octets >> 64) as u64, octets as u64, backend.port().into()];
        let identity = parts.iter().fold(0, |hash, part| number_hash(hash ^ part));
        Self { identity, weight }
    }
}

/// The order in which one candidate wants the slots: `offset`, `offset + skip`, … modulo their
/// number, which visits each once because that is prime.
struct Preference {
    next: usize,
    skip: usize,
}

impl Preference {
    fn of(identity: u64, length: usize) -> Self {
        // Two numbers that have nothing to do with each other.
        let (offset, skip) = (number_hash(identity), number_hash(!identity));
        Self {
            next: (offset % length as u64) as usize,
            skip: (skip % (length as u64 - 1)) as usize + 1,
        }
    }

    fn claim(&mut self, slots: &mut [Option<usize>], candidate: usize) {
        loop {
            let slot = self.next;
            self.next = (slot + self.skip) % slots.len();
            if slots[slot].is_none() {
                slots[slot] = Some(candidate);
                return;
            }
        }
    }
}

/// How many slots a table for so many candidates has.
fn length(candidates: usize) -> usize {
    if candidates <= FEW { SMALL } else { LARGE }
}

/// The index of the candidate in each slot; `None` when nobody wants any.
pub(crate) fn table(candidates: &[Candidate]) -> Option<Vec<usize>> {
    let heaviest = candidates.iter().map(|c| c.weight).max().unwrap_or(0);
    if heaviest == 0 {
        return None;
    }
    let length = length(candidates.len());
    // Their own order, not the caller's.
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| candidates[index].identity);
    let mut preferences: Vec<Preference> = candidates
        .iter()
        .map(|candidate| Preference::of(candidate.identity, length))
        .collect();
    let mut credits = vec![0_u64; candidates.len()];
    let mut slots = vec![None; length];
    let mut free = length;
    while free > 0 {
        for &index in &order {
            credits[index] += u64::from(candidates[index].weight);
            // The heaviest has a turn each round, the others as often as their weight is to its.
            if credits[index] >= u64::from(heaviest) && free > 0 {
                credits[index] -= u64::from(heaviest);
                preferences[index].claim(&mut slots, index);
                free -= 1;
            }
        }
    }
    slots.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: impl IntoIterator<Item = u32>) -> Vec<Candidate> {
        let identities = (1..).map(number_hash);
        let candidates = identities.zip(weights);
        candidates
            .map(|(identity, weight)| Candidate { identity, weight })
            .collect()
    }

    /// Who has each slot, by identity.
    fn owners(candidates: &[Candidate]) -> Vec<u64> {
        let table = table(candidates).unwrap();
        table.into_iter().map(|i| candidates[i].identity).collect()
    }

    fn changed(before: &[u64], after: &[u64]) -> f64 {
        let changes = before.iter().zip(after).filter(|(a, b)| a != b).count();
        changes as f64 / before.len() as f64
    }

    #[test]
    fn shares_are_the_weights() {
        for weights in [
            vec![1],
            vec![1, 1],
            vec![1, 2, 3],
            vec![5, 0, 1, 100],
            vec![1; 100],
            (1..=40).collect(),
        ] {
            let candidates = candidates(weights.clone());
            let owners = owners(&candidates);
            let sum: u32 = weights.iter().sum();
            for candidate in &candidates {
                let have = owners.iter().filter(|o| **o == candidate.identity).count();
                let want = owners.len() as f64 * f64::from(candidate.weight) / f64::from(sum);
                let error = (have as f64 - want).abs();
                assert!(
                    error <= 1.0 + 0.02 * want,
                    "{weights:?}: {have}, not {want}"
                );
            }
        }
    }

    #[test]
    fn the_loss_of_a_backend_moves_little_more_than_its_own_flows() {
        for count in [2_usize, 3, 10, FEW, FEW + 2, 50, 100] {
            let all = candidates(vec![1; count]);
            let before = owners(&all);
            for lost in [0, count / 2, count - 1] {
                let mut left = all.clone();
                left.remove(lost);
                let moved = changed(&before, &owners(&left));
                let limit = 1.0 / count as f64 + 0.01;
                assert!(moved <= limit, "{count} backends: {moved} > {limit}");
            }
        }
    }

    #[test]
    fn weight_zero_is_as_good_as_gone() {
        let all = candidates([1, 0, 1]);
        let without = [all[0], all[2]];
        assert_eq!(owners(&all), owners(&without));
    }

    #[test]
    fn the_order_of_the_backends_does_not_matter() {
        let mut all = candidates([3, 1, 4, 1, 5]);
        let before = owners(&all);
        all.reverse();
        assert_eq!(owners(&all), before);
    }

    #[test]
    fn nobody_has_no_table() {
        assert_eq!(table(&[]), None);
        assert_eq!(table(&candidates([0, 0])), None);
    }
}
