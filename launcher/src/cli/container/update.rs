//! `hawser update`: limits and the restart policy of containers that exist.

use std::collections::BTreeMap;

use api::path::{ROOTFS, ROOTFS_RESIZE};
use api::storage::{Rootfs, RootfsResize};
use clap::Args;

use crate::cgroup::Group;
use crate::cgroup::limit as setting;
use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::output;
use crate::cli::run::draft::{DraftError, pairs};
use crate::cli::run::limit;
use crate::cli::run::resource::{self, LimitFlags, Machine, ResourceError};
use crate::container::{HostConfig, Record, Resources, Status};
use crate::store::{ContainerDir, durability_of};

/// `hawser update`.
#[derive(Debug, Clone, Args)]
pub struct UpdateFlags {
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Let the container write more: size=BYTES, of a container that has a limit
    #[arg(long, value_name = "KEY=VALUE")]
    pub storage_opt: Vec<String>,
    /// When to restart: no, always, unless-stopped, on-failure[:N]
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// Containers to change
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// # Errors
/// Standard output is closed, or nothing is asked for.
pub fn update(context: &Context, flags: &UpdateFlags) -> Result<i32, CliError> {
    context.require_root()?;
    let mut asked = Resources::default();
    flags.limits.change(&mut asked).map_err(DraftError::from)?;
    let is_same = asked == Resources::default() && flags.storage_opt.is_empty();
    if is_same && flags.restart.is_none() {
        return Err(CliError::Conflict(
            "you must provide one or more flags when using this command",
        ));
    }
    super::for_each(context, &flags.containers, |context, container| {
        update_one(context, container, flags)?;
        context.tell_of(container, "update");
        Ok(())
    })
}

/// # Errors
/// What is asked for cannot be, or the kernel refuses it; nothing is changed then.
pub(crate) fn update_one(
    context: &Context,
    container: &ContainerDir,
    flags: &UpdateFlags,
) -> Result<(), CliError> {
    let storage = pairs("--storage-opt", &flags.storage_opt)?;
    let _lock = container.lock()?;
    let mut record = container.record()?;
    let state = container.state()?;
    if state.status == Status::Removing {
        return Err(ContainerError::Removing(record.name.to_string()).into());
    }
    let before = record.host_config.resources.clone();
    for warning in change(&mut record.host_config, flags, &Machine::observe())? {
        output::warn(format_args!("WARNING: {warning}"));
    }
    if !storage.is_empty() {
        resize(context, &mut record, &storage)?;
    }
    if state.status == Status::Running && !state.restarting {
        apply(&record, &before)?;
    }
    // A container whose record is not written has its old limits again at its next start.
    Ok(container.write_record(&record, durability_of(&record))?)
}

fn resize(
    context: &Context,
    record: &mut Record,
    storage: &BTreeMap<String, String>,
) -> Result<(), CliError> {
    let route = format!("{ROOTFS}/{}/{ROOTFS_RESIZE}", record.id);
    let request = RootfsResize {
        storage_opt: storage.clone(),
    };
    let _resized: Rootfs = context.client().post(&route, &request)?;
    let options = record.host_config.storage_opt.get_or_insert_default();
    options.extend(storage.clone());
    Ok(())
}

/// What the record becomes, and warnings.
fn change(
    host: &mut HostConfig,
    flags: &UpdateFlags,
    machine: &Machine,
) -> Result<Vec<String>, CliError> {
    let failed = |error: ResourceError| CliError::from(DraftError::from(error));
    let before = &host.resources;
    let mut after = before.clone();
    flags.limits.change(&mut after).map_err(failed)?;
    if flags.limits.memory.is_some()
        && flags.limits.memory_swap.is_none()
        && before.memory_swap > 0
        && after.memory > before.memory_swap
    {
        return Err(CliError::Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        ));
    }
    let warnings = resource::check(&mut after, machine).map_err(failed)?;
    if let Some(text) = &flags.restart {
        let policy = limit::restart_policy(text)?;
        if host.auto_remove && policy.name != "no" {
            return Err(CliError::Conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy = policy;
    }
    host.resources = after;
    Ok(warnings)
}

/// All or nothing: what was written is taken back if the rest cannot be.
fn apply(record: &Record, before: &Resources) -> Result<(), CliError> {
    let group = Group::of(record).map_err(|source| CliError::Io {
        op: "find the container's control groups",
        source,
    })?;
    let applied: Result<_, CliError> = setting::apply(&record.host_config.resources, &group)
        .map_err(|error| match setting::apply(before, &group) {
            Ok(_warnings) => ContainerError::Refused(error.to_string()).into(),
            Err(undo) => ContainerError::Refused(format!("{error}; and what was: {undo}")).into(),
        });
    for warning in applied? {
        output::warn(format_args!("WARNING: {warning}"));
    }
    Ok(())
}
