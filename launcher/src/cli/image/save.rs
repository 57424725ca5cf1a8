//! `hawser image save`.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use api::path::{LAYER_ARCHIVE, LAYERS};
use api::storage::Layer;
use clap::{Args, ValueEnum};

use crate::cli::context::Context;
use crate::cli::error::CliError;

use super::archive::{SavedImage, write_archive};

/// `hawser image save`.
#[derive(Debug, Clone, Args)]
pub struct SaveFlags {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Compress the archive
    #[arg(long, value_name = "METHOD", default_value = "none")]
    pub compress: Compression,
    /// Images to save, with the references given
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Writes an archive that is both Docker's and OCI's: `docker load`, `podman load`, `skopeo` and
/// `hawser image load` read it.
///
/// # Errors
/// There is no such image, a layer of it is damaged, or the output cannot be written.
pub fn save(context: &Context, flags: &SaveFlags) -> Result<i32, CliError> {
    let images = gather(context, flags.images.iter().map(String::as_str))?;
    let write =
        |out: &mut dyn Write| compressed(flags.compress, out, |out| archive(context, &images, out));
    to_output(flags.output.as_deref(), write)?;
    Ok(0)
}

/// What is to be saved.
///
/// # Errors
/// There is no such image.
pub(crate) fn gather<'r>(
    context: &Context,
    references: impl Iterator<Item = &'r str>,
) -> Result<Vec<SavedImage>, CliError> {
    let layers: Vec<Layer> = context.client().get(LAYERS)?;
    let mut images = Vec::new();
    for reference in references {
        SavedImage::add(&mut images, context.image(reference)?, reference, &layers)?;
    }
    Ok(images)
}

/// Writes an archive to a file, whole or not at all, or to standard output.
pub(in crate::cli) fn to_output(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    match path {
        Some(path) => to_file(path, write),
        None if io::stdout().is_terminal() => Err(CliError::Conflict(
            "an archive is nothing for a terminal: use -o, or redirect standard output",
        )),
        None => write(&mut BufWriter::new(io::stdout().lock())),
    }
}

/// The archive that a route of the daemon answers with, to a file or to standard output.
pub(in crate::cli) fn download(
    context: &Context,
    route: &str,
    path: Option<&Path>,
) -> Result<(), CliError> {
    to_output(path, |out| {
        context.client().get_into(route, out)?;
        out.flush().map_err(io_error)
    })
}

/// # Errors
/// A layer is damaged, or the output cannot be written.
pub(crate) fn archive(
    context: &Context,
    images: &[SavedImage],
    out: &mut dyn Write,
) -> Result<(), CliError> {
    write_archive(images, out, |layer, out| {
        let route = format!("{LAYERS}/{}/{LAYER_ARCHIVE}", layer.chain_id);
        Ok(context.client().get_into(&route, out)?)
    })
}

fn compressed(
    compression: Compression,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    match compression {
        Compression::None => write(out)?,
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(&mut *out, flate2::Compression::default());
            write(&mut out)?;
            out.finish().map(drop).map_err(io_error)?;
        }
        Compression::Zstd => {
            let mut out = zstd::Encoder::new(&mut *out, 0).map_err(io_error)?;
            write(&mut out)?;
            out.finish().map(drop).map_err(io_error)?;
        }
    }
    out.flush().map_err(io_error)
}

/// Makes a file whole or not at all. What exists and is no file, such as `/dev/null` or a pipe, is
/// written to as it is.
fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let failed = |op| {
        move |source| CliError::File {
            op,
            path: path.to_owned(),
            source,
        }
    };
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = File::options()
            .write(true)
            .open(path)
            .map_err(failed("open"))?;
        return write(&mut BufWriter::new(file));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let file = File::create(&part).map_err(failed("create"))?;
    let written = write(&mut BufWriter::new(file))
        .and_then(|()| fs::rename(&part, path).map_err(failed("create")));
    if written.is_err() {
        // The error that counts is the one of the write.
        drop(fs::remove_file(&part));
    }
    written
}

fn io_error(source: io::Error) -> CliError {
    CliError::Io {
        op: "write the archive",
        source,
    }
}
