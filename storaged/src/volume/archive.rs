//! A volume as one stream, and a volume from one: a tar, compressed by zstd, that says what it is and
//! has a checksum ([`crate::import::VolumeArchive`]).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use api::id::{Digest, Id, VolumeName};
use api::storage::{Volume, VolumeImport};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::content::{is_mounted, spec_of};
use super::image_file::{self, ImageFailure};
use super::snapshot::STOP_OR_LIVE;
use super::{VolumeError, not_found};
use crate::config::Limits;
use crate::disk::{Step, StepError, set_owner};
use crate::import::{CHECKSUM, Checksum, DATA, EntryError, MANIFEST, VolumeArchive};
use crate::model::layout::{VOLUME_DATA, VOLUME_IMAGE};
use crate::model::record::VolumeRow;
use crate::model::volume_spec::{Content, Spec};
use crate::tar_writer::TarWriter;
use crate::{Storaged, recover, tree};

/// What of a volume's row goes with its data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    name: VolumeName,
    created_at: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// Of this version.
const FORMAT: u32 = 1;
/// Fast, and half the size of what holds text.
const LEVEL: i32 = 3;

impl Storaged {
    /// Whether [`Self::export_volume`] can begin.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], and [`VolumeError::Mounted`] unless files of different moments are
    /// fine.
    pub fn check_export(&self, name: &str, live: bool) -> Result<(), VolumeError> {
        let name = self.known(name)?;
        self.check_unlocked(&self.existing_volume(&name)?)?;
        if live {
            return Ok(());
        }
        self.check_unmounted(&name, STOP_OR_LIVE)
    }

    /// Writes all a volume holds. What `out` got is a volume only if this succeeds.
    ///
    /// Nobody can mount the volume meanwhile, unless somebody has and that is fine.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn export_volume(
        &self,
        name: &str,
        live: bool,
        out: &mut dyn Write,
    ) -> Result<(), VolumeError> {
        let name = self.known(name)?;
        let guard = self.volume_locks.lock(name.as_str());
        self.check_export(name.as_str(), live)?;
        let row = self.existing_volume(&name)?;
        let data = self.layout.volume_data(&name);
        if self.store.rows().mounts_of(&name).is_empty() {
            let was_mounted = is_mounted(&data)?;
            self.mount_content(&row)?;
            let written = self.write_volume(&row, &data, out);
            if !was_mounted {
                self.unmount_content(&row)?;
            }
            return written;
        }
        // A container that uses it can stop meanwhile, however long this takes.
        drop(guard);
        self.write_volume(&row, &data, out)?;
        match self.volume_row(&name) {
            Some(now) if now.created_at == row.created_at => Ok(()),
            _ => Err(not_found(name.as_str())),
        }
    }

    fn write_volume(
        &self,
        row: &VolumeRow,
        data: &Path,
        out: &mut dyn Write,
    ) -> Result<(), VolumeError> {
        let is_own = spec_of(row).is_ok_and(|spec| !matches!(spec.content, Content::Device(_)));
        let manifest = Manifest {
            format: FORMAT,
            name: row.name.clone(),
            created_at: row.created_at.clone(),
            labels: row.labels.clone(),
            // What another host mounts, and with which password, is nothing of the data.
            options: if is_own {
                row.options.clone()
            } else {
                BTreeMap::new()
            },
        };
        let written = tree::open_root(data)
            .map_err(io::Error::from)
            .and_then(|root| write(&manifest, &root, out));
        written.map_err(|source| VolumeError::Export {
            volume: row.name.clone(),
            source,
        })
    }

    /// Makes a volume of what [`Self::export_volume`] wrote.
    ///
    /// # Errors
    /// [`VolumeError::Exists`], [`VolumeError::Import`] for a damaged or hostile stream; nothing is
    /// made.
    pub fn import_volume(
        &self,
        name: &str,
        request: VolumeImport,
        stream: &mut dyn Read,
    ) -> Result<Volume, VolumeError> {
        let name = VolumeName::parse(name)?;
        let refused = |source| VolumeError::Import {
            volume: name.clone(),
            source,
        };
        // Runs of zeros, which a volume may have for good reason, are no attack: they become holes.
        let limits = Limits {
            max_ratio: u64::MAX,
            ..self.config.limits.clone()
        };
        let (archive, manifest) = VolumeArchive::open(stream, &limits).map_err(refused)?;
        let manifest = understand(&manifest).map_err(refused)?;
        let row = imported(&name, request, manifest)?;
        let spec = spec_of(&row)?;
        let _guard = self.volume_locks.lock(name.as_str());
        self.finish_removal(&name)?;
        if self.volume_row(&name).is_some() || recover::exists(&self.layout.volume(&name))? {
            return Err(VolumeError::Exists(name));
        }
        let row = VolumeRow {
            project: self.new_project(&spec)?,
            key_id: self.take_key(&name, &spec, "")?,
            device: self.new_device(&name, &spec)?,
            ..row
        };
        self.make_volume(row.clone(), |staged| {
            self.make_content(staged, &row)?;
            self.unpack_content(staged, &row, &spec, archive)
        })?;
        self.volume(name.as_str())
    }

    fn unpack_content(
        &self,
        staged: &Path,
        row: &VolumeRow,
        spec: &Spec,
        archive: VolumeArchive<'_>,
    ) -> Result<(), VolumeError> {
        let device_nodes = self.config.device_nodes;
        let refused = |source| VolumeError::Import {
            volume: row.name.clone(),
            source,
        };
        let image = staged.join(VOLUME_IMAGE);
        match spec.content {
            Content::Image(of) => {
                let mut outcome = Ok(());
                let written = image_file::write(&image, of.filesystem, |root| {
                    let root = tree::open_dir_at(root, c".")?;
                    outcome = unpack(archive, root, spec, device_nodes);
                    Ok(())
                });
                outcome.map_err(|error| refused(error.in_own_filesystem()))?;
                written.map_err(|source: ImageFailure| {
                    StepError::Image {
                        what: "fill the filesystem in",
                        path: image.clone(),
                        source,
                    }
                    .into()
                })
            }
            Content::Thin(of) => {
                let Some(key) = &row.device else {
                    return Ok(());
                };
                let root = self.open_thin(row, key, of.filesystem)?;
                let again = root.try_clone().map_err(StepError::io("open", &image))?;
                unpack(archive, again, spec, device_nodes)
                    .map_err(|error| refused(error.in_own_filesystem()))?;
                let flushed = rustix::fs::syncfs(&root);
                Ok(flushed.map_err(StepError::io("flush the filesystem of", staged))?)
            }
            _ => {
                let data = staged.join(VOLUME_DATA);
                let root = tree::open_root(&data).map_err(StepError::io("open", &data))?;
                unpack(archive, root, spec, device_nodes).map_err(refused)?;
                Ok(self.apply(Step::SyncFilesystem { path: data })?)
            }
        }
    }
}

