//! The one executor: it runs plans, and undoes those that fail.

mod child;
mod host;
mod limit;
mod link;
mod sandbox;
mod setting;
pub(crate) mod vxlan;
mod wireguard;

pub(crate) use child::{delete_child, delete_parent};
pub(crate) use host::{Host, open};
pub(crate) use link::delete as delete_link;
pub(crate) use setting::release as release_ports;

use crate::kernel::{Kernel, KernelError};
use crate::model::step::{Change, Step};

/// Why a plan was given up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: KernelError,
    /// Whether everything before it was undone: what was not has been logged.
    pub(crate) undone: bool,
}

/// Runs `steps` in order. When one fails, those before it that changed something are undone in
/// reverse.
pub(crate) fn run(kernel: &dyn Kernel, steps: &[Step]) -> Result<(), Failure> {
    let mut done: Vec<&Step> = Vec::new();
    for step in steps {
        match kernel.apply(step) {
            Ok(Change::Done) => {
                tracing::debug!(%step, "applied");
                done.push(step);
            }
            Ok(Change::Unchanged) => {}
            Err(cause) => {
                let inverses = done.into_iter().rev().filter_map(Step::inverse);
                let (_changed, left) = run_all(kernel, &inverses.collect::<Vec<_>>());
                return Err(Failure {
                    cause,
                    undone: left.is_empty(),
                });
            }
        }
    }
    Ok(())
}

/// Runs every one of `steps`, although others fail: for removals and repairs. Returns how many
/// changed something, and the failures.
pub(crate) fn run_all(kernel: &dyn Kernel, steps: &[Step]) -> (usize, Vec<KernelError>) {
    let mut changed = 0;
    let mut failures = Vec::new();
    for step in steps {
        match kernel.apply(step) {
            Ok(Change::Done) => {
                tracing::debug!(%step, "applied");
                changed += 1;
            }
            Ok(Change::Unchanged) => {}
            Err(error) => {
                tracing::warn!(%step, %error, "step failed, the next reconcile tries again");
                failures.push(error);
            }
        }
    }
    (changed, failures)
}
