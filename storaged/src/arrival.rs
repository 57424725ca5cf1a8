//! Layers that are being imported, so that the ones on top of them can be unpacked at the same time.
//!
//! A layer's chain id is known from the moment its import begins if the client says what the layer
//! will be. Whoever imports the next one unpacks it meanwhile, and waits here before it looks at
//! what is below and before it commits: layers are committed in the order of the chain.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::id::Digest;

use crate::lock::lock;

/// Requests of one client may overtake each other: how long the one below may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// How many imports of a chain are under way.
    chains: Mutex<BTreeMap<Digest, usize>>,
    changed: Condvar,
}

/// One import that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    arrivals: &'a Arrivals,
    chain: Digest,
}

impl Arrivals {
    pub(crate) fn announce(&self, chain: Digest) -> Arrival<'_> {
        *lock(&self.chains).entry(chain.clone()).or_default() += 1;
        self.changed.notify_all();
        Arrival {
            arrivals: self,
            chain,
        }
    }

    /// Waits until `chain` is announced or `is_here`; says whether it is either.
    pub(crate) fn expect(&self, chain: &Digest, is_here: impl Fn() -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut chains = lock(&self.chains);
        loop {
            // What is committed was announced before, and is asked for after the announcement.
            if chains.contains_key(chain) || is_here() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(chains, left);
            chains = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `chain` `is_here`, or no import of it is under way any more.
    pub(crate) fn settle(&self, chain: &Digest, is_here: impl Fn() -> bool) {
        let mut chains = lock(&self.chains);
        while chains.contains_key(chain) && !is_here() {
            let woken = self.changed.wait(chains);
            chains = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut chains = lock(&self.arrivals.chains);
        if let Some(count) = chains.get_mut(&self.chain) {
            *count -= 1;
            if *count == 0 {
                chains.remove(&self.chain);
            }
        }
        drop(chains);
        self.arrivals.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_goes_on_when_the_last_import_ends() {
        let arrivals = Arrivals::default();
        let chain = Digest::from_sha256([1; 32]);
        let (one, two) = (
            arrivals.announce(chain.clone()),
            arrivals.announce(chain.clone()),
        );
        assert!(arrivals.expect(&chain, || false));
        drop(one);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| arrivals.settle(&chain, || false));
            drop(two);
            waits.join().unwrap();
        });
        assert!(arrivals.expect(&chain, || true));
    }
}
