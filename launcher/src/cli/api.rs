//! `hawser api`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::error::CliError;
use crate::engine;

/// Below the daemon's run directory.
const SOCKET: &str = "docker.sock";

/// `hawser api`.
#[derive(Debug, Clone, Args)]
pub struct ApiFlags {
    /// Socket to answer at, for the daemon's group; docker.sock beside the daemon's unless given
    #[arg(long, value_name = "SOCKET")]
    pub listen: Option<PathBuf>,
}

/// # Errors
/// Somebody answers there already, or the daemon cannot be reached.
pub fn run(context: &Context, flags: &ApiFlags) -> Result<i32, CliError> {
    let usual = || Ok(Path::new(&context.info()?.run_dir).join(SOCKET));
    let socket = flags.listen.clone().map_or_else(usual, Ok::<_, CliError>)?;
    engine::serve(context, &socket)?;
    Ok(0)
}
