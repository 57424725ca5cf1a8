//! `hawser volume …`.

mod archive;
mod lock;
pub(crate) mod plugin;
mod prune;
mod snapshot;
mod stats;

use api::client::escape;
use api::id::VolumeName;
use api::path::{VOLUME_RESIZE, VOLUMES, VOLUMES_CREATE};
use api::storage::{Volume, VolumeCreate, VolumeResize};
use clap::{Args, Subcommand};

use crate::format::table::{Columns, Row};
use crate::volume::{LOCAL, is_local};

use super::context::Context;
use super::error::CliError;
use super::filter::{Filter, name_matches};
use super::inspect::{self, InspectFlags, Kind};
use super::run::env;
use super::{listing, output};

/// `hawser volume`.
#[derive(Debug, Clone, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume
    Create(CreateFlags),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Show volumes in detail
    Inspect(InspectFlags),
    /// Remove volumes that no container has
    #[command(visible_alias = "remove")]
    Rm(RemoveFlags),
    /// Remove all volumes that no container has, those with names too
    ///
    /// What is removed can be brought back with "hawser volume restore" for as long as the daemon's
    /// configuration says (prune-undo-hours, a day unless set), and occupies the disk until then.
    /// Volumes with snapshots stay.
    Prune(prune::PruneFlags),
    /// Bring pruned volumes back, or list what can come back
    Restore(prune::RestoreFlags),
    /// Keep what volumes hold now, and return to it
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Create a volume that begins with what another one holds
    Clone(snapshot::CloneFlags),
    /// Write all a volume holds to one compressed archive with a checksum
    Export(archive::ExportFlags),
    /// Create a volume from an archive of "hawser volume export"
    Import(archive::ImportFlags),
    /// Show what volumes take and may take, as it changes
    Stats(stats::StatsFlags),
    /// Give the key of an encrypted volume, which every boot asks for
    Unlock(lock::UnlockFlags),
    /// Take the key of an encrypted volume away
    Lock(lock::LockFlags),
    /// Change how much a volume with a size may hold
    ///
    /// A volume with a filesystem of its own (backend=loop or thin) only grows; a limited directory
    /// can also be given less.
    Resize(ResizeFlags),
}

/// `hawser volume create`.
#[derive(Debug, Clone, Args)]
pub struct CreateFlags {
    /// Driver: local, or the name of a volume plugin
    #[arg(short, long, default_value = LOCAL)]
    pub driver: String,
    /// Option of the driver: NAME=VALUE
    ///
    /// Driver local: size=10g, inodes=N, uid=N, gid=N, mode=0750, encrypt=on, backend=dir|loop|thin,
    /// fs=ext4|xfs, or type=, o= and device= for what is to be mounted
    #[arg(short, long = "opt", value_name = "OPTION")]
    pub opt: Vec<String>,
    /// Label: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// File with the key of an encrypted volume (encrypt=on), - for standard input
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<std::path::PathBuf>,
    /// Name of the volume; otherwise a random one
    pub name: Option<String>,
}

/// `hawser volume ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
    /// Show only what fits: name=, driver=, label=, dangling=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

/// `hawser volume rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// A volume that does not exist is no error
    #[arg(short, long)]
    pub force: bool,
    /// Volumes to remove
    #[arg(required = true, value_name = "VOLUME")]
    pub volumes: Vec<String>,
}

/// `hawser volume resize`.
#[derive(Debug, Clone, Args)]
pub struct ResizeFlags {
    /// Volume to resize
    pub volume: String,
    /// Its new size, such as 20g
    pub size: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
    ],
    default: "{{.Driver}}\t{{.Name}}",
};

/// # Errors
/// [`CliError`] of the command.
pub fn run(context: &Context, command: &VolumeCommand) -> Result<i32, CliError> {
    match command {
        VolumeCommand::Create(flags) => create(context, flags),
        VolumeCommand::Ls(flags) => list(context, flags),
        VolumeCommand::Inspect(flags) => inspect::inspect(context, flags, Some(Kind::Volume)),
        VolumeCommand::Rm(flags) => remove(context, flags),
        VolumeCommand::Prune(flags) => prune::prune(context, flags),
        VolumeCommand::Restore(flags) => prune::restore(context, flags),
        VolumeCommand::Snapshot(command) => snapshot::run(context, command),
        VolumeCommand::Clone(flags) => snapshot::clone(context, flags),
        VolumeCommand::Export(flags) => archive::export(context, flags),
        VolumeCommand::Import(flags) => archive::import(context, flags),
        VolumeCommand::Stats(flags) => stats::stats(context, flags),
        VolumeCommand::Unlock(flags) => lock::unlock(context, flags),
        VolumeCommand::Lock(flags) => lock::lock(context, flags),
        VolumeCommand::Resize(flags) => resize(context, flags),
    }
}

