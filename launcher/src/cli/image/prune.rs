//! `hawser image prune`.

use api::daemon::Pruned;
use api::path::IMAGES_PRUNE;
use api::storage::ImagePrune;
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::{moment, output};
use crate::format::human;

/// `hawser image prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneFlags {
    /// Remove images with tags too, unless a container uses them
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Remove only what fits: until=, label=, label!=
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}

/// # Errors
/// A bad filter, or no daemon.
pub fn prune(context: &Context, flags: &PruneFlags) -> Result<i32, CliError> {
    let warning = if flags.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    let filter = Filter::parse(&flags.filter, &["until", "label", "label!", "dangling"])?;
    let all = flags.all || filter.truth("dangling")? == Some(false);
    let request = request(&filter, all)?;
    if !flags.force && !output::confirm(warning)? {
        return Ok(0);
    }
    let pruned: Pruned = context.client().post(IMAGES_PRUNE, &request)?;
    output::pruned("Deleted Images:", &pruned.deleted)?;
    output::line(format_args!(
        "Total reclaimed space: {}",
        human::size(pruned.space_reclaimed, 4)
    ))?;
    Ok(0)
}

/// What the daemon is asked for; `until`, `label` and `label!` of `filter` count.
///
/// # Errors
/// `until` is no time.
pub(crate) fn request(filter: &Filter, all: bool) -> Result<ImagePrune, CliError> {
    let until = filter.get("until").last();
    let until = until
        .map(|text| moment::parse("until", text, Timestamp::now()))
        .transpose()?;
    Ok(ImagePrune {
        all,
        labels: filter.get("label").to_vec(),
        without_labels: filter.get("label!").to_vec(),
        until: until.map(|time| time.to_string()),
    })
}
