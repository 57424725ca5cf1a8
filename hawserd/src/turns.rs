//! The queue of requests that change networks.
//!
//! They take turns in the kernel anyway: beyond a few, more at once would only be threads that wait.
//! Those that wait here cost no thread, go in the order they came in, and are forgotten when their
//! client goes: a runtime that kills a plugin and tries again does not leave the work of the first.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::Failure;

/// More than one, because one may have to wait for an interface that leaves.
const AT_ONCE: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

/// Held while the work is done.
#[derive(Debug)]
pub(crate) struct Turn(
    #[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit,
);

impl Turns {
    pub(crate) fn new() -> Self {
        Self::of(AT_ONCE)
    }

    fn of(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Waits for a turn.
    pub(crate) async fn next(&self) -> Result<Turn, Failure> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        // Nobody ever closes the semaphore.
        permit.map(Turn).map_err(|_closed| Failure::bug())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_waits_goes_in_order_and_who_gives_up_is_passed_over() {
        let turns = Turns::of(1);
        let first = turns.next().await.unwrap();
        let mut gone = Box::pin(turns.next());
        let mut second = Box::pin(turns.next());
        let mut third = Box::pin(turns.next());
        for waiting in [&mut gone, &mut second, &mut third] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(gone);
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "not before its turn");
        let turn = (&mut second).now_or_never().expect("its turn").unwrap();
        assert!((&mut third).now_or_never().is_none());
        drop(turn);
        assert!((&mut third).now_or_never().is_some());
    }
}
