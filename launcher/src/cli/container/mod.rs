//! `hawser container …`: commands on containers that exist.

pub mod attach;
pub mod commit;
pub mod copy;
pub mod diff;
pub mod exec;
pub mod export;
pub mod filter;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod pause;
pub mod ports;
pub mod prune;
pub mod remove;
pub mod rename;
pub mod resume;
pub mod start;
pub mod stats;
pub mod stop;
pub mod top;
pub mod update;
pub mod view;

use super::context::Context;
use super::error::CliError;
use super::output;
use crate::store::ContainerDir;

/// Does `action` for every container, prints each key that succeeded as it was typed, and each
/// failure; the exit code is 1 if there was one.
///
/// # Errors
/// Standard output is closed.
pub(super) fn for_each(
    context: &Context,
    keys: &[String],
    action: impl Fn(&Context, &ContainerDir) -> Result<(), CliError>,
) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for key in keys {
        match context
            .container(key)
            .and_then(|container| action(context, &container))
        {
            Ok(()) => output::line(key)?,
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}
