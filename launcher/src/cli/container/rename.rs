//! `hawser rename`.

use api::id::ContainerName;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::run::draft::DraftError;
use crate::store::durability_of;

/// `hawser rename`.
#[derive(Debug, Clone, Args)]
pub struct RenameFlags {
    /// Container to rename
    pub container: String,
    /// Its new name
    pub name: String,
}

/// # Errors
/// The new name is taken or no name.
pub fn rename(context: &Context, flags: &RenameFlags) -> Result<i32, CliError> {
    let name = ContainerName::parse(&flags.name).map_err(DraftError::from)?;
    let container = context.container(&flags.container)?;
    let _lock = container.lock()?;
    let mut record = container.record()?;
    let store = context.store()?;
    store.reserve_name(&name, &record.id)?;
    let old = std::mem::replace(&mut record.name, name.clone());
    if let Err(error) = container.write_record(&record, durability_of(&record)) {
        store.release_name(&name, &record.id)?;
        return Err(error.into());
    }
    if old != name {
        store.release_name(&old, &record.id)?;
    }
    Ok(0)
}
