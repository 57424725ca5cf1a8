//! Writing an archive that is Docker's and OCI's at once: the blobs are the same, and each format
//! has its own description of them.

use std::collections::BTreeSet;
use std::io::{self, Write};

use api::storage::{Image, Layer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::cli::error::CliError;
use crate::cli::image::list::split_tag;

use super::ArchiveError;

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// An image to write, with the references that were asked for.
#[derive(Debug, Clone)]
pub struct SavedImage {
    image: Image,
    tags: BTreeSet<String>,
    /// Lowest first.
    layers: Vec<Layer>,
}

impl SavedImage {
    /// Adds an image; one that is there already gets the reference. A repository alone stands for
    /// all of its tags.
    ///
    /// # Errors
    /// A layer of the image is not among `layers`.
    pub fn add(
        images: &mut Vec<Self>,
        image: Image,
        reference: &str,
        layers: &[Layer],
    ) -> Result<(), ArchiveError> {
        let tags = tags(&image, reference);
        if let Some(known) = images.iter_mut().find(|known| known.image.id == image.id) {
            known.tags.extend(tags);
            return Ok(());
        }
        let mut chain = Vec::new();
        let mut at = image.chain_id.as_ref();
        while let Some(id) = at {
            let layer = layers.iter().find(|layer| layer.chain_id == *id);
            let layer = layer.ok_or_else(|| ArchiveError::Missing {
                name: id.to_string(),
            })?;
            at = layer.parent.as_ref();
            chain.push(layer.clone());
        }
        chain.reverse();
        images.push(Self {
            image,
            tags,
            layers: chain,
        });
        Ok(())
    }

    fn manifest(&self) -> Vec<u8> {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": LAYER_TYPE,
                    "digest": layer.diff_id,
                    "size": layer.archive_size,
                })
            })
            .collect();
        let config = json!({
            "mediaType": CONFIG_TYPE,
            "digest": self.image.id,
            "size": self.image.config.len(),
        });
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    /// Descriptors of the manifest: one a tag, or one without.
    fn descriptors(&self) -> Vec<Value> {
        let manifest = self.manifest();
        let digest = format!("sha256:{}", sha256(&manifest));
        let plain = json!({
            "mediaType": MANIFEST_TYPE,
            "digest": digest,
            "size": manifest.len(),
        });
        if self.tags.is_empty() {
            return vec![plain];
        }
        let tagged = |tag: &String| {
            let mut descriptor = plain.clone();
            descriptor["annotations"] = json!({
                "io.containerd.image.name": full_name(tag),
                "org.opencontainers.image.ref.name": split_tag(tag).1,
            });
            descriptor
        };
        self.tags.iter().map(tagged).collect()
    }

    fn docker(&self) -> Value {
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| blob(layer.diff_id.hex()))
            .collect();
        json!({
            "Config": blob(self.image.id.hex()),
            "RepoTags": self.tags,
            "Layers": layers,
        })
    }
}

/// The tags that a reference means, of an image that it found.
fn tags(image: &Image, reference: &str) -> BTreeSet<String> {
    let short = reference
        .trim_start_matches("docker.io/")
        .trim_start_matches("library/");
    let wanted = |tag: &&String| {
        let (repository, _) = split_tag(tag);
        tag.as_str() == short || repository == short && !short.contains(':')
    };
    let tags: BTreeSet<String> = image.tags.iter().filter(wanted).cloned().collect();
    // `web` is `web:latest` where that exists, as for every other command.
    let latest = format!("{short}:latest");
    if tags.contains(&latest) {
        BTreeSet::from([latest])
    } else {
        tags
    }
}

/// With the registry that goes without saying, as containerd keeps names.
fn full_name(tag: &str) -> String {
    match tag.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => tag.to_owned(),
        Some(_) => format!("docker.io/{tag}"),
        None => format!("docker.io/library/{tag}"),
    }
}

/// Writes the archive; `content` writes the uncompressed stream of a layer.
///
/// # Errors
/// Those of `content`, and of `out`.
pub fn write_archive(
    images: &[SavedImage],
    out: &mut dyn Write,
    mut content: impl FnMut(&Layer, &mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut archive = Archive {
        tar: Builder::new(out),
        written: BTreeSet::new(),
    };
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    for image in images {
        for layer in &image.layers {
            archive.layer(layer, &mut content)?;
        }
        archive.blob(image.image.config.as_bytes())?;
        archive.blob(&image.manifest())?;
    }
    let manifests: Vec<Value> = images.iter().flat_map(SavedImage::descriptors).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": manifests,
    });
    let docker: Vec<Value> = images.iter().map(SavedImage::docker).collect();
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.file("manifest.json", Value::from(docker).to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.tar.finish().map_err(failed)
}

struct Archive<'o> {
    tar: Builder<&'o mut dyn Write>,
    written: BTreeSet<String>,
}

