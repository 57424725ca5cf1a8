//! `hawser volume snapshot …` and `hawser volume clone`.

use api::client::escape;
use api::path::{SNAPSHOTS, VOLUME_CLONE, VOLUME_SNAPSHOTS, VOLUMES};
use api::storage::{Snapshot, SnapshotCreate, Volume, VolumeClone};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::run::env;
use super::super::{listing, output};
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser volume snapshot`.
#[derive(Debug, Clone, Subcommand)]
pub enum SnapshotCommand {
    /// Keep what a volume holds now
    Create(CreateFlags),
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Delete snapshots of a volume
    #[command(visible_alias = "remove")]
    Rm(RemoveFlags),
    /// Make a volume what it was when the snapshot was taken
    Rollback(RollbackFlags),
}

/// `hawser volume snapshot create`.
#[derive(Debug, Clone, Args)]
pub struct CreateFlags {
    /// Also while a container has the volume mounted: files may then be of different moments
    #[arg(long)]
    pub live: bool,
    /// Volume to take a snapshot of
    pub volume: String,
    /// Name of the snapshot; otherwise the time
    #[arg(default_value = "")]
    pub name: String,
}

/// `hawser volume snapshot ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
    /// Only those of this volume
    pub volume: Option<String>,
}

/// `hawser volume snapshot rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// Volume the snapshots are of
    pub volume: String,
    /// Snapshots to delete
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
}

/// `hawser volume snapshot rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackFlags {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Volume to roll back
    pub volume: String,
    /// Snapshot to return to; it stays
    pub snapshot: String,
}

/// `hawser volume clone`.
#[derive(Debug, Clone, Args)]
pub struct CloneFlags {
    /// Begin with this snapshot of the source instead of what it holds now
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// Also while a container has the source mounted: files may then be of different moments
    #[arg(long)]
    pub live: bool,
    /// Label: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Volume to copy
    pub source: String,
    /// Name of the new volume
    pub name: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("Volume", "VOLUME NAME"),
        ("Name", "SNAPSHOT"),
        ("Created", "CREATED"),
        ("Size", "SIZE"),
    ],
    default: "{{.Volume}}\t{{.Name}}\t{{.Created}}\t{{.Size}}",
};

pub(super) fn run(context: &Context, command: &SnapshotCommand) -> Result<i32, CliError> {
    match command {
        SnapshotCommand::Create(flags) => create(context, flags),
        SnapshotCommand::Ls(flags) => list(context, flags),
        SnapshotCommand::Rm(flags) => remove(context, flags),
        SnapshotCommand::Rollback(flags) => roll_back(context, flags),
    }
}

fn create(context: &Context, flags: &CreateFlags) -> Result<i32, CliError> {
    let request = SnapshotCreate {
        name: flags.name.clone(),
        live: flags.live,
    };
    let path = all_of(&flags.volume);
    let snapshot: Snapshot = context.client().post(&path, &request)?;
    output::line(snapshot.name)?;
    Ok(0)
}

fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let path = match &flags.volume {
        Some(volume) => all_of(volume),
        None => SNAPSHOTS.to_owned(),
    };
    let snapshots: Vec<Snapshot> = context.client().get(&path)?;
    let name = |snapshot: &Snapshot| snapshot.name.to_string();
    let now = Timestamp::now();
    let row = |snapshot: &Snapshot| {
        Row::new([
            ("Volume", snapshot.volume.as_str().into()),
            ("Name", snapshot.name.as_str().into()),
            ("Created", human::ago(&snapshot.created_at, now).into()),
            ("Size", human::size(snapshot.size, 3).into()),
        ])
    };
    let format = (flags.quiet, flags.format.as_str());
    listing::print(&snapshots, format, &COLUMNS, name, row)
}

fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for snapshot in &flags.snapshots {
        match context.client().delete(&one_of(&flags.volume, snapshot)) {
            Ok(()) => output::line(snapshot)?,
            Err(error) => {
                output::failure(&error.into());
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

fn roll_back(context: &Context, flags: &RollbackFlags) -> Result<i32, CliError> {
    let (volume, snapshot) = (&flags.volume, &flags.snapshot);
    let warning = format!("What volume {volume} holds now is replaced by snapshot {snapshot}.");
    if !flags.force && !output::confirm(&warning)? {
        return Ok(0);
    }
    context.client().act(&one_of(volume, snapshot))?;
    output::line(volume)?;
    Ok(0)
}

pub(super) fn clone(context: &Context, flags: &CloneFlags) -> Result<i32, CliError> {
    let request = VolumeClone {
        name: flags.name.clone(),
        snapshot: flags.snapshot.clone(),
        live: flags.live,
        labels: env::labels(&flags.label),
    };
    let path = format!("{VOLUMES}/{}/{VOLUME_CLONE}", escape(&flags.source));
    let volume: Volume = context.client().post(&path, &request)?;
    output::line(volume.name)?;
    Ok(0)
}

fn all_of(volume: &str) -> String {
    format!("{VOLUMES}/{}/{VOLUME_SNAPSHOTS}", escape(volume))
}

fn one_of(volume: &str, snapshot: &str) -> String {
    format!("{}/{}", all_of(volume), escape(snapshot))
}