fn create(context: &Context, flags: &CreateFlags) -> Result<i32, CliError> {
    let wanted = VolumeCreate {
        name: flags.name.clone().unwrap_or_default(),
        driver: flags.driver.clone(),
        driver_opts: env::labels(&flags.opt),
        labels: env::labels(&flags.label),
        key: lock::key(flags.key_file.as_deref())?,
    };
    output::line(made(context, wanted)?.name)?;
    Ok(0)
}

/// Makes a volume, by whichever driver is named.
///
/// # Errors
/// The daemon's or the driver's refusal.
pub(crate) fn made(context: &Context, mut wanted: VolumeCreate) -> Result<Volume, CliError> {
    if !is_local(&wanted.driver) {
        if wanted.name.is_empty() {
            wanted.name = super::run::create::random_id()?.to_string();
        }
        let name = VolumeName::parse(&wanted.name)?;
        let driver = context.plugins()?.driver(&wanted.driver)?;
        return plugin::create(context, &name, &driver, wanted);
    }
    // The daemon says what is wrong with a name for it.
    if let Ok(name) = VolumeName::parse(&wanted.name) {
        plugin::check_free(context, &name, LOCAL)?;
    }
    Ok(context.client().post(VOLUMES_CREATE, &wanted)?)
}

/// The volume of that name, the daemon's or a plugin's.
///
/// # Errors
/// Nobody has it.
pub(crate) fn find(context: &Context, key: &str) -> Result<Volume, CliError> {
    let path = format!("{VOLUMES}/{}", escape(key));
    match (context.client().get(&path), VolumeName::parse(key)) {
        (Err(error), Ok(name)) if error.is_not_found() => {
            plugin::inspect(context, &name)?.ok_or_else(|| error.into())
        }
        (found, _) => Ok(found?),
    }
}

/// Removes the volume of that name, the daemon's or a plugin's.
///
/// # Errors
/// Nobody has it, or somebody uses it.
pub(crate) fn remove_one(context: &Context, key: &str) -> Result<(), CliError> {
    let path = format!("{VOLUMES}/{}", escape(key));
    match (context.client().delete(&path), VolumeName::parse(key)) {
        (Err(error), Ok(name)) if error.is_not_found() => match plugin::remove(context, &name)? {
            true => Ok(()),
            false => Err(error.into()),
        },
        (outcome, _) => Ok(outcome?),
    }
}

/// All volumes, by name.
///
/// # Errors
/// No daemon.
pub(crate) fn all(context: &Context) -> Result<Vec<Volume>, CliError> {
    let mut volumes: Vec<Volume> = context.client().get(VOLUMES)?;
    volumes.extend(plugin::list(context)?);
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(volumes)
}

/// The daemon's volume of that name.
///
/// # Errors
/// No daemon.
pub(crate) fn of_daemon(context: &Context, name: &str) -> Result<Option<Volume>, CliError> {
    let found = context.client().get(&format!("{VOLUMES}/{}", escape(name)));
    match found {
        Ok(volume) => Ok(Some(volume)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let keys = ["name", "driver", "label", "label!", "dangling"];
    let filter = Filter::parse(&flags.filter, &keys)?;
    filter.truth("dangling")?;
    let mut volumes = all(context)?;
    volumes
        .retain(|volume| filter.passes(&volume.labels, |key, value| matches(key, value, volume)));
    let name = |volume: &Volume| volume.name.to_string();
    listing::print(&volumes, (flags.quiet, &flags.format), &COLUMNS, name, row)
}

fn row(volume: &Volume) -> Row {
    Row::new([
        ("Driver", volume.driver.as_str().into()),
        ("Name", volume.name.as_str().into()),
        ("Scope", volume.scope.as_str().into()),
        ("Mountpoint", volume.mountpoint.as_str().into()),
    ])
    .with_labels(&volume.labels)
}

fn matches(key: &str, value: &str, volume: &Volume) -> bool {
    match key {
        "name" => name_matches(volume.name.as_str(), value),
        "driver" => volume.driver == value,
        "dangling" => volume.holders.is_empty() == matches!(value, "true" | "1"),
        _ => false,
    }
}

fn resize(context: &Context, flags: &ResizeFlags) -> Result<i32, CliError> {
    let path = format!("{VOLUMES}/{}/{VOLUME_RESIZE}", escape(&flags.volume));
    let request = VolumeResize {
        size: flags.size.clone(),
    };
    let volume: Volume = context.client().post(&path, &request)?;
    output::line(volume.name)?;
    Ok(0)
}

fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for volume in &flags.volumes {
        match remove_one(context, volume) {
            Ok(()) => output::line(volume)?,
            Err(CliError::Client(error)) if error.is_not_found() && flags.force => {
                output::line(volume)?;
            }
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}
