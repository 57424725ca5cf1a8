//! `hawser start`.

use std::io;

use clap::Args;
use rustix::termios::isatty;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::run::attach::Attach;
use crate::cli::run::{detach, start};

/// `hawser start`.
#[derive(Debug, Clone, Args)]
pub struct StartFlags {
    /// Attach standard output and error, and forward signals
    #[arg(short, long)]
    pub attach: bool,
    /// Attach standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that detach the terminal
    #[arg(long, value_name = "KEYS", default_value = detach::DEFAULT)]
    pub detach_keys: String,
    /// Containers to start
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// # Errors
/// The container cannot be started; its exit code otherwise, if it is attached.
pub fn start(context: &Context, flags: &StartFlags) -> Result<i32, CliError> {
    context.require_root()?;
    if !flags.attach && !flags.interactive {
        return super::for_each(context, &flags.containers, start::detached);
    }
    let [key] = flags.containers.as_slice() else {
        return Err(CliError::Conflict(
            "only one container can be attached at once",
        ));
    };
    let container = context.container(key)?;
    let config = container.record()?.config;
    let stdin = flags.interactive && config.open_stdin;
    if stdin && config.tty && !isatty(io::stdin()) {
        return Err(CliError::NotATerminal);
    }
    let attach = Attach {
        stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        sig_proxy: true,
        detach_keys: detach::parse(&flags.detach_keys)?,
    };
    let ended = start::attached(context, &container, attach)?;
    start::exit_code(&container, ended)
}
