//! `hawser stop`, `kill`, `restart` and `wait`.

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::output;
use crate::cli::run::{limit, start};
use crate::container::{Record, Status};
use crate::event;
use crate::store::ContainerDir;
use crate::stream::{Connection, Control, Kind};

/// Docker's grace period.
const STOP_TIMEOUT_S: i64 = 10;
const SIGTERM: i32 = libc::SIGTERM;

/// `hawser stop` and `hawser restart`.
#[derive(Debug, Clone, Args)]
pub struct StopFlags {
    /// Signal to send instead of the container's own stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Seconds to wait before SIGKILL; -1 waits for ever
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub timeout: Option<i64>,
    /// Containers to stop
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `hawser kill`.
#[derive(Debug, Clone, Args)]
pub struct KillFlags {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Containers to send it to
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `hawser wait`.
#[derive(Debug, Clone, Args)]
pub struct WaitFlags {
    /// Containers to wait for
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Stops containers, all at once. One that does not run is no error.
///
/// # Errors
/// A bad signal.
pub fn stop(context: &Context, flags: &StopFlags) -> Result<i32, CliError> {
    let signal = flags.signal.as_deref().map(limit::signal).transpose()?;
    // Everybody is told first, so that ten deaf containers take ten seconds and not a hundred.
    let stopping: Vec<_> = flags
        .containers
        .iter()
        .map(|key| {
            let outcome = context.container(key).and_then(|container| {
                let waiter = ask_to_stop(context, &container, signal, flags.timeout)?;
                Ok((container, waiter))
            });
            (key, outcome)
        })
        .collect();
    let mut exit_code = 0;
    for (key, outcome) in stopping {
        match outcome.and_then(|(container, waiter)| finish_stop(context, &container, waiter)) {
            Ok(()) => output::line(key)?,
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// `hawser restart`.
///
/// # Errors
/// A bad signal.
pub fn restart(context: &Context, flags: &StopFlags) -> Result<i32, CliError> {
    context.require_root()?;
    let signal = flags.signal.as_deref().map(limit::signal).transpose()?;
    let restart = |context: &Context, container: &ContainerDir| {
        restart_one(context, container, signal, flags.timeout)
    };
    super::for_each(context, &flags.containers, restart)
}

/// # Errors
/// The shim refused, or it does not start.
pub(crate) fn restart_one(
    context: &Context,
    container: &ContainerDir,
    signal: Option<i32>,
    timeout: Option<i64>,
) -> Result<(), CliError> {
    stop_one(context, container, signal, timeout)?;
    start::detached(context, container)?;
    context.tell_of(container, "restart");
    Ok(())
}

/// Stops one container, if it runs, and waits for its end.
///
/// # Errors
/// The shim refused.
pub(crate) fn stop_one(
    context: &Context,
    container: &ContainerDir,
    signal: Option<i32>,
    timeout: Option<i64>,
) -> Result<(), CliError> {
    let waiter = ask_to_stop(context, container, signal, timeout)?;
    finish_stop(context, container, waiter)
}

/// Stops one container by its own signal and in its own time, and waits for its end.
///
/// # Errors
/// The shim refused.
pub(crate) fn stop_in_time(context: &Context, container: &ContainerDir) -> Result<(), CliError> {
    let waiter = ask_to_stop(context, container, None, None)?;
    finish(container, waiter)
}

/// Stops one container and waits for its end.
///
/// # Errors
/// The shim refused.
pub fn stop_now(context: &Context, container: &ContainerDir, signal: i32) -> Result<(), CliError> {
    let waiter = ask_to_stop(context, container, Some(signal), Some(STOP_TIMEOUT_S))?;
    finish(container, waiter)
}

/// The connection on which the end is awaited; none when the container does not run.
fn ask_to_stop(
    context: &Context,
    container: &ContainerDir,
    signal: Option<i32>,
    timeout: Option<i64>,
) -> Result<Option<Connection>, CliError> {
    let record = container.record()?;
    let Some(mut connection) = connect(context, container)? else {
        return Ok(None);
    };
    let control = Control::Stop {
        signal: signal.map_or_else(|| stop_signal(&record), Ok)?,
        timeout_s: timeout
            .unwrap_or_else(|| record.config.stop_timeout.map_or(STOP_TIMEOUT_S, i64::from)),
    };
    // A shim that ends right now has done what it was to be asked for.
    Ok(connection.send(&control).is_ok().then_some(connection))
}

fn stop_signal(record: &Record) -> Result<i32, CliError> {
    match &record.config.stop_signal {
        Some(signal) => Ok(limit::signal(signal)?),
        None => Ok(SIGTERM),
    }
}

/// A connection to the shim, if the container runs.
pub(crate) fn connect(
    context: &Context,
    container: &ContainerDir,
) -> Result<Option<Connection>, CliError> {
    if container.state()?.status != Status::Running {
        return Ok(None);
    }
    match Connection::open(&context.shim_socket(container)?) {
        Ok(connection) => Ok(Some(connection)),
        Err(_)
            if container
                .state()
                .map_or(true, |s| s.status != Status::Running) =>
        {
            Ok(None)
        }
        Err(source) => Err(CliError::Io {
            op: "connect to the container's shim",
            source,
        }),
    }
}

/// Waits for the end of a container that ran, and tells of it.
fn finish_stop(
    context: &Context,
    container: &ContainerDir,
    waiter: Option<Connection>,
) -> Result<(), CliError> {
    let record = container.record();
    let ran = waiter.is_some();
    finish(container, waiter)?;
    // Its record may be gone with it by now.
    if let Ok(record) = record
        && ran
    {
        context.tell(&event::of_container(&record, "stop"));
    }
    Ok(())
}

fn finish(container: &ContainerDir, waiter: Option<Connection>) -> Result<(), CliError> {
    let Some(mut connection) = waiter else {
        return Ok(());
    };
    loop {
        let end = await_exit(&mut connection)?;
        match (container.state(), end) {
            // A life that ended by itself, and the shim has yet to read that there is to be no other.
            (Ok(state), Some(_)) if state.status == Status::Running => {}
            (Ok(state), None) if state.status == Status::Running => {
                return Err(ContainerError::Lost(container.id().short().to_owned()).into());
            }
            // Its directory is gone if it was to be removed when it exits.
            _ => return Ok(()),
        }
    }
}

/// Waits for the container's end; its exit code, if the shim could still tell.
pub(crate) fn await_exit(connection: &mut Connection) -> Result<Option<i32>, CliError> {
    while let Ok(Some(frame)) = connection.receive() {
        if frame.kind != Kind::Control {
            continue;
        }
        match frame.control()? {
            Control::Exit { code } => return Ok(Some(code)),
            Control::Error { message, .. } => {
                return Err(CliError::Io {
                    op: "steer the container",
                    source: std::io::Error::other(message),
                });
            }
            _ => {}
        }
    }
    Ok(None)
}

/// # Errors
/// A bad signal.
pub fn kill(context: &Context, flags: &KillFlags) -> Result<i32, CliError> {
    let number = limit::signal(&flags.signal)?;
    super::for_each(context, &flags.containers, |context, container| {
        kill_one(context, container, number)
    })
}

/// # Errors
/// It does not run.
pub(crate) fn kill_one(
    context: &Context,
    container: &ContainerDir,
    number: i32,
) -> Result<(), CliError> {
    let refused = || CliError::from(ContainerError::Kill(container.id().short().to_owned()));
    let Some(mut connection) = connect(context, container)? else {
        return Err(refused());
    };
    if number == libc::SIGKILL {
        // Nobody survives it, so that the state is final when this returns. As in Docker, the
        // restart policy does not bring back what was killed on purpose.
        return stop_now(context, container, number);
    }
    connection
        .send(&Control::Signal { number })
        .map_err(|_gone| refused())
}

/// Prints exit codes as containers end.
///
/// # Errors
/// There is no such container.
pub fn wait(context: &Context, flags: &WaitFlags) -> Result<i32, CliError> {
    for key in &flags.containers {
        let container = context.container(key)?;
        let told = match connect(context, &container)? {
            Some(mut connection) => await_exit(&mut connection)?,
            None => None,
        };
        let code = match told {
            Some(code) => code,
            None => container.state()?.exit_code,
        };
        output::line(code)?;
    }
    Ok(0)
}
