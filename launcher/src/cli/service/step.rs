//! `--update-…` and `--rollback-…`: how replicas are replaced.

use std::time::Duration;

use api::task::{FailureAction, UpdateConfig, UpdateOrder};

use super::ServiceFlagError;
use super::health::duration;

/// The names of a group's flags, for errors.
pub(super) struct StepNames {
    delay: &'static str,
    monitor: &'static str,
    failure_action: &'static str,
    order: &'static str,
    rolls_back: bool,
}

pub(super) const UPDATE: StepNames = StepNames {
    delay: "--update-delay",
    monitor: "--update-monitor",
    failure_action: "--update-failure-action",
    order: "--update-order",
    rolls_back: true,
};
pub(super) const ROLLBACK: StepNames = StepNames {
    delay: "--rollback-delay",
    monitor: "--rollback-monitor",
    failure_action: "--rollback-failure-action",
    order: "--rollback-order",
    rolls_back: false,
};

/// `--update-…` or `--rollback-…`.
pub(super) struct Steps<'a> {
    pub(super) flags: &'static StepNames,
    pub(super) parallelism: Option<u64>,
    pub(super) delay: &'a Option<String>,
    pub(super) monitor: &'a Option<String>,
    pub(super) failure_action: &'a Option<String>,
    pub(super) max_failure_ratio: Option<f64>,
    pub(super) order: &'a Option<String>,
}

impl Steps<'_> {
    pub(super) fn change(&self, config: &mut UpdateConfig) -> Result<(), ServiceFlagError> {
        if let Some(parallelism) = self.parallelism {
            config.parallelism = parallelism;
        }
        set_span(self.flags.delay, self.delay, &mut config.delay)?;
        set_span(self.flags.monitor, self.monitor, &mut config.monitor)?;
        if let Some(text) = self.failure_action {
            config.failure_action = match text.as_str() {
                "pause" => FailureAction::Pause,
                "continue" => FailureAction::Continue,
                "rollback" if self.flags.rolls_back => FailureAction::Rollback,
                _ => {
                    let expected = "pause, continue, or for updates rollback";
                    return Err(value(self.flags.failure_action, text, expected));
                }
            };
        }
        if let Some(ratio) = self.max_failure_ratio {
            config.max_failure_ratio = ratio;
        }
        if let Some(text) = self.order {
            config.order = match text.as_str() {
                "stop-first" => UpdateOrder::StopFirst,
                "start-first" => UpdateOrder::StartFirst,
                _ => return Err(value(self.flags.order, text, "stop-first or start-first")),
            };
        }
        Ok(())
    }
}

pub(super) fn value(flag: &'static str, text: &str, expected: &'static str) -> ServiceFlagError {
    ServiceFlagError::Value {
        flag,
        text: text.to_owned(),
        expected,
    }
}

pub(super) fn set_span(
    flag: &'static str,
    text: &Option<String>,
    field: &mut Duration,
) -> Result<(), ServiceFlagError> {
    if let Some(text) = text {
        *field = duration(flag, text)?;
    }
    Ok(())
}
