//! When a container that has ended is started again. Pure.

use std::time::Duration;

use crate::container::RestartPolicy;

/// Docker's waits: doubled after each short life, from the start again after a long one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONG_LIFE: Duration = Duration::from_secs(10);

/// One life of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) code: i32,
    pub(crate) lasted: Duration,
    /// Ended because somebody asked for it.
    pub(crate) was_stopped: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Restarts {
    pub(crate) count: u32,
    pause: Duration,
}

impl Restarts {
    /// How long to wait before the next life, if there is to be one.
    pub(crate) fn after(&mut self, policy: &RestartPolicy, life: Life) -> Option<Duration> {
        let wanted = match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => {
                let most = policy.maximum_retry_count;
                life.code != 0 && (most == 0 || self.count < most)
            }
            _ => false,
        };
        if !wanted || life.was_stopped {
            return None;
        }
        self.count += 1;
        self.pause = if life.lasted >= LONG_LIFE {
            FIRST_PAUSE
        } else {
            (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
        };
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, maximum_retry_count: u32) -> RestartPolicy {
        RestartPolicy {
            name: name.to_owned(),
            maximum_retry_count,
        }
    }

    fn life(code: i32, seconds: u64) -> Life {
        Life {
            code,
            lasted: Duration::from_secs(seconds),
            was_stopped: false,
        }
    }

    #[test]
    fn the_policy_decides() {
        let again =
            |policy: &RestartPolicy, life: Life| Restarts::default().after(policy, life).is_some();
        assert!(!again(&policy("no", 0), life(1, 0)));
        assert!(!again(&policy("", 0), life(1, 0)));
        assert!(again(&policy("always", 0), life(0, 0)));
        assert!(again(&policy("unless-stopped", 0), life(0, 0)));
        assert!(again(&policy("on-failure", 0), life(1, 0)));
        assert!(!again(&policy("on-failure", 0), life(0, 0)));
        let stopped = Life {
            was_stopped: true,
            ..life(1, 0)
        };
        assert!(!again(&policy("always", 0), stopped));
    }

    #[test]
    fn retries_are_counted() {
        let mut restarts = Restarts::default();
        let policy = policy("on-failure", 2);
        let tries = (0..5)
            .filter(|_| restarts.after(&policy, life(1, 0)).is_some())
            .count();
        assert_eq!(tries, 2);
    }

    #[test]
    fn waits_double_until_a_life_is_long() {
        let mut restarts = Restarts::default();
        let policy = policy("always", 0);
        let mut wait = |seconds| {
            let pause = restarts.after(&policy, life(0, seconds)).unwrap();
            pause.as_millis()
        };
        let waits = [wait(0), wait(0), wait(0), wait(11), wait(0)];
        assert_eq!(waits, [100, 200, 400, 100, 200]);
        assert_eq!((0..20).map(|_| wait(0)).last(), Some(60_000));
    }
}
