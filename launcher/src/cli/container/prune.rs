//! `hawser container prune`.

use api::path::STORAGE_USAGE;
use api::storage::StorageUsage;
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::{moment, output};
use crate::container::Status;
use crate::format::human;
use crate::store::StoreError;

use super::remove;
use super::view::{self, View};

/// `hawser container prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneFlags {
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
    let filter = Filter::parse(&flags.filter, &["until", "label", "label!"])?;
    let until = until(&filter)?;
    if !flags.force && !output::confirm("This will remove all stopped containers.")? {
        return Ok(0);
    }
    let pruned = stopped(context, &filter, until)?;
    output::pruned("Deleted Containers:", &pruned.deleted)?;
    output::line(format_args!(
        "Total reclaimed space: {}",
        human::size(pruned.reclaimed, 4)
    ))?;
    Ok(i32::from(pruned.failed))
}

/// The moment before which things must have been made.
///
/// # Errors
/// It is none.
pub(crate) fn until(filter: &Filter) -> Result<Option<Timestamp>, CliError> {
    let text = filter.get("until").last();
    text.map(|text| moment::parse("--filter until", text, Timestamp::now()))
        .transpose()
}

/// What was removed.
pub(crate) struct Pruned {
    pub(crate) deleted: Vec<String>,
    /// Bytes.
    pub(crate) reclaimed: u64,
    /// Something was left, and said why.
    pub(crate) failed: bool,
}

/// Removes the containers that do not run, as far as they pass.
///
/// # Errors
/// No daemon.
pub(crate) fn stopped(
    context: &Context,
    filter: &Filter,
    until: Option<Timestamp>,
) -> Result<Pruned, CliError> {
    let sizes: StorageUsage = context.client().get(STORAGE_USAGE)?;
    let mut pruned = Pruned {
        deleted: Vec::new(),
        reclaimed: 0,
        failed: false,
    };
    let fits = |view: &&View| {
        matches!(view.state.status, Status::Created | Status::Exited)
            && until.is_none_or(|until| is_before(view, until))
            && filter.passes(&view.record.config.labels, |_until, _time| true)
    };
    for view in view::all(context)?.iter().filter(fits) {
        let id = view.record.id.to_string();
        match remove::remove_stopped(context, &id) {
            Ok(()) => {
                let size = sizes.rootfs.iter().find(|rootfs| rootfs.container == id);
                pruned.reclaimed += size.and_then(|size| size.size).unwrap_or_default();
                pruned.deleted.push(id);
            }
            // Somebody else was faster.
            Err(CliError::Store(StoreError::NotFound { .. })) => {}
            Err(error) => {
                output::failure(&error);
                pruned.failed = true;
            }
        }
    }
    Ok(pruned)
}

fn is_before(view: &View, until: Timestamp) -> bool {
    let created = view.record.created.parse::<Timestamp>();
    created.is_ok_and(|created| created < until)
}
