//! An image as the Docker Engine API describes it.

use api::storage::Image;
use serde::Serialize;

use crate::cli::context::image_config;
use crate::cli::error::CliError;

use super::config::Section;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageObject {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    comment: String,
    created: String,
    author: String,
    config: Section,
    architecture: String,
    os: String,
    size: u64,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(rename = "Type")]
    kind: &'static str,
    layers: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: String,
}

/// # Errors
/// The image's configuration cannot be read.
pub fn describe(image: &Image) -> Result<ImageObject, CliError> {
    let config = image_config(image, image.id.as_str())?;
    Ok(ImageObject {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        comment: config.comment.unwrap_or_default(),
        created: config.created.unwrap_or_else(|| image.added.clone()),
        author: config.author.unwrap_or_default(),
        config: config.config,
        architecture: config.architecture,
        os: config.os,
        size: image.size,
        root_fs: RootFs {
            kind: "layers",
            layers: config.rootfs.diff_ids,
        },
        metadata: Metadata {
            last_tag_time: image.added.clone(),
        },
    })
}
