//! Volumes that plugins keep, among those of the daemon.
//!
//! Whatever plugin is there is asked, as Docker does; what was made here is known even while its
//! plugin is away.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use api::id::VolumeName;
use api::storage::{Volume, VolumeCreate};
use api::volume_plugin::PluginVolume;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::MountKind;
use crate::volume::{Driver, Kept, KeptVolume, LOCAL, VolumeError, is_local};

use super::super::output;

/// What is said of a plugin's volume whose plugin says nothing else.
const SCOPE: &str = "local";

fn kept(context: &Context) -> Result<Kept, CliError> {
    Ok(Kept::new(Path::new(&context.info()?.state_dir)))
}

/// The plugin that has the volume, if one of them says so.
///
/// # Errors
/// The plugin that is known to have it does not answer.
pub(crate) fn owner(context: &Context, name: &VolumeName) -> Result<Option<Driver>, CliError> {
    Ok(find(context, name)?.map(|(driver, _)| driver))
}

fn find(context: &Context, name: &VolumeName) -> Result<Option<(Driver, PluginVolume)>, CliError> {
    let kept = kept(context)?;
    if let Some(volume) = kept.find(name)? {
        let driver = context.plugins()?.driver(&volume.driver)?;
        return match driver.get(name.as_str()) {
            Ok(found) => Ok(Some((driver, found))),
            // Somebody else has removed it.
            Err(VolumeError::Refused { .. }) => {
                kept.forget(name)?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        };
    }
    let found = ask_all(context, |driver| match driver.get(name.as_str()) {
        Ok(found) => Ok(Some(found)),
        Err(VolumeError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    })?;
    Ok(found
        .into_iter()
        .find_map(|(driver, found)| Some((driver, found?))))
}

/// The answers of all plugins that have one; the others are named in warnings.
fn ask_all<T: Send>(
    context: &Context,
    question: impl Fn(&Driver) -> Result<T, VolumeError> + Sync,
) -> Result<Vec<(Driver, T)>, CliError> {
    let plugins = context.plugins()?;
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = |name: String| {
            let (plugins, question) = (&plugins, &question);
            scope.spawn(move || {
                let driver = plugins.driver_soon(&name)?;
                question(&driver).map(|answer| (driver, answer))
            })
        };
        let asked: Vec<_> = plugins.names().into_iter().map(ask).collect();
        // A thread that panics has no answer.
        asked.into_iter().flat_map(|one| one.join()).collect()
    });
    let mut found = Vec::new();
    for answer in answers {
        match answer {
            Ok(answer) => found.push(answer),
            // It has ended, or is one for networks.
            Err(error) if error.is_nobody() => {}
            Err(error) => output::warn(format_args!("hawser: warning: {error}")),
        }
    }
    Ok(found)
}

/// Has the plugin make the volume; an existing one is kept, with what was known of it.
///
/// # Errors
/// The plugin's refusal, or the daemon has a volume of that name.
pub(crate) fn create(
    context: &Context,
    name: &VolumeName,
    driver: &Driver,
    wanted: VolumeCreate,
) -> Result<Volume, CliError> {
    check_free(context, name, driver.name())?;
    driver.create(name.as_str(), wanted.driver_opts.clone())?;
    let kept = kept(context)?;
    if kept.find(name)?.is_none() {
        kept.keep(&KeptVolume {
            name: name.clone(),
            driver: driver.name().to_owned(),
            options: wanted.driver_opts,
            labels: wanted.labels,
            created_at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        })?;
    }
    described(context, name, driver, driver.get(name.as_str())?)
}

/// A name is a volume of one driver.
///
/// # Errors
/// [`CliError::VolumeOf`] names the driver that has it.
pub(crate) fn check_free(
    context: &Context,
    name: &VolumeName,
    driver: &str,
) -> Result<(), CliError> {
    let holder = if !is_local(driver) && super::of_daemon(context, name.as_str())?.is_some() {
        Some(LOCAL.to_owned())
    } else {
        kept(context)?.find(name)?.map(|volume| volume.driver)
    };
    match holder {
        Some(holder) if holder != driver => Err(CliError::VolumeOf {
            volume: name.clone(),
            driver: holder,
        }),
        _ => Ok(()),
    }
}

