//! `hawser diff`: what a container changed in its image.

use api::path::{ROOTFS, ROOTFS_CHANGES};
use api::storage::RootfsChange;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// Prints a line an entry: A for added, C for changed, D for deleted.
///
/// # Errors
/// There is no such container.
pub fn diff(context: &Context, container: &str) -> Result<i32, CliError> {
    let container = context.container(container)?;
    let route = format!("{ROOTFS}/{}/{ROOTFS_CHANGES}", container.id());
    let changes: Vec<RootfsChange> = context.client().get(&route)?;
    for change in changes {
        let kind = match change.kind {
            1 => 'A',
            2 => 'D',
            _ => 'C',
        };
        output::line(format_args!("{kind} {}", change.path))?;
    }
    Ok(0)
}
