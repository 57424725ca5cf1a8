//! `hawser image rm`.

use api::client::escape;
use api::path::IMAGES;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

/// `hawser image rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// Remove the image with all its tags, and though stopped containers use it
    #[arg(short, long)]
    pub force: bool,
    /// Taken for scripts; what is below an image is no image here
    #[arg(long, hide = true)]
    pub no_prune: bool,
    /// Images to remove
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// # Errors
/// None of its own: failures are reported image by image.
pub fn remove(context: &Context, flags: &RemoveFlags) -> Result<i32, CliError> {
    let mut exit_code = 0;
    for image in &flags.images {
        match remove_one(context, image, flags.force) {
            Ok(lines) => lines.iter().try_for_each(output::line)?,
            Err(error) => {
                output::failure(&error);
                exit_code = 1;
            }
        }
    }
    Ok(exit_code)
}

/// Says what was removed, line by line.
///
/// # Errors
/// It is not there or in use.
pub(crate) fn remove_one(
    context: &Context,
    image: &str,
    force: bool,
) -> Result<Vec<String>, CliError> {
    let force = if force { "?force=true" } else { "" };
    let route = format!("{IMAGES}/{}{force}", escape(image));
    let lines: Option<Vec<String>> = context.client().delete_for(&route)?;
    Ok(lines.unwrap_or_default())
}
