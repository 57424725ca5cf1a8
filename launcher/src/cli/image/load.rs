//! `hawser image load`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use api::storage::{Image, ImageCreate, Layer};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::event;
use crate::format::human;

use super::archive::{self, ArchivedImage, Spool};
use super::stack::{self, Stack};

/// `hawser image load`.
#[derive(Debug, Clone, Args)]
pub struct LoadFlags {
    /// Read the archive from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Do not show progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// # Errors
/// The archive is damaged or hostile, or the daemon refuses it.
pub fn load(context: &Context, flags: &LoadFlags) -> Result<i32, CliError> {
    let stream = open(flags.input.as_deref())?;
    let quiet = flags.quiet || !io::stderr().is_terminal();
    read(context, stream, quiet, |line| output::line(line))?;
    Ok(0)
}

/// Loads what an archive has, and tells of each image.
///
/// # Errors
/// As [`load`], and those of `tell`.
pub(crate) fn read(
    context: &Context,
    archive: impl Read,
    quiet: bool,
    mut tell: impl FnMut(&str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let spool = Spool::read(spool_dir(context)?, archive)?;
    for image in archive::images(&spool)? {
        let loaded = load_image(context, &spool, &image, quiet)?;
        if image.tags.is_empty() {
            tell(&format!("Loaded image ID: {}", loaded.id))?;
        }
        for tag in &image.tags {
            tell(&format!("Loaded image: {tag}"))?;
        }
    }
    Ok(())
}

/// The file, or standard input when there is none or it is `-`.
pub(in crate::cli) fn open(file: Option<&Path>) -> Result<Box<dyn Read>, CliError> {
    match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).map_err(|source| CliError::File {
                op: "open",
                path: path.to_owned(),
                source,
            })?;
            Ok(Box::new(file))
        }
        _ if io::stdin().is_terminal() => Err(CliError::Conflict(
            "there is no archive: name a file, or redirect standard input from one",
        )),
        _ => Ok(Box::new(io::stdin().lock())),
    }
}

/// Below the state directory: an archive may be larger than `/tmp`.
fn spool_dir(context: &Context) -> Result<PathBuf, CliError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| CliError::Io {
        op: "read random bytes",
        source: io::Error::other(error),
    })?;
    let state = Path::new(&context.info()?.state_dir);
    Ok(state
        .join("tmp")
        .join(format!("load-{}", hex::encode(random))))
}

/// Layers that are sent at once at most, however many cores there are: more would only hold more memory in the daemon.
const MAX_AT_ONCE: usize = 4;

fn load_image(
    context: &Context,
    spool: &Spool,
    image: &ArchivedImage,
    quiet: bool,
) -> Result<Image, CliError> {
    let stack = Stack::of(image.layers.iter().map(|(_, diff_id)| diff_id));
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let total = image.layers.len();
    let send = |number: usize, route: &str| {
        let file = spool.open(&image.layers[number].0)?;
        if !quiet {
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            output::warn(format_args!(
                "Loading layer {}/{total} ({})",
                number + 1,
                human::size(size, 4)
            ));
        }
        context.client().post_stream::<Layer>(route, &mut &file)?;
        Ok(())
    };
    let request = ImageCreate {
        config: image.config.clone(),
        tags: image.tags.clone(),
    };
    let image = stack::store(context, &request, || {
        stack.send_all(cores.min(MAX_AT_ONCE), send)
    })?;
    let id = image.id.as_str();
    context.tell(&event::of_image("load", id, id));
    Ok(image)
}
