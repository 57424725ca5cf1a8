//! `hawser image tag`.

use api::path::IMAGES;
use api::storage::{Image, ImageCreate};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::event;

/// `hawser image tag`.
#[derive(Debug, Clone, Args)]
pub struct TagFlags {
    /// Image to give another reference
    pub image: String,
    /// The reference; it moves here if another image has it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: String,
}

/// Registers the image again, which is known already, with one more reference.
///
/// # Errors
/// There is no such image, or the reference is none.
pub fn tag(context: &Context, flags: &TagFlags) -> Result<i32, CliError> {
    let image = context.image(&flags.image)?;
    let request = ImageCreate {
        config: image.config,
        tags: vec![flags.reference.clone()],
    };
    let image: Image = context.client().post(IMAGES, &request)?;
    let id = image.id.as_str();
    context.tell(&event::of_image("tag", id, &flags.reference));
    Ok(0)
}
