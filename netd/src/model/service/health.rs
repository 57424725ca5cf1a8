//! When probes change the verdict on a member. A member must fail or succeed several times in a row
//! for that, so that a lost packet moves nobody.

use std::time::Duration;

use api::service::Health;

use super::Verdict;

/// While a member starts, it is looked at more often: it is waited for.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);

/// The outcomes of late: all of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Streak {
    healthy: bool,
    length: u32,
}

impl Streak {
    fn extend(&mut self, healthy: bool) -> u32 {
        if self.healthy != healthy {
            self.length = 0;
        }
        self.healthy = healthy;
        self.length = self.length.saturating_add(1);
        self.length
    }

    /// The verdict after another probe of a member that joined so long ago.
    pub(crate) fn judge(
        &mut self,
        health: &Health,
        verdict: Verdict,
        healthy: bool,
        age: Duration,
    ) -> Verdict {
        let length = self.extend(healthy);
        match (verdict, healthy) {
            (Verdict::Starting, true) => Verdict::Up,
            (Verdict::Starting, false) if age < health.start_period => {
                self.length = 0;
                Verdict::Starting
            }
            (Verdict::Down, true) if length >= health.rise => Verdict::Up,
            (Verdict::Starting | Verdict::Up, false) if length >= health.fall => Verdict::Down,
            _ => verdict,
        }
    }
}

/// From the end of one probe to the next.
pub(crate) fn pause(health: &Health, verdict: Verdict) -> Duration {
    match verdict {
        Verdict::Starting => health.interval.min(STARTING_INTERVAL),
        Verdict::Up | Verdict::Down => health.interval,
    }
}

#[cfg(test)]
mod tests {
    use api::service::Probe;
    use proptest::prelude::*;

    use super::*;

    fn health(rise: u32, fall: u32, start_period: u64) -> Health {
        Health {
            probe: Probe::Tcp { port: 80 },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::from_secs(start_period),
            rise,
            fall,
        }
    }

    /// Probes one second apart, `+` and `-`, and the verdicts after each.
    fn run(health: &Health, first: Verdict, outcomes: &str) -> String {
        let (mut streak, mut verdict) = (Streak::default(), first);
        let outcomes = outcomes.chars().enumerate();
        outcomes
            .map(|(second, outcome)| {
                let age = Duration::from_secs(second as u64);
                verdict = streak.judge(health, verdict, outcome == '+', age);
                match verdict {
                    Verdict::Starting => 's',
                    Verdict::Up => 'u',
                    Verdict::Down => 'd',
                }
            })
            .collect()
    }

    #[test]
    fn one_success_starts_several_failures_end_and_several_successes_bring_back() {
        let health = health(2, 3, 0);
        assert_eq!(
            run(&health, Verdict::Starting, "+--+---+-++"),
            "uuuuuudddduu".get(..11).unwrap()
        );
        assert_eq!(run(&health, Verdict::Starting, "---+"), "ssdd");
    }

    #[test]
    fn failures_of_the_start_period_do_not_count() {
        let health = health(1, 2, 3);
        assert_eq!(run(&health, Verdict::Starting, "-----+"), "ssssdu");
        assert_eq!(run(&health, Verdict::Up, "--"), "ud", "it has started");
    }

    proptest! {
        /// A verdict changes only at the end of a run of outcomes of the other kind that is long
        /// enough, and then it does.
        #[test]
        fn a_verdict_changes_after_a_run_and_only_then(
            rise in 1_u32..5,
            fall in 1_u32..5,
            outcomes in proptest::collection::vec(any::<bool>(), 0..60),
        ) {
            let health = health(rise, fall, 0);
            let (mut streak, mut verdict) = (Streak::default(), Verdict::Up);
            let (mut kind, mut length) = (true, 0);
            for healthy in outcomes {
                length = if kind == healthy { length + 1 } else { 1 };
                kind = healthy;
                let next = streak.judge(&health, verdict, healthy, Duration::ZERO);
                let due = match (verdict, healthy) {
                    (Verdict::Up, false) => length >= fall,
                    (Verdict::Down, true) => length >= rise,
                    _ => false,
                };
                prop_assert_eq!(next != verdict, due);
                verdict = next;
            }
        }
    }
}
