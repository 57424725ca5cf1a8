//! `hawser diff`: what a container changed in its image.

use api::path::{ROOTFS, ROOTFS_CHANGES};
use api::storage::RootfsChange;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::store::ContainerDir;

/// As in Docker's API.
const ADDED: u8 = 1;
const MADE: [&str; 6] = [
    "/dev",
    "/proc",
    "/sys",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
];

/// Prints a line an entry: A for added, C for changed, D for deleted.
///
/// # Errors
/// There is no such container.
pub fn diff(context: &Context, container: &str) -> Result<i32, CliError> {
    let container = context.container(container)?;
    for change in changes(context, &container)? {
        let kind = match change.kind {
            ADDED => 'A',
            2 => 'D',
            _ => 'C',
        };
        output::line(format_args!("{kind} {}", change.path))?;
    }
    Ok(0)
}

/// What a container did to its image.
///
/// # Errors
/// The daemon cannot be reached.
pub(crate) fn changes(
    context: &Context,
    container: &ContainerDir,
) -> Result<Vec<RootfsChange>, CliError> {
    context.check_driver(&container.record()?)?;
    let route = format!("{ROOTFS}/{}/{ROOTFS_CHANGES}", container.id());
    Ok(own(context.client().get(&route)?))
}

/// Without the places that every container has something of the host at: of an image that has none,
/// its start makes them.
fn own(mut changes: Vec<RootfsChange>) -> Vec<RootfsChange> {
    let is_made = |change: &RootfsChange| change.kind == ADDED && MADE.contains(&&*change.path);
    let has_etc = changes.iter().any(is_made);
    changes.retain(|change| !is_made(change));
    // The directory is changed with what is made in it.
    if has_etc
        && !changes
            .iter()
            .any(|change| change.path.starts_with("/etc/"))
    {
        changes.retain(|change| change.path != "/etc");
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_start_makes_is_no_change() {
        let change = |(kind, path): &(u8, &str)| RootfsChange {
            path: (*path).to_owned(),
            kind: *kind,
        };
        let own = |changes: &[(u8, &str)]| -> Vec<String> {
            let changes = own(changes.iter().map(change).collect());
            changes.into_iter().map(|change| change.path).collect()
        };
        let made = [
            (0, "/etc"),
            (1, "/etc/hosts"),
            (1, "/etc/hostname"),
            (1, "/proc"),
        ];
        assert_eq!(own(&made), [""; 0]);
        let mine = [&made[..], &[(1, "/etc/mine")]].concat();
        assert_eq!(own(&mine), ["/etc", "/etc/mine"]);
        assert_eq!(
            own(&[(0, "/etc"), (0, "/etc/hosts")]),
            ["/etc", "/etc/hosts"]
        );
        assert_eq!(own(&[(0, "/etc")]), ["/etc"]);
    }
}
