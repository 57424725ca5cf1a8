//! `hawser run` and `hawser create`: from flags to a running container.
//!
//! [`draft`] is pure and refuses what cannot be; [`create`] makes what a container needs on disk
//! and takes it back on failure; [`start`] and [`attach`] run it.

pub mod attach;
pub mod create;
pub mod detach;
pub mod draft;
pub mod env;
pub mod flags;
pub mod health;
mod image;
pub mod limit;
pub mod mount;
pub mod name;
mod namespace;
pub mod network;
pub mod port;
pub mod resource;
pub mod runtime;
mod service;
pub mod start;
mod undo;
pub mod userns;
mod volume;

use std::io;

use rustix::termios::isatty;

use attach::Attach;
use create::Attached;
use flags::{MakeFlags, RunFlags};

use super::context::Context;
use super::error::CliError;
use super::output;
use crate::{cgroup, event};

/// `hawser create`.
///
/// # Errors
/// [`CliError`]; nothing is left behind.
pub fn create(context: &Context, flags: &MakeFlags) -> Result<i32, CliError> {
    let attached = named(&flags.attach, flags.create.interactive)?;
    let (container, _) = create::create(context, &flags.create, attached)?;
    output::line(container.id())?;
    Ok(0)
}

/// `hawser run`: the exit code is the container's.
///
/// # Errors
/// [`CliError`]; a container that could not be started is removed again.
pub fn run(context: &Context, flags: &RunFlags) -> Result<i32, CliError> {
    let attached = streams(flags)?;
    if attached.stdin && flags.create.tty && !isatty(io::stdin()) {
        return Err(CliError::NotATerminal);
    }
    let keys = flags.detach_keys.as_deref().unwrap_or(detach::DEFAULT);
    let attach = Attach {
        stdin: attached.stdin,
        stdout: attached.stdout,
        stderr: attached.stderr,
        tty: flags.create.tty,
        sig_proxy: flags.sig_proxy,
        detach_keys: detach::parse(keys)?,
    };
    // As early as can be: it is needed when the container's first process is made.
    cgroup::expect_moves();
    let (container, undo) = create::create(context, &flags.create, attached)?;
    let exit_code = if flags.detach {
        start::detached(context, &container).map(|()| 0)
    } else {
        start::attached(context, &container, attach)
            .and_then(|ended| start::exit_code(&container, ended))
    };
    if matches!(exit_code, Err(CliError::Launch(_))) {
        // It never ran: bad input changes nothing, so not even its name stays taken.
        let record = container.record();
        undo.run();
        if let Ok(record) = record {
            context.tell(&event::of_container(&record, "destroy"));
        }
    }
    if flags.detach && exit_code.is_ok() {
        output::line(container.id())?;
    }
    exit_code
}

fn streams(flags: &RunFlags) -> Result<Attached, CliError> {
    if flags.detach {
        if !flags.attach.is_empty() {
            return Err(CliError::Conflict("--attach does not go with --detach"));
        }
        return Ok(Attached::default());
    }
    named(&flags.attach, flags.create.interactive)
}

/// The streams that `--attach` names, or those that are attached without it.
fn named(streams: &[String], interactive: bool) -> Result<Attached, CliError> {
    if streams.is_empty() {
        return Ok(Attached {
            stdin: interactive,
            stdout: true,
            stderr: true,
        });
    }
    let mut attached = Attached::default();
    for stream in streams {
        match stream.to_ascii_lowercase().as_str() {
            "stdin" => attached.stdin = true,
            "stdout" => attached.stdout = true,
            "stderr" => attached.stderr = true,
            _ => {
                return Err(CliError::Flag {
                    flag: "--attach",
                    text: stream.clone(),
                    expected: "stdin, stdout or stderr",
                });
            }
        }
    }
    Ok(attached)
}