impl Archive<'_> {
    fn directory(&mut self, name: &str) -> Result<(), CliError> {
        self.append(name, EntryType::Directory, 0o755, b"")
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        self.append(name, EntryType::Regular, 0o444, bytes)
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let name = blob(&sha256(bytes));
        if self.written.insert(name.clone()) {
            self.file(&name, bytes)?;
        }
        Ok(())
    }

    fn layer(
        &mut self,
        layer: &Layer,
        content: &mut impl FnMut(&Layer, &mut dyn Write) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let name = blob(layer.diff_id.hex());
        if !self.written.insert(name.clone()) {
            return Ok(());
        }
        let header = header(&name, EntryType::Regular, 0o444, layer.archive_size)?;
        let out = self.tar.get_mut();
        out.write_all(header.as_bytes()).map_err(failed)?;
        let mut counted = Counted { out, length: 0 };
        content(layer, &mut counted)?;
        let length = counted.length;
        if length != layer.archive_size {
            return Err(ArchiveError::Truncated { name }.into());
        }
        // To the end of the block.
        let padding = usize::try_from(length.next_multiple_of(512) - length).unwrap_or_default();
        self.tar
            .get_mut()
            .write_all(&[0; 512][..padding])
            .map_err(failed)
    }

    fn append(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        bytes: &[u8],
    ) -> Result<(), CliError> {
        let header = header(name, kind, mode, bytes.len() as u64)?;
        self.tar.append(&header, bytes).map_err(failed)
    }
}

/// Without owners and times: the same images always give the same archive.
fn header(name: &str, kind: EntryType, mode: u32, size: u64) -> Result<Header, CliError> {
    let mut header = Header::new_ustar();
    header.set_path(name).map_err(failed)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

struct Counted<'o> {
    out: &'o mut dyn Write,
    length: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn blob(hex: &str) -> String {
    format!("blobs/sha256/{hex}")
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn failed(source: io::Error) -> CliError {
    CliError::Io {
        op: "write the archive",
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use api::id::Digest;

    use super::*;
    use crate::cli::image::archive::{Spool, images};

    fn digest(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }

    fn image(tags: &[&str]) -> (Image, Vec<Layer>) {
        let content = b"layer";
        let layer = Layer {
            chain_id: digest(content),
            diff_id: digest(content),
            parent: None,
            size: 5,
            archive_size: 5,
            entries: 0,
        };
        let config = json!({"rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}).to_string();
        let image = Image {
            id: digest(config.as_bytes()),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digests: Vec::new(),
            config,
            chain_id: Some(layer.chain_id.clone()),
            size: 5,
            added: String::new(),
        };
        (image, vec![layer])
    }

    fn write(images: &[SavedImage]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let content = |_: &Layer, out: &mut dyn Write| out.write_all(b"layer").map_err(failed);
        write_archive(images, &mut bytes, content).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_in_both_formats() {
        let (image, layers) = image(&["web:1", "web:2", "team/web:1"]);
        let mut saved = Vec::new();
        for reference in ["web:1", "team/web:1"] {
            SavedImage::add(&mut saved, image.clone(), reference, &layers).unwrap();
        }
        assert_eq!(saved.len(), 1, "one image under two references");
        let bytes = write(&saved);
        assert_eq!(bytes, write(&saved));
        for hidden in ["manifest.json", "none"] {
            let mut kept = Builder::new(Vec::new());
            for entry in tar::Archive::new(Cursor::new(&bytes)).entries().unwrap() {
                let mut entry = entry.unwrap();
                if entry.path_bytes().as_ref() != hidden.as_bytes() {
                    let header = entry.header().clone();
                    kept.append(&header, &mut entry).unwrap();
                }
            }
            let dir = tempfile::tempdir().unwrap();
            let archive = Cursor::new(kept.into_inner().unwrap());
            let spool = Spool::read(dir.path().join("spool"), archive).unwrap();
            let images = images(&spool).unwrap();
            let mut tags: Vec<&String> = images.iter().flat_map(|image| &image.tags).collect();
            tags.sort();
            assert_eq!(tags, ["team/web:1", "web:1"], "without {hidden}");
            assert!(images.iter().all(|found| found.config == image.config));
            assert_eq!(images[0].layers[0].1, layers[0].diff_id);
        }
    }

    #[test]
    fn a_repository_means_its_tags_and_an_id_none() {
        let (image, _) = image(&["web:1", "web:2", "x:latest", "x:1"]);
        let tags = |reference| tags(&image, reference).into_iter().collect::<Vec<_>>();
        assert_eq!(tags("web:1"), ["web:1"]);
        assert_eq!(tags("web"), ["web:1", "web:2"]);
        assert_eq!(tags("docker.io/library/x"), ["x:latest"]);
        assert_eq!(tags("0123"), [""; 0]);
    }
}
