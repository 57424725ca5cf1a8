//! Starts a container, attached or not.

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::container::Status;
use crate::shim::launch::{self, LaunchError};
use crate::store::ContainerDir;

use super::attach::{Attach, Ended, Session};

/// Starts the container in the background. One that runs already is left alone.
///
/// # Errors
/// [`LaunchError::Refused`] when it cannot be started; it is as before then.
pub fn detached(context: &Context, container: &ContainerDir) -> Result<(), CliError> {
    if !check_startable(context, container)? {
        return Ok(());
    }
    let shim = launch::find_shim()?;
    launch::start(&shim, &context.places(container)?, false)?.finish_and_reap()?;
    Ok(())
}

/// Starts the container with the caller's streams attached before its first output.
///
/// # Errors
/// As [`detached`].
pub fn attached(
    context: &Context,
    container: &ContainerDir,
    attach: Attach,
) -> Result<Ended, CliError> {
    if !check_startable(context, container)? {
        return Session::open(&context.shim_socket(container)?, attach)?.pump();
    }
    context.tell_of(container, "attach");
    let shim = launch::find_shim()?;
    let starting = launch::start(&shim, &context.places(container)?, true)?;
    let session = Session::open(starting.socket(), attach).and_then(|mut session| {
        session.start()?;
        Ok(session)
    });
    // If the shim gave up, its report says why, which a broken connection does not.
    starting.finish()?;
    session?.pump()
}

/// Whether there is anything to start.
///
/// # Errors
/// It is being removed, or another storage driver has its root file system.
pub(crate) fn check_startable(
    context: &Context,
    container: &ContainerDir,
) -> Result<bool, CliError> {
    match container.state()?.status {
        Status::Running => Ok(false),
        Status::Removing => Err(ContainerError::Removing(container.id().short().to_owned()).into()),
        _ => context.check_driver(&container.record()?).map(|()| true),
    }
}

/// The exit code that stands for how an attachment ended.
///
/// # Errors
/// The connection was lost and the container's state does not say what became of it.
pub fn exit_code(container: &ContainerDir, ended: Ended) -> Result<i32, CliError> {
    match ended {
        Ended::Exited(code) => Ok(code),
        Ended::Detached => Ok(0),
        Ended::Failed(message, code) => Err(LaunchError::Refused {
            message,
            exit_code: code.unwrap_or(launch::EXIT_DAEMON),
        }
        .into()),
        Ended::Lost => match container.state() {
            Ok(state) if state.status == Status::Exited => Ok(state.exit_code),
            _ => Err(ContainerError::Lost(container.id().short().to_owned()).into()),
        },
    }
}
