//! `hawser rm`. A removal that was cut short is finished by the next one.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use api::client::{ClientError, escape};
use api::id::ContainerName;
use api::path::{ROOTFS, VOLUME_USERS, VOLUMES};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::output;
use crate::container::{Mount, MountKind, Record, State, Status};
use crate::event;
use crate::shim::{etc, launch};
use crate::store::{ContainerDir, Durability, StoreError, durability_of};
use crate::volume::{VolumeError, is_local};

use super::stop;

/// `hawser rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// Kill a running container first
    #[arg(short, long)]
    pub force: bool,
    /// Remove the container's anonymous volumes too
    #[arg(short, long)]
    pub volumes: bool,
    /// Take the link of the default network that CONTAINER has by ALIAS, and leave both containers
    #[arg(short, long)]
    pub link: bool,
    /// Containers to remove; with --link, CONTAINER/ALIAS
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// # Errors
/// The daemon cannot be reached.
pub fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for key in &flags.containers {
        let removed = match flags.link {
            true => unlink(context, key),
            false => remove_one(context, key, flags.force, flags.volumes),
        };
        match removed {
            Ok(()) => output::line(key)?,
            Err(error @ CliError::Store(StoreError::NotFound { .. })) => {
                output::failure(&error);
                // As Docker: with -f, what is gone already is what was wanted.
                exit_code = if flags.force { exit_code } else { 1 };
            }
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// The container does not know the other one by that name any more; variables that its process was
/// started with stay.
fn unlink(context: &Context, key: &str) -> Result<(), CliError> {
    let no_link = || ContainerError::NoLink(key.to_owned());
    let (client, alias) = key
        .trim_start_matches('/')
        .split_once('/')
        .ok_or_else(no_link)?;
    let container = context.container(client)?;
    let _lock = container.lock()?;
    let mut record = container.record()?;
    let at = record.links.iter().position(|link| link.alias == alias);
    let link = record.links.remove(at.ok_or_else(no_link)?);
    container.write_record(&record, durability_of(&record))?;
    if record
        .links
        .iter()
        .all(|other| other.container != link.container)
    {
        let linked = context.store()?.container(&link.container);
        linked.remove_linker(container.id())?;
    }
    if container.state()?.status == Status::Running {
        etc::refresh(&container, context.client())?;
    }
    Ok(())
}

/// # Errors
/// It is not there, runs without `force`, or cannot be taken apart.
pub(crate) fn remove_one(
    context: &Context,
    key: &str,
    force: bool,
    volumes: bool,
) -> Result<(), CliError> {
    let container = context.container(key)?;
    let record = match container.record() {
        Ok(record) => record,
        Err(error @ StoreError::NotFound { .. }) => {
            free_orphaned_name(context, key, &container)?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    if container.state()?.status == Status::Running {
        if !force {
            return Err(ContainerError::RemoveRunning(record.name.to_string()).into());
        }
        stop::stop_now(context, &container, libc::SIGKILL)?;
    }
    match take_apart(context, &container, &record, volumes) {
        // The shim of a container that was to be removed when it exits was faster.
        Err(CliError::Store(StoreError::NotFound { .. })) => Ok(()),
        outcome => outcome,
    }
}

/// A crash between the reservation of a name and the record leaves the name alone.
fn free_orphaned_name(
    context: &Context,
    key: &str,
    container: &ContainerDir,
) -> Result<(), CliError> {
    if let Ok(name) = ContainerName::parse(key.strip_prefix('/').unwrap_or(key)) {
        context.store()?.release_name(&name, container.id())?;
    }
    Ok(())
}

/// Removes a container, running or not, with its anonymous volumes.
///
/// # Errors
/// It is gone, or cannot be taken apart.
pub(crate) fn discard(context: &Context, key: &str) -> Result<(), CliError> {
    remove_one(context, key, true, true)
}

/// Removes a container that does not run.
///
/// # Errors
/// It runs, is gone, or cannot be taken apart.
pub(super) fn remove_stopped(context: &Context, key: &str) -> Result<(), CliError> {
    remove_one(context, key, false, false)
}

fn take_apart(
    context: &Context,
    container: &ContainerDir,
    record: &Record,
    volumes: bool,
) -> Result<(), CliError> {
    context.check_driver(record)?;
    clean(context, container)?;
    let _lock = container.lock()?;
    let state = container.state()?;
    if state.status == Status::Running {
        // Started again between our look and our lock.
        return Err(ContainerError::RemoveRunning(record.name.to_string()).into());
    }
    let removing = State {
        status: Status::Removing,
        ..state
    };
    container.write_state(&removing, Durability::Volatile)?;
    gone(context.client().delete(&format!("{ROOTFS}/{}", record.id)))?;
    for mount in record.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
        leave_volume(context, record, mount, volumes)?;
    }
    context.store()?.release_name(&record.name, &record.id)?;
    container.remove()?;
    context.tell(&event::of_container(record, "destroy"));
    Ok(())
}

fn leave_volume(
    context: &Context,
    record: &Record,
    mount: &Mount,
    volumes: bool,
) -> Result<(), CliError> {
    if is_local(&mount.driver) {
        let route = format!(
            "{VOLUMES}/{}/{VOLUME_USERS}/{}",
            escape(&mount.name),
            record.id
        );
        gone(context.client().delete(&route))?;
    }
    if !volumes || !mount.anonymous {
        return Ok(());
    }
    match context
        .plugins()?
        .driver(&mount.driver)?
        .remove(&mount.name)
    {
        // Gone already, or another container has it by --volumes-from.
        Ok(()) | Err(VolumeError::Refused { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn gone(outcome: Result<(), ClientError>) -> Result<(), CliError> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Lets the shim's program release what a shim that was killed still held: mounts, endpoints,
/// cgroup. After an orderly end there is nothing left, which the shim's own directory tells.
fn clean(context: &Context, container: &ContainerDir) -> Result<(), CliError> {
    let scratch = Path::new(&context.info()?.run_dir)
        .join("containers")
        .join(container.id().short());
    if !scratch.exists() {
        return Ok(());
    }
    let shim = launch::find_shim()?;
    let output = Command::new(&shim)
        .arg("clean")
        .args(context.places(container)?.arguments())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| launch::LaunchError::Run { shim, source })?;
    if output.status.success() || !scratch.exists() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CliError::Io {
        op: "clean up after the container",
        source: io::Error::other(words),
    })
}
