//! `hawser export`: a container's root file system as an archive.

use std::path::PathBuf;

use api::path::{ROOTFS, ROOTFS_ARCHIVE};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::save;
use crate::store::ContainerDir;

/// `hawser export`.
#[derive(Debug, Clone, Args)]
pub struct ExportFlags {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Container to export; what is in its volumes is not part of it
    pub container: String,
}

/// # Errors
/// There is no such container, or the output cannot be written.
pub fn export(context: &Context, flags: &ExportFlags) -> Result<i32, CliError> {
    let container = context.container(&flags.container)?;
    save::download(
        context,
        &route(context, &container)?,
        flags.output.as_deref(),
    )?;
    Ok(0)
}

/// # Errors
/// Another storage driver has its files.
pub(crate) fn route(context: &Context, container: &ContainerDir) -> Result<String, CliError> {
    context.check_driver(&container.record()?)?;
    Ok(format!("{ROOTFS}/{}/{ROOTFS_ARCHIVE}", container.id()))
}
