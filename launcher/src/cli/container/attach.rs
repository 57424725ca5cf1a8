//! `hawser attach`.

use std::io;

use clap::{ArgAction, Args};
use rustix::termios::isatty;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::run::attach::{Attach, Session};
use crate::cli::run::{detach, start};
use crate::container::Status;

/// `hawser attach`.
#[derive(Debug, Clone, Args)]
pub struct AttachFlags {
    /// Do not attach standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that detach the terminal
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    pub detach_keys: String,
    /// Forward signals to the container
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    /// Container to attach to
    pub container: String,
}

/// # Errors
/// The container does not run or cannot be reached.
pub fn attach(context: &Context, flags: &AttachFlags) -> Result<i32, CliError> {
    let container = context.container(&flags.container)?;
    let stopped = || CliError::from(ContainerError::AttachStopped(flags.container.clone()));
    let state = container.state()?;
    if state.status != Status::Running {
        return Err(stopped());
    }
    if state.paused {
        return Err(ContainerError::Paused(flags.container.clone()).into());
    }
    let config = container.record()?.config;
    let stdin = config.open_stdin && !flags.no_stdin;
    if stdin && config.tty && !isatty(io::stdin()) {
        return Err(CliError::NotATerminal);
    }
    let attach = Attach {
        stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        sig_proxy: flags.sig_proxy,
        detach_keys: detach::parse(&flags.detach_keys)?,
    };
    context.tell_of(&container, "attach");
    let session = Session::open(&context.shim_socket(&container)?, attach);
    let session = session.map_err(|error| match container.state() {
        Ok(state) if state.status == Status::Running => error,
        // It has ended since.
        _ => stopped(),
    })?;
    start::exit_code(&container, session.pump()?)
}
