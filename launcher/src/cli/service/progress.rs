//! Waiting until a service's replicas are as they should be, and telling how far they are.

use std::thread;
use std::time::{Duration, Instant};

use api::service::Service;
use api::task::UpdateState;

use super::find;
use crate::agent::crew::Replicas;
use crate::agent::task::{Task, TaskState};
use crate::agent::template;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

const TICK: Duration = Duration::from_millis(100);
/// Replicas that have run for so long are taken for stable; an update watches them by itself.
const STABLE: Duration = Duration::from_secs(5);

/// Waits until all replicas run and stay, or the update has ended otherwise; the exit code.
///
/// # Errors
/// The daemon cannot be asked, or standard output is closed.
pub(super) fn wait(context: &Context, service: &Service, quiet: bool) -> Result<i32, CliError> {
    let mut shown = String::new();
    let mut stable_since = None;
    loop {
        let now = find(context, service.id.as_str())?;
        let replicas = Replicas::read(context, [&now])?;
        let tasks = replicas.of(&now);
        let slots = replicas.wanted(&now);
        let digest = template::digest(&now);
        let ready = newest(tasks)
            .filter(|task| task.state == TaskState::Running && task.template == digest)
            .count() as u64;
        let text = overview(slots, ready, tasks);
        if text != shown && !quiet {
            output::write(&text)?;
            shown = text;
        }
        match now
            .update_status
            .as_ref()
            .map(|status| (status.state, status))
        {
            Some((UpdateState::Paused | UpdateState::RollbackPaused, status)) => {
                output::warn(format_args!(
                    "service {}: {}",
                    now.spec.name, status.message
                ));
                return Ok(1);
            }
            Some((state, _)) if state.is_active() => {
                stable_since = None;
            }
            Some((UpdateState::RollbackCompleted, _)) if !quiet && ready == slots => {
                output::line("rollback: update rolled back")?;
                return Ok(0);
            }
            _ if ready == slots => {
                let since = *stable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STABLE || slots == 0 || is_updated(&now) {
                    if !quiet {
                        output::line(format_args!("verify: Service {} converged", now.id))?;
                    }
                    return Ok(0);
                }
            }
            _ => stable_since = None,
        }
        thread::sleep(TICK);
    }
}

/// An update has watched the replicas already.
fn is_updated(service: &Service) -> bool {
    let status = service.update_status.as_ref();
    status.is_some_and(|status| !status.state.is_active())
}

/// The last task of each slot.
fn newest(tasks: &[Task]) -> impl Iterator<Item = &Task> {
    tasks.iter().enumerate().filter_map(|(at, task)| {
        let later = tasks.get(at + 1..).unwrap_or_default();
        let is_last = later.iter().all(|other| other.place() != task.place());
        (is_last && task.is_wanted()).then_some(task)
    })
}

fn overview(slots: u64, ready: u64, tasks: &[Task]) -> String {
    let mut text = format!("overall progress: {ready} out of {slots} tasks\n");
    let mut tasks: Vec<&Task> = newest(tasks).collect();
    tasks.sort_by_key(|task| task.place());
    for (at, task) in tasks.into_iter().enumerate() {
        let error = match task.error.as_str() {
            "" => String::new(),
            error => format!(" {error}"),
        };
        let state = task.state.as_str().to_ascii_lowercase();
        // In mode global hosts have no number.
        let slot = if task.slot == 0 {
            at as u64 + 1
        } else {
            task.slot
        };
        text.push_str(&format!("{slot}/{slots}: {state}{error}\n"));
    }
    text
}
