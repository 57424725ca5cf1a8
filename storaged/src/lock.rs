//! One lock a name, so that a hanging mount of one volume holds up nobody else.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data stays consistent when a holder panics: each user changes it in one
/// statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(crate) struct KeyedLocks {
    held: Mutex<HashSet<String>>,
    released: Condvar,
}

/// Holds the lock of one name until it is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct KeyGuard<'a> {
    locks: &'a KeyedLocks,
    key: String,
}

impl KeyedLocks {
    /// Waits until nobody else holds `key`.
    pub(crate) fn lock(&self, key: &str) -> KeyGuard<'_> {
        let mut held = self
            .released
            .wait_while(lock(&self.held), |held| held.contains(key))
            .unwrap_or_else(PoisonError::into_inner);
        held.insert(key.to_owned());
        KeyGuard {
            locks: self,
            key: key.to_owned(),
        }
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        lock(&self.locks.held).remove(&self.key);
        self.locks.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_holder_a_key_and_keys_are_independent() {
        let locks = KeyedLocks::default();
        let inside = AtomicU32::new(0);
        let other = locks.lock("other");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let guard = locks.lock("key");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(guard);
                    }
                });
            }
        });
        drop(other);
    }

    #[test]
    fn a_panic_releases_the_key() {
        let locks = KeyedLocks::default();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = locks.lock("key");
            panic!("inside");
        }));
        assert!(result.is_err());
        drop(locks.lock("key"));
    }
}
