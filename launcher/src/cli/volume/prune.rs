//! `hawser volume prune` and `hawser volume restore`.

use api::client::escape;
use api::daemon::Pruned;
use api::path::{VOLUMES_PRUNE, VOLUMES_PRUNE_PLAN, VOLUMES_TRASH};
use api::storage::{PruneCandidate, TrashedVolume, Volume, VolumePrune};
use clap::Args;
use jiff::Timestamp;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::filter::Filter;
use super::super::{listing, output};
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser volume prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneFlags {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Remove volumes with names too, which is what happens anyway
    #[arg(short, long, conflicts_with = "anonymous")]
    pub all: bool,
    /// Remove only volumes that were made without a name
    #[arg(long)]
    pub anonymous: bool,
    /// Remove only what fits: label=
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete at once, also what was pruned before; nothing of it can come back
    #[arg(long)]
    pub permanent: bool,
}

/// `hawser volume restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreFlags {
    /// table, json, or a Go template, for the list
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "",
        conflicts_with = "volumes"
    )]
    pub format: String,
    /// Volumes to bring back; without any, list those that can come back
    #[arg(value_name = "VOLUME")]
    pub volumes: Vec<String>,
}

const PLAN: Columns = Columns {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Size", "SIZE"),
        ("Created", "CREATED"),
    ],
    default: "{{.Name}}\t{{.Size}}\t{{.Created}}",
};

const TRASH: Columns = Columns {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Size", "SIZE"),
        ("Pruned", "PRUNED"),
        ("KeptUntil", "KEPT UNTIL"),
    ],
    default: "{{.Name}}\t{{.Size}}\t{{.Pruned}}\t{{.KeptUntil}}",
};

pub(super) fn prune(context: &Context, flags: &PruneFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["label", "all"])?;
    let mut request = VolumePrune {
        anonymous: flags.anonymous,
        labels: filter.get("label").to_vec(),
        names: None,
        permanent: flags.permanent,
    };
    if flags.dry_run || !flags.force {
        let plan: Vec<PruneCandidate> = context.client().post(VOLUMES_PRUNE_PLAN, &request)?;
        show_plan(&plan)?;
        if flags.dry_run || !output::confirm(warning(flags))? {
            return Ok(0);
        }
        // What nobody was shown is not removed, though nobody has it any more by now.
        request.names = Some(plan.into_iter().map(|volume| volume.name).collect());
    }
    let mut pruned: Pruned = context.client().post(VOLUMES_PRUNE, &request)?;
    if flags.permanent {
        let earlier: Pruned = context.client().delete_for(VOLUMES_TRASH)?;
        pruned.deleted.extend(earlier.deleted);
        pruned.space_reclaimed += earlier.space_reclaimed;
    }
    report(&pruned)?;
    Ok(0)
}

fn warning(flags: &PruneFlags) -> &'static str {
    match (flags.anonymous, flags.permanent) {
        (true, _) => "This will remove anonymous local volumes not used by at least one container.",
        (false, true) => {
            "This will delete all volumes not used by at least one container, and all pruned before."
        }
        (false, false) => "This will remove all volumes not used by at least one container.",
    }
}

fn show_plan(plan: &[PruneCandidate]) -> Result<(), CliError> {
    let now = Timestamp::now();
    let row = |volume: &PruneCandidate| {
        Row::new([
            ("Name", volume.name.as_str().into()),
            ("Size", human::size(volume.size, 3).into()),
            ("Created", human::ago(&volume.created_at, now).into()),
        ])
    };
    let name = |volume: &PruneCandidate| volume.name.to_string();
    listing::print(plan, (false, ""), &PLAN, name, row)?;
    let total: u64 = plan.iter().map(|volume| volume.size).sum();
    output::line(format_args!(
        "{} volumes, {}",
        plan.len(),
        human::size(total, 3)
    ))
}

fn report(pruned: &Pruned) -> Result<(), CliError> {
    output::pruned("Deleted Volumes:", &pruned.deleted)?;
    output::line(format_args!(
        "Total reclaimed space: {}",
        human::size(pruned.space_reclaimed, 4)
    ))?;
    if let Some(hours) = pruned.restorable_hours {
        output::warn(format_args!(
            "For {hours} hours \"hawser volume restore VOLUME\" brings a volume back; until then \
             it occupies the disk (\"hawser volume prune --permanent\" frees it now)."
        ));
    }
    Ok(())
}

pub(super) fn restore(context: &Context, flags: &RestoreFlags) -> Result<i32, CliError> {
    if flags.volumes.is_empty() {
        let trash: Vec<TrashedVolume> = context.client().get(VOLUMES_TRASH)?;
        let name = |volume: &TrashedVolume| volume.name.to_string();
        let now = Timestamp::now();
        let row = |volume: &TrashedVolume| trashed(volume, now);
        return listing::print(&trash, (false, &flags.format), &TRASH, name, row);
    }
    let mut exit_code = 0;
    for volume in &flags.volumes {
        let path = format!("{VOLUMES_TRASH}/{}", escape(volume));
        match context.client().post::<Volume>(&path, &()) {
            Ok(restored) => output::line(restored.name)?,
            Err(error) => {
                output::failure(&error.into());
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

fn trashed(volume: &TrashedVolume, now: Timestamp) -> Row {
    Row::new([
        ("Name", volume.name.as_str().into()),
        ("Size", human::size(volume.size, 3).into()),
        ("Pruned", human::ago(&volume.pruned_at, now).into()),
        ("KeptUntil", volume.kept_until.as_str().into()),
    ])
}
