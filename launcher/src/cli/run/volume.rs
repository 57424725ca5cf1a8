//! Makes the volumes of a container.

use api::client::escape;
use api::id::Id;
use api::path::{VOLUME_USERS, VOLUMES, VOLUMES_CREATE};
use api::storage::{Volume, VolumeCreate};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::volume::{self, plugin};
use crate::volume::{Driver, LOCAL, is_local};

use super::mount::VolumeSpec;
use super::undo::{Made, Undo};

/// A volume that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MadeVolume {
    pub(super) name: String,
    pub(super) driver: String,
    /// Empty while a driver has not mounted it.
    pub(super) mountpoint: String,
}

/// The volume of `spec`, made when missing, with the container as one of its users.
///
/// # Errors
/// The daemon's or the driver's refusal.
pub(super) fn make(
    context: &Context,
    undo: &mut Undo<'_>,
    id: &Id,
    spec: &VolumeSpec,
) -> Result<MadeVolume, CliError> {
    if !is_local(&spec.driver) {
        return make_by_plugin(context, undo, spec);
    }
    let existed = match &spec.name {
        Some(name) => volume::of_daemon(context, name.as_str())?.is_some(),
        None => false,
    };
    if let Some(name) = &spec.name
        && !existed
    {
        match plugin::owner(context, name)? {
            Some(driver) if spec.driver.is_empty() => {
                return of_plugin(&driver, name.to_string());
            }
            Some(driver) => {
                return Err(CliError::VolumeOf {
                    volume: name.clone(),
                    driver: driver.name().to_owned(),
                });
            }
            None => {}
        }
    }
    let request = VolumeCreate {
        name: spec
            .name
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        driver: LOCAL.to_owned(),
        driver_opts: spec.options.clone(),
        labels: spec.labels.clone(),
        ..VolumeCreate::default()
    };
    let volume: Volume = context.client().post(VOLUMES_CREATE, &request)?;
    let name = volume.name.to_string();
    if !existed {
        undo.made(Made::Volume(name.clone()));
    }
    let users = format!("{VOLUMES}/{}/{VOLUME_USERS}/{id}", escape(&name));
    context.client().act(&users)?;
    undo.made(Made::User(name.clone()));
    Ok(MadeVolume {
        name,
        driver: volume.driver,
        mountpoint: volume.mountpoint,
    })
}

fn make_by_plugin(
    context: &Context,
    undo: &mut Undo<'_>,
    spec: &VolumeSpec,
) -> Result<MadeVolume, CliError> {
    let driver = context.plugins()?.driver(&spec.driver)?;
    let name = match &spec.name {
        Some(name) => name.to_string(),
        None => super::create::random_id()?.to_string(),
    };
    if driver.get(&name).is_err() {
        match &spec.name {
            Some(name) => {
                let wanted = VolumeCreate {
                    driver_opts: spec.options.clone(),
                    labels: spec.labels.clone(),
                    ..VolumeCreate::default()
                };
                plugin::create(context, name, &driver, wanted)?;
            }
            // Removed with its container.
            None => driver.create(&name, spec.options.clone())?,
        }
        undo.made(Made::PluginVolume {
            driver: driver.name().to_owned(),
            name: name.clone(),
        });
    }
    of_plugin(&driver, name)
}

fn of_plugin(driver: &Driver, name: String) -> Result<MadeVolume, CliError> {
    Ok(MadeVolume {
        mountpoint: driver.path(&name)?,
        driver: driver.name().to_owned(),
        name,
    })
}
