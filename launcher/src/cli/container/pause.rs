//! `hawser pause` and `hawser unpause`.

use clap::Args;

use super::stop::connect;
use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
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

fn ask(context: &Context, container: &ContainerDir, control: &Control) -> Result<(), CliError> {
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