fn unpack(
    archive: VolumeArchive<'_>,
    root: OwnedFd,
    spec: &Spec,
    device_nodes: crate::config::DeviceNodes,
) -> Result<(), EntryError> {
    let again = rustix::io::dup(&root).map_err(|error| EntryError::Record(error.into()))?;
    archive.unpack(again, device_nodes)?;
    set_owner(root.as_fd(), spec.owner).map_err(|error| EntryError::Record(error.into()))
}

/// The row of a volume that is to be made of an archive.
pub(crate) fn imported(
    name: &VolumeName,
    request: VolumeImport,
    manifest: Manifest,
) -> Result<VolumeRow, VolumeError> {
    let VolumeImport { options, labels } = request;
    let are_archived = options.is_empty();
    let row = VolumeRow {
        name: name.clone(),
        options: if are_archived {
            manifest.options
        } else {
            options
        },
        labels: manifest.labels.into_iter().chain(labels).collect(),
        created_at: crate::now(),
        anonymous: Id::parse(name.as_str()).is_ok(),
        populated: true,
        project: None,
        key_id: None,
        device: None,
    };
    let spec = spec_of(&row)?;
    let refused = |problem: &str| {
        Err(VolumeError::Option {
            volume: name.clone(),
            problem: problem.to_owned(),
        })
    };
    match spec.content {
        Content::Device(_) => {
            refused("what is imported needs a place of its own: leave out type and device")
        }
        // Which file of this host is a key is not for an archive to say, and what was encrypted is
        // not to become plain without a word.
        _ if are_archived && spec.encryption.is_some() => refused(
            "it was exported from an encrypted volume: say -o encrypt=FILE with the file of a key, \
             or -o encrypt= for a volume in the clear",
        ),
        Content::Directory(_) | Content::Image(_) | Content::Thin(_) => Ok(row),
    }
}

pub(crate) fn understand(text: &[u8]) -> Result<Manifest, EntryError> {
    match serde_json::from_slice::<Manifest>(text) {
        Ok(manifest) if manifest.format == FORMAT => Ok(manifest),
        Ok(_) => Err(EntryError::Archive(
            "a newer version of hawser wrote it: use that one",
        )),
        Err(_) => Err(EntryError::Archive("its description cannot be read")),
    }
}

fn write(manifest: &Manifest, root: &OwnedFd, out: &mut dyn Write) -> io::Result<()> {
    let mut compressed = zstd::Encoder::new(out, LEVEL)?;
    compressed.include_checksum(true)?;
    let mut archive = TarWriter::new(Summing {
        out: compressed,
        hasher: Sha256::new(),
    });
    archive.text(MANIFEST, &serde_json::to_vec_pretty(manifest)?)?;
    archive.tree(root, DATA)?;
    let digest = Digest::from_sha256(archive.out().hasher.clone().finalize().into());
    archive.text(CHECKSUM, &serde_json::to_vec(&Checksum { digest })?)?;
    archive.finish()?.out.finish()?.flush()
}

/// Sums what is written.
struct Summing<W> {
    out: W,
    hasher: Sha256,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
