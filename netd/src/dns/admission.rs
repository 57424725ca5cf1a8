//! How much one client may ask for, so that none starves the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sys::netns::NsId;

/// Clients remembered before those that are as good as new are forgotten.
const MAX_CLIENTS: usize = 1024;

/// Whom a limit holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Address(IpAddr),
    Sandbox(NsId),
}

/// How often something may be asked for: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    /// How many at once after a silence.
    pub burst: f64,
}

impl Rate {
    fn refilled(&self, of: &Usage, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(of.seen).as_secs_f64();
        (of.tokens + elapsed * self.per_second).min(self.burst)
    }
}

#[derive(Debug)]
struct Usage {
    in_flight: usize,
    tokens: f64,
    seen: Instant,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<Client, Usage>,
    total: usize,
}

/// Hands out permits: at most `per_client` at a time to one client and `total` to all together,
/// and to one client no faster than `rate`.
#[derive(Debug)]
pub(super) struct Admission {
    per_client: usize,
    total: usize,
    rate: Option<Rate>,
    state: Mutex<State>,
}

impl Admission {
    pub(super) fn new(per_client: usize, total: usize, rate: Option<Rate>) -> Arc<Self> {
        Arc::new(Self {
            per_client,
            total,
            rate,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admit(self: &Arc<Self>, client: Client) -> Option<Permit> {
        self.admit_at(client, Instant::now())
    }

    fn admit_at(self: &Arc<Self>, client: Client, now: Instant) -> Option<Permit> {
        let mut state = self.state();
        if state.total >= self.total {
            return None;
        }
        if state.clients.len() >= MAX_CLIENTS {
            state.clients.retain(|_, usage| !self.is_new(usage, now));
        }
        let mine = state.clients.entry(client).or_insert(Usage {
            in_flight: 0,
            tokens: self.rate.map_or(0.0, |rate| rate.burst),
            seen: now,
        });
        if mine.in_flight >= self.per_client {
            return None;
        }
        if let Some(rate) = self.rate {
            mine.tokens = rate.refilled(mine, now);
            mine.seen = now;
            if mine.tokens < 1.0 {
                return None;
            }
            mine.tokens -= 1.0;
        }
        mine.in_flight += 1;
        state.total += 1;
        Some(Permit {
            admission: Arc::clone(self),
            client,
        })
    }

    /// Whether forgetting the client makes no difference.
    fn is_new(&self, usage: &Usage, now: Instant) -> bool {
        let full = |rate: Rate| rate.refilled(usage, now) >= rate.burst;
        usage.in_flight == 0 && self.rate.is_none_or(full)
    }
}

/// The right to one thing in flight; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    client: Client,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.total = state.total.saturating_sub(1);
        if let Some(mine) = state.clients.get_mut(&self.client) {
            mine.in_flight = mine.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn client(number: u32) -> Client {
        Client::Address(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn one_client_cannot_take_what_is_left_for_others() {
        let [a, b, c] = [1, 2, 3].map(client);
        let admission = Admission::new(2, 3, None);
        let first = admission.admit(a).unwrap();
        let _second = admission.admit(a).unwrap();
        assert!(admission.admit(a).is_none(), "over its own limit");
        let _third = admission.admit(b).unwrap();
        assert!(admission.admit(c).is_none(), "over everybody's limit");
        drop(first);
        assert!(admission.admit(c).is_some());
    }

    #[test]
    fn a_client_that_asks_too_fast_waits_and_others_do_not() {
        let rate = Rate {
            per_second: 10.0,
            burst: 3.0,
        };
        let admission = Admission::new(100, 100, Some(rate));
        let start = Instant::now();
        let admitted = |number, at: u64| {
            let now = start + Duration::from_millis(at);
            admission.admit_at(client(number), now).is_some()
        };
        assert_eq!(
            [0; 5].map(|at| admitted(1, at)),
            [true, true, true, false, false]
        );
        assert!(admitted(2, 0), "another client");
        assert!(!admitted(1, 50), "half a token");
        assert!(admitted(1, 100));
        assert!(!admitted(1, 100));
        assert_eq!(
            [10_000; 4].map(|at| admitted(1, at)),
            [true, true, true, false]
        );
    }

    #[test]
    fn clients_that_left_are_forgotten_and_those_over_their_rate_are_not() {
        let rate = Rate {
            per_second: 1.0,
            burst: 1.0,
        };
        let admission = Admission::new(1, 10 * MAX_CLIENTS, Some(rate));
        let start = Instant::now();
        for number in 0..2 * MAX_CLIENTS as u32 {
            let now = start + Duration::from_secs(number.into());
            drop(admission.admit_at(client(number), now));
        }
        assert!(admission.state().clients.len() <= MAX_CLIENTS);
        let last = client(2 * MAX_CLIENTS as u32 - 1);
        let now = start + Duration::from_secs(2 * MAX_CLIENTS as u64 - 1);
        assert!(admission.admit_at(last, now).is_none());
    }
}
