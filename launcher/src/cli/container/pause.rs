//! `hawser pause` and `hawser unpause`.

use clap::Args;
use sys::signalfd::SignalFd;

use super::stop::connect;
use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::container::Status;
use crate::store::ContainerDir;
use crate::stream::{Connection, Control, Kind};

/// `hawser pause` and `hawser unpause`.
#[derive(Debug, Clone, Args)]
pub struct PauseFlags {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// # Errors
/// Standard output is closed.
pub fn pause(context: &Context, flags: &PauseFlags) -> Result<i32, CliError> {
    steer(context, flags, &Control::Pause)
}

/// # Errors
/// Standard output is closed.
pub fn unpause(context: &Context, flags: &PauseFlags) -> Result<i32, CliError> {
    steer(context, flags, &Control::Unpause)
}

fn steer(context: &Context, flags: &PauseFlags, control: &Control) -> Result<i32, CliError> {
    super::for_each(context, &flags.containers, |context, container| {
        ask(context, container, control)
    })
}

/// Does `work` while a container that runs stands still, whoever wants this program to end by then:
/// nobody else would let the container go on.
///
/// # Errors
/// Those of `work`, or the container cannot be paused.
pub(super) fn meanwhile<T>(
    context: &Context,
    container: &ContainerDir,
    work: impl FnOnce() -> Result<T, CliError>,
) -> Result<T, CliError> {
    let state = container.state()?;
    if state.status != Status::Running || state.restarting || state.paused {
        return work();
    }
    let _later =
        SignalFd::block(&[libc::SIGHUP, libc::SIGINT, libc::SIGTERM]).map_err(|source| {
            let op = "block signals";
            CliError::Io { op, source }
        })?;
    let is_over = |error: &CliError| {
        use ContainerError::{Lost, NotRunning};
        matches!(error, CliError::Container(Lost(_) | NotRunning(_)))
    };
    match ask(context, container, &Control::Pause) {
        Err(error) if is_over(&error) => return work(),
        paused => paused?,
    }
    let done = work();
    let resumed = ask(context, container, &Control::Unpause);
    let done = done?;
    match resumed {
        Err(error) if !is_over(&error) => Err(error),
        _ => Ok(done),
    }
}

/// Has one container pause or go on, and waits until it does.
///
/// # Errors
/// It does not run, or stands so already.
pub(crate) fn ask(
    context: &Context,
    container: &ContainerDir,
    control: &Control,
) -> Result<(), CliError> {
    let name = container.record()?.name.to_string();
    let lost = || CliError::from(ContainerError::Lost(name.clone()));
    let Some(mut connection) = connect(context, container)? else {
        return Err(ContainerError::NotRunning(name).into());
    };
    connection.send(control).map_err(|_gone| lost())?;
    await_answer(&mut connection)?.ok_or_else(lost)
}

/// Waits until the shim says that it is done; nothing when it ends instead.
fn await_answer(connection: &mut Connection) -> Result<Option<()>, CliError> {
    while let Ok(Some(frame)) = connection.receive() {
        if frame.kind != Kind::Control {
            continue;
        }
        match frame.control()? {
            Control::Done => return Ok(Some(())),
            Control::Error { message, .. } => return Err(ContainerError::Refused(message).into()),
            _ => {}
        }
    }
    Ok(None)
}
