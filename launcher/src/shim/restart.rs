//! When a container that has ended is started again. Pure.

use std::time::Duration;

use crate::container::{RestartPolicy, State};

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

/// Whether a container that does not run is started when the daemon or the host has. As Docker's
/// users have learned: `always` even if it was stopped on purpose.
pub fn resumes(policy: &RestartPolicy, state: &State) -> bool {
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !state.stopped,
        "on-failure" => {
            let most = policy.maximum_retry_count;
            state.exit_code != 0 && (most == 0 || state.restart_count < most)
        }
        _ => false,
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
    fn a_start_of_the_daemon_brings_back_what_the_policy_says() {
        let again = |name: &str, exit_code, stopped| {
            let state = State {
                exit_code,
                stopped,
                ..State::default()
            };
            resumes(&policy(name, 0), &state)
        };
        assert!(again("always", 137, true) && again("always", 0, false));
        assert!(again("unless-stopped", 137, false) && !again("unless-stopped", 137, true));
        assert!(again("on-failure", 1, false) && !again("on-failure", 0, false));
        assert!(!again("no", 1, false));
        let worn_out = State {
            exit_code: 1,
            restart_count: 2,
            ..State::default()
        };
        assert!(!resumes(&policy("on-failure", 2), &worn_out));
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
