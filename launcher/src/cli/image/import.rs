//! `hawser image import`: an image of one layer from a tar of a root file system.

use std::io::Read;
use std::path::PathBuf;

use api::path::{IMAGES, LAYERS};
use api::storage::{Image, ImageCreate, Layer};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

use crate::event;
use crate::registry::manifest::Platform;

use super::config::{self, ImageConfig, Section};
use super::load;

/// `hawser image import`.
#[derive(Debug, Clone, Args)]
pub struct ImportFlags {
    /// Dockerfile instruction for the image, such as CMD, ENV or EXPOSE
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Comment of the image
    #[arg(short, long)]
    pub message: Option<String>,
    /// Platform that the image is for, such as linux/arm64, instead of this host's
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Tar file, plain or compressed; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Reference of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// # Errors
/// The tar is damaged or hostile, or the daemon refuses it.
pub fn import(context: &Context, flags: &ImportFlags) -> Result<i32, CliError> {
    let image = read(context, flags, &mut *load::open(Some(&flags.file))?)?;
    output::line(image.id)?;
    Ok(0)
}

/// The image of what `stream` has, which is not the file.
///
/// # Errors
/// As [`import`].
pub(crate) fn read(
    context: &Context,
    flags: &ImportFlags,
    mut stream: &mut dyn Read,
) -> Result<Image, CliError> {
    let mut section = Section::default();
    for change in &flags.change {
        section.change(change)?;
    }
    let platform = flags.platform.as_deref().map(Platform::parse).transpose()?;
    let platform = platform.unwrap_or_else(Platform::host);
    let layer: Layer = context
        .client()
        .post_stream(LAYERS, &mut stream)
        .map_err(|source| CliError::Import {
            file: flags.file.clone(),
            source,
        })?;
    let created = format!("{:.9}", jiff::Timestamp::now());
    let message = flags
        .message
        .clone()
        .or_else(|| Some(format!("Imported from {}", flags.file.display())));
    let config = ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        ..config::of_one_layer(layer.diff_id.as_str(), section, &created, message)
    };
    let config = serde_json::to_string(&config).map_err(|source| CliError::ImageConfig {
        reference: flags.reference.clone().unwrap_or_default(),
        source,
    })?;
    let request = ImageCreate {
        config,
        tags: flags.reference.iter().cloned().collect(),
    };
    let image: Image = context.client().post(IMAGES, &request)?;
    let id = image.id.as_str();
    let name = flags.reference.as_deref().unwrap_or(id);
    context.tell(&event::of_image("import", id, name));
    Ok(image)
}
