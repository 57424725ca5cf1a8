//! `hawser system prune`: everything that nothing uses.

use api::daemon::Pruned;
use api::path::{IMAGES_PRUNE, VOLUMES_PRUNE};
use api::storage::VolumePrune;
use clap::Args;

use crate::cli::container::prune as containers;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::image::prune as images;
use crate::cli::network::remove as networks;
use crate::cli::output;
use crate::format::human;

/// `hawser system prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneFlags {
    /// Remove images with tags too, unless a container uses them
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Remove volumes that were made without a name and no container has, too
    #[arg(long)]
    pub volumes: bool,
    /// Remove only what fits: until=, label=, label!=
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// # Errors
/// A bad filter, or no daemon.
pub fn prune(context: &Context, flags: &PruneFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["until", "label", "label!"])?;
    if flags.volumes && !filter.get("until").is_empty() {
        return Err(CliError::Conflict(
            "the filter until does not go with --volumes: volumes have no age",
        ));
    }
    let until = containers::until(&filter)?;
    let request = images::request(&filter, flags.all)?;
    if !flags.force && !output::confirm(&warning(flags))? {
        return Ok(0);
    }
    let containers = containers::stopped(context, &filter, until)?;
    output::pruned("Deleted Containers:", &containers.deleted)?;
    let networks = networks::unused(context, &filter, until)?;
    output::pruned("Deleted Networks:", &networks.deleted)?;
    let mut reclaimed = containers.reclaimed;
    if flags.volumes {
        let request = VolumePrune {
            anonymous: true,
            labels: filter.get("label").to_vec(),
            ..VolumePrune::default()
        };
        let volumes: Pruned = context.client().post(VOLUMES_PRUNE, &request)?;
        output::pruned("Deleted Volumes:", &volumes.deleted)?;
        reclaimed += volumes.space_reclaimed;
    }
    let images: Pruned = context.client().post(IMAGES_PRUNE, &request)?;
    output::pruned("Deleted Images:", &images.deleted)?;
    reclaimed += images.space_reclaimed;
    output::line(format_args!(
        "Total reclaimed space: {}",
        human::size(reclaimed, 4)
    ))?;
    Ok(i32::from(containers.failed || networks.failed))
}

fn warning(flags: &PruneFlags) -> String {
    let mut lines = vec![
        "This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
    ];
    if flags.volumes {
        lines.push("  - all anonymous volumes not used by at least one container");
    }
    lines.push(if flags.all {
        "  - all images without at least one container associated to them"
    } else {
        "  - all dangling images"
    });
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_names_what_goes() {
        let flags = |all, volumes| PruneFlags {
            all,
            force: false,
            volumes,
            filter: Vec::new(),
        };
        assert!(warning(&flags(false, false)).ends_with("  - all dangling images\n"));
        let most = warning(&flags(true, true));
        assert!(most.contains("anonymous volumes") && most.contains("all images without"));
    }
}