/// All volumes of plugins, with their users among the containers here.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn list(context: &Context) -> Result<Vec<Volume>, CliError> {
    let mut known: BTreeMap<VolumeName, KeptVolume> = kept(context)?
        .list()?
        .into_iter()
        .map(|volume| (volume.name.clone(), volume))
        .collect();
    let mut volumes = Vec::new();
    for (driver, (said, scope)) in ask_all(context, |driver| Ok((driver.list()?, driver.scope())))?
    {
        let name = driver.name();
        for found in said {
            let Ok(parsed) = VolumeName::parse(&found.name) else {
                output::warn(format_args!(
                    "hawser: warning: volume {:?} of driver {name} has a name that no container can give",
                    found.name
                ));
                continue;
            };
            let own = known.get(&parsed).filter(|kept| kept.driver == name);
            volumes.push(describe(parsed, name, found, &scope, own.cloned()));
        }
        // It has answered: what it did not name is gone.
        known.retain(|_, kept| kept.driver != name);
    }
    for (name, kept) in known {
        let driver = kept.driver.clone();
        let unknown = PluginVolume::default();
        volumes.push(describe(name, &driver, unknown, SCOPE, Some(kept)));
    }
    if !volumes.is_empty() {
        let mut users = users(context)?;
        for volume in &mut volumes {
            let key = (volume.driver.clone(), volume.name.to_string());
            volume.holders = users.remove(&key).unwrap_or_default();
        }
    }
    Ok(volumes)
}

fn describe(
    name: VolumeName,
    driver: &str,
    found: PluginVolume,
    scope: &str,
    kept: Option<KeptVolume>,
) -> Volume {
    let (options, labels, created) = kept
        .map(|kept| (kept.options, kept.labels, kept.created_at))
        .unwrap_or_default();
    Volume {
        created_at: match found.created_at.as_str() {
            "" => created,
            _ => found.created_at,
        },
        driver: driver.to_owned(),
        labels,
        mountpoint: found.mountpoint,
        name,
        options,
        scope: scope.to_owned(),
        holders: Vec::new(),
        anonymous: false,
        locked: false,
        snapshots: Vec::new(),
        status: found.status,
        io: None,
    }
}

/// Ids of the containers that have a plugin's volume, by driver and name.
fn users(context: &Context) -> Result<BTreeMap<(String, String), Vec<String>>, CliError> {
    let store = context.store()?;
    let mut users: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for id in store.list()? {
        // One that has just been removed uses nothing.
        let Ok(record) = store.container(&id).record() else {
            continue;
        };
        for mount in record.mounts {
            if mount.kind == MountKind::Volume && !is_local(&mount.driver) {
                let holders = users.entry((mount.driver, mount.name)).or_default();
                holders.push(id.to_string());
            }
        }
    }
    Ok(users)
}

/// The volume as `inspect` shows it, if a plugin has it.
///
/// # Errors
/// The plugin that is known to have it does not answer.
pub(crate) fn inspect(context: &Context, name: &VolumeName) -> Result<Option<Volume>, CliError> {
    let Some((driver, found)) = find(context, name)? else {
        return Ok(None);
    };
    described(context, name, &driver, found).map(Some)
}

fn described(
    context: &Context,
    name: &VolumeName,
    driver: &Driver,
    found: PluginVolume,
) -> Result<Volume, CliError> {
    let kept = kept(context)?.find(name)?;
    let mut volume = describe(name.clone(), driver.name(), found, &driver.scope(), kept);
    let key = (volume.driver.clone(), name.to_string());
    volume.holders = users(context)?.remove(&key).unwrap_or_default();
    Ok(volume)
}

/// Has the plugin that has the volume remove it; whether one has it.
///
/// # Errors
/// Containers use it, or the plugin's refusal.
pub(crate) fn remove(context: &Context, name: &VolumeName) -> Result<bool, CliError> {
    let Some(volume) = inspect(context, name)? else {
        return Ok(false);
    };
    if !volume.holders.is_empty() {
        return Err(CliError::VolumeInUse {
            volume: volume.name,
            holders: volume.holders,
        });
    }
    context
        .plugins()?
        .driver(&volume.driver)?
        .remove(name.as_str())?;
    forget(context, name)?;
    Ok(true)
}

/// # Errors
/// The store cannot be written.
pub(crate) fn forget(context: &Context, name: &VolumeName) -> Result<(), CliError> {
    Ok(kept(context)?.forget(name)?)
}
