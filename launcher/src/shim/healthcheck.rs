//! The container's own health check: its results go to `health.json`, and a change is told.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::health::execute;
use super::hold::now;
use super::launch::{Exec, Places};
use super::teller::Teller;
use crate::container::{Health, HealthCheckResult, HealthStatus, Schedule, Status};
use crate::store::ContainerDir;

/// Of what a check says.
const MAX_OUTPUT: usize = 4096;

/// One container's check while it lives.
pub(super) struct Check {
    pub(super) dir: ContainerDir,
    pub(super) places: Places,
    pub(super) schedule: Schedule,
    pub(super) teller: Teller,
}

impl Check {
    /// Runs until whoever holds the other end of `stopped` goes away.
    pub(super) fn watch(&self, stopped: &Receiver<()>) {
        let begun = Instant::now();
        let mut health = Health::default();
        loop {
            let is_starting = begun.elapsed() < self.schedule.start_period;
            let pause = if is_starting && health.status == HealthStatus::Starting {
                self.schedule.start_interval
            } else {
                self.schedule.interval
            };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if self.is_paused() {
                continue;
            }
            let Some(result) = self.look(stopped) else {
                return;
            };
            let before = health.status;
            let is_starting = begun.elapsed() < self.schedule.start_period;
            health.take(result, self.schedule.retries, is_starting);
            // The next result is written again, and with it this one.
            drop(self.dir.write_health(&health));
            if health.status != before {
                let action = format!("health_status: {}", health.status.as_str());
                self.teller.tell(&action, &[]);
            }
        }
    }

    /// Nothing can be executed in a paused container.
    fn is_paused(&self) -> bool {
        let state = self.dir.state();
        state.is_ok_and(|state| state.status == Status::Running && state.paused)
    }

    /// One check; none when the container ends meanwhile.
    fn look(&self, stopped: &Receiver<()>) -> Option<HealthCheckResult> {
        let exec = Exec {
            command: self.schedule.command.clone(),
            timeout: Some(self.schedule.timeout),
            ..Exec::default()
        };
        let start = now();
        let (exit_code, output) = match execute(&exec, &self.places, stopped, MAX_OUTPUT) {
            Ok(Some((code, output))) => (code, output),
            Ok(None) if self.is_over(stopped) => return None,
            Ok(None) => (-1, exceeded(self.schedule.timeout)),
            Err(error) => (-1, error.to_string()),
        };
        Some(HealthCheckResult {
            start,
            end: now(),
            exit_code,
            output,
        })
    }

    fn is_over(&self, stopped: &Receiver<()>) -> bool {
        stopped.recv_timeout(Duration::ZERO) != Err(RecvTimeoutError::Timeout)
    }
}

/// Docker's words.
fn exceeded(timeout: Duration) -> String {
    format!("Health check exceeded timeout ({timeout:?})")
}
