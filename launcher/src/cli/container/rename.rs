//! `hawser rename`.

use api::id::ContainerName;
use api::net::{Attachment, EndpointRename};
use api::path::ENDPOINTS_RENAME;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::run::draft::DraftError;
use crate::container::Record;
use crate::event;
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
    if record.name == name {
        return Err(ContainerError::SameName(name.to_string()).into());
    }
    let store = context.store()?;
    store.reserve_name(&name, &record.id)?;
    let old = std::mem::replace(&mut record.name, name.clone());
    let endpoints = match announce(context, &record, &name) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            store.release_name(&name, &record.id)?;
            return Err(error);
        }
    };
    if let Err(error) = container.write_record(&record, durability_of(&record)) {
        store.release_name(&name, &record.id)?;
        announce(context, &record, &old)?;
        return Err(error.into());
    }
    if old != name {
        store.release_name(&old, &record.id)?;
    }
    if !endpoints.is_empty() {
        // What `inspect` shows of a container that runs.
        let mut attachments = container.attachments()?;
        for endpoint in endpoints {
            let ifname = endpoint.ifname.to_string();
            attachments.interfaces.insert(ifname, endpoint);
        }
        container.write_attachments(&attachments)?;
    }
    let told = event::of_container(&record, "rename").with("oldName", old.to_string());
    context.tell(&told);
    Ok(0)
}

/// Moves the names by which others find the container. It has none on networks of other plugins.
fn announce(
    context: &Context,
    record: &Record,
    name: &ContainerName,
) -> Result<Vec<Attachment>, CliError> {
    let rename = EndpointRename {
        container_id: record.id.to_string(),
        name: name.to_string(),
    };
    Ok(context.client().post(ENDPOINTS_RENAME, &rename)?)
}
