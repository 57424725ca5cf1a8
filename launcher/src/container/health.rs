//! How a container's health is checked, and what came of it, in the Docker Engine API's members.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Zero means the default, or in a flag's place the image's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`; `CMD` and words; `CMD-SHELL` and a line for a shell. Empty for the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Nanoseconds, as all times here.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// A check with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub command: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in this time after the start do not count.
    pub start_period: Duration,
    /// Instead of the interval in that time.
    pub start_interval: Duration,
    pub retries: u32,
}

impl Healthcheck {
    /// What to do; none when nothing is checked.
    pub fn schedule(&self) -> Option<Schedule> {
        let command = match self.test.split_first() {
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => words.to_vec(),
            Some((kind, words)) if kind == "CMD-SHELL" && !words.is_empty() => {
                ["/bin/sh", "-c", &words.join(" ")]
                    .map(str::to_owned)
                    .to_vec()
            }
            _ => return None,
        };
        let time = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => default,
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        Some(Schedule {
            command,
            interval: time(self.interval, Duration::from_secs(30)),
            timeout: time(self.timeout, Duration::from_secs(30)),
            start_period: time(self.start_period, Duration::ZERO),
            start_interval: time(self.start_interval, Duration::from_secs(5)),
            retries: u32::try_from(self.retries)
                .ok()
                .filter(|n| *n > 0)
                .unwrap_or(3),
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check yet that counts.
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Content of `health.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five checks, the oldest first.
    pub log: Vec<HealthCheckResult>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheckResult {
    /// RFC 3339 with nanoseconds.
    pub start: String,
    pub end: String,
    /// -1 when the command could not be run to its end.
    pub exit_code: i32,
    pub output: String,
}

const LOGGED: usize = 5;

impl Health {
    /// Takes in one result. `is_starting` is a time in which failures do not count.
    pub fn take(&mut self, result: HealthCheckResult, retries: u32, is_starting: bool) {
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !(is_starting && self.status == HealthStatus::Starting) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(LOGGED);
        self.log.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthCheckResult {
        HealthCheckResult {
            exit_code,
            ..HealthCheckResult::default()
        }
    }

    #[test]
    fn failures_count_after_the_start_and_one_success_heals() {
        let mut health = Health::default();
        health.take(result(1), 2, true);
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Starting, 0)
        );
        health.take(result(1), 2, false);
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Starting, 1)
        );
        health.take(result(-1), 2, false);
        assert_eq!(health.status, HealthStatus::Unhealthy);
        health.take(result(0), 2, false);
        assert_eq!(
            (health.status, health.failing_streak),
            (HealthStatus::Healthy, 0)
        );
        // Once it was well, it no longer starts.
        health.take(result(1), 1, true);
        assert_eq!(health.status, HealthStatus::Unhealthy);
        health.take(result(0), 1, false);
        assert_eq!(health.log.len(), 5);
        assert_eq!(health.log[4].exit_code, 0);
    }

    #[test]
    fn a_check_is_words_or_a_line_for_a_shell() {
        let of = |test: &[&str]| Healthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            retries: 7,
            interval: 1_000_000,
            ..Healthcheck::default()
        };
        let shell = of(&["CMD-SHELL", "test -e /x || exit 1"])
            .schedule()
            .unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "test -e /x || exit 1"]);
        assert_eq!(
            (shell.interval, shell.timeout),
            (Duration::from_millis(1), Duration::from_secs(30))
        );
        assert_eq!(shell.retries, 7);
        assert_eq!(
            of(&["CMD", "ls", "-l"]).schedule().unwrap().command,
            ["ls", "-l"]
        );
        for none in [&["NONE"][..], &[], &["CMD"]] {
            assert_eq!(of(none).schedule(), None);
        }
    }
}
