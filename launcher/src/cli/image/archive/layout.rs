//! What an archive describes: images, their configurations and layers.

use std::collections::BTreeMap;

use api::id::Digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::image::config::ImageConfig;

use super::{ArchiveError, Spool};

const DOCKER_MANIFEST: &str = "manifest.json";
const OCI_INDEX: &str = "index.json";
/// Indexes may nest; a deeper one is a trap.
const MAX_DEPTH: usize = 4;

/// One image, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// The configuration, byte for byte.
    pub config: String,
    /// References the archive gives it.
    pub tags: Vec<String>,
    /// Names of the layers' files, lowest first, with the digests of their content.
    pub layers: Vec<(String, Digest)>,
}

/// The images of an archive, by Docker's description if there is one, else by OCI's.
///
/// # Errors
/// [`ArchiveError`]: nothing is described, or something described is missing.
pub fn images(spool: &Spool) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let images = if spool.has(DOCKER_MANIFEST) {
        docker_images(spool)?
    } else if spool.has(OCI_INDEX) {
        oci_images(spool)?
    } else {
        return Err(ArchiveError::NoManifest);
    };
    if images.is_empty() {
        return Err(ArchiveError::NoImage);
    }
    Ok(images)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_images(spool: &Spool) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let entries: Vec<DockerEntry> = json(spool, DOCKER_MANIFEST)?;
    entries
        .into_iter()
        .map(|entry| {
            let tags = entry.repo_tags.unwrap_or_default();
            image(spool, &entry.config, tags, entry.layers)
        })
        .collect()
}

/// An OCI descriptor (image-spec, "Content Descriptors").
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

fn oci_images(spool: &Spool) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let index: Index = json(spool, OCI_INDEX)?;
    let mut images = Vec::new();
    for descriptor in &index.manifests {
        let manifest = find_manifest(spool, descriptor, 0)?;
        let layers = manifest
            .layers
            .iter()
            .map(|layer| blob(&layer.digest))
            .collect::<Result<Vec<_>, _>>()?;
        let tags = tag_of(&descriptor.annotations).into_iter().collect();
        images.push(image(spool, &blob(&manifest.config.digest)?, tags, layers)?);
    }
    Ok(images)
}

/// Follows indexes to the manifest for this host.
fn find_manifest(
    spool: &Spool,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Manifest, ArchiveError> {
    let name = blob(&descriptor.digest)?;
    let is_index =
        descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list");
    if !is_index {
        return json(spool, &name);
    }
    let index: Index = json(spool, &name)?;
    let architecture = api::daemon::host_architecture();
    let fits =
        |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
    let found = index
        .manifests
        .iter()
        .find(|manifest| manifest.platform.as_ref().is_none_or(fits));
    match found {
        Some(found) if depth < MAX_DEPTH => find_manifest(spool, found, depth + 1),
        _ => Err(ArchiveError::Platform { architecture }),
    }
}

/// A whole reference, if an annotation has one; a bare tag names no repository.
fn tag_of(annotations: &BTreeMap<String, String>) -> Option<String> {
    let name = annotations
        .get("io.containerd.image.name")
        .or_else(|| annotations.get("org.opencontainers.image.ref.name"))?;
    let short = name
        .strip_prefix("docker.io/library/")
        .or_else(|| name.strip_prefix("docker.io/"))
        .unwrap_or(name);
    short.contains([':', '/']).then(|| short.to_owned())
}

fn blob(digest: &str) -> Result<String, ArchiveError> {
    let digest =
        Digest::parse(digest).map_err(|_invalid| ArchiveError::BadDigest(digest.to_owned()))?;
    Ok(format!("blobs/sha256/{}", digest.hex()))
}

fn image(
    spool: &Spool,
    config_name: &str,
    tags: Vec<String>,
    layers: Vec<String>,
) -> Result<ArchivedImage, ArchiveError> {
    let json_error = |source| ArchiveError::Json {
        name: config_name.to_owned(),
        source,
    };
    let bytes = spool.metadata(config_name)?;
    let config: ImageConfig = serde_json::from_slice(&bytes).map_err(json_error)?;
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(ArchiveError::LayerCount {
            config: config_name.to_owned(),
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let layers = layers
        .into_iter()
        .zip(diff_ids)
        .map(|(name, diff_id)| {
            if !spool.has(&name) {
                return Err(ArchiveError::Missing { name });
            }
            let digest = Digest::parse(&diff_id)
                .map_err(|_invalid| ArchiveError::BadDigest(diff_id.clone()))?;
            Ok((name, digest))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ArchivedImage {
        // serde_json has read it as JSON, which is UTF-8.
        config: String::from_utf8_lossy(&bytes).into_owned(),
        tags,
        layers,
    })
}

fn json<T: DeserializeOwned>(spool: &Spool, name: &str) -> Result<T, ArchiveError> {
    serde_json::from_slice(&spool.metadata(name)?).map_err(|source| ArchiveError::Json {
        name: name.to_owned(),
        source,
    })
}
