//! How much one client may have in flight, so that none starves the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    clients: HashMap<IpAddr, usize>,
    total: usize,
}

/// Hands out permits: at most `per_client` to one address and `total` to all together.
#[derive(Debug)]
pub(super) struct Admission {
    per_client: usize,
    total: usize,
    state: Mutex<State>,
}

impl Admission {
    pub(super) fn new(per_client: usize, total: usize) -> Arc<Self> {
        Arc::new(Self {
            per_client,
            total,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Permit> {
        let mut state = self.state();
        let mine = state.clients.get(&client).copied().unwrap_or_default();
        if mine >= self.per_client || state.total >= self.total {
            return None;
        }
        state.clients.insert(client, mine + 1);
        state.total += 1;
        Some(Permit {
            admission: Arc::clone(self),
            client,
        })
    }
}

/// The right to one thing in flight; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    client: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.total = state.total.saturating_sub(1);
        if let Some(mine) = state.clients.get_mut(&self.client) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                state.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_what_is_left_for_others() {
        let [a, b, c] = [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n]));
        let admission = Admission::new(2, 3);
        let first = admission.admit(a).unwrap();
        let _second = admission.admit(a).unwrap();
        assert!(admission.admit(a).is_none(), "over its own limit");
        let _third = admission.admit(b).unwrap();
        assert!(admission.admit(c).is_none(), "over everybody's limit");
        drop(first);
        assert!(admission.admit(c).is_some());
        assert!(
            !admission.state().clients.contains_key(&c),
            "nothing is kept for who left"
        );
    }
}
