//! `hawser exec`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use clap::Args;
use rustix::termios::isatty;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::run::create::read_pairs;
use crate::cli::run::detach;
use crate::cli::run::env::{self, Environment};
use crate::container::Status;
use crate::shim::launch::{self, Exec, LaunchError};
use crate::store::ContainerDir;

/// `hawser exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecFlags {
    /// Run in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Forward standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keys that leave the terminal and let the command go on
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    pub detach_keys: String,
    /// Set an environment variable: NAME=VALUE, or NAME for the caller's own value
    #[arg(short, long, value_name = "VARIABLE")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// User, and optionally group: NAME|UID[:GROUP|GID]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// All capabilities
    #[arg(long)]
    pub privileged: bool,
    /// The container, then the command to run with its arguments
    #[arg(
        required = true,
        value_names = ["CONTAINER", "COMMAND"],
        num_args = 2..,
        trailing_var_arg = true
    )]
    pub container_and_command: Vec<String>,
}

/// Becomes the process that runs the command, so that streams, terminal and exit status need no
/// go-between.
///
/// # Errors
/// The container does not run, or the shim's program cannot be executed.
pub fn exec(context: &Context, flags: &ExecFlags) -> Result<i32, CliError> {
    let Some((key, command)) = flags.container_and_command.split_first() else {
        return Err(CliError::NoObject(String::new()));
    };
    let container = context.container(key)?;
    check_executable(&container, key)?;
    context.require_root()?;
    detach::parse(&flags.detach_keys)?;
    if flags.interactive && flags.tty && !flags.detach && !isatty(io::stdin()) {
        return Err(CliError::NotATerminal);
    }
    let exec = Exec {
        tty: flags.tty,
        interactive: flags.interactive,
        detach: flags.detach,
        privileged: flags.privileged,
        user: flags.user.clone(),
        env: environment(flags)?,
        workdir: flags.workdir.clone(),
        detach_keys: Some(flags.detach_keys.clone()),
        timeout: None,
        command: command.to_vec(),
    };
    let words = command.join(" ");
    context.tell_of(&container, &format!("exec_create: {words}"));
    context.tell_of(&container, &format!("exec_start: {words}"));
    let shim = launch::find_shim()?;
    let source = exec.command(&shim, &context.places(&container)?).exec();
    Err(LaunchError::Run { shim, source }.into())
}

/// # Errors
/// The container, which the user calls `key`, takes no commands now.
pub(crate) fn check_executable(container: &ContainerDir, key: &str) -> Result<(), CliError> {
    let state = container.state()?;
    if state.status != Status::Running {
        return Err(ContainerError::NotRunning(key.to_owned()).into());
    }
    if state.restarting {
        return Err(ContainerError::Restarting(key.to_owned()).into());
    }
    if state.paused {
        return Err(ContainerError::Paused(key.to_owned()).into());
    }
    Ok(())
}

fn environment(flags: &ExecFlags) -> Result<Vec<String>, CliError> {
    let own: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut environment = Environment::default();
    let own = |name: &str| own.get(name).cloned();
    for file in &flags.env_file {
        env::apply(&mut environment, &read_pairs(file)?, own)?;
    }
    env::apply(&mut environment, &flags.env, own)?;
    Ok(environment.into_pairs())
}
