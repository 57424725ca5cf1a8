//! Where everything is below the state directory. Paths only; nothing here touches a disk.

use std::fmt;
use std::path::{Path, PathBuf};

use api::id::{Digest, VolumeName};
use serde::{Deserialize, Serialize};

use crate::config::Driver;

/// Names one directory of the layer store: 32 random hexadecimal digits, never reused.
///
/// Random rather than the chain id, so that the directory of a faulty layer and that of its
/// replacement never share a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes))
    }

    /// The key that a directory's name is.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let digits = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (digits && name.len() == 32).then(|| Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    state: PathBuf,
    driver: Driver,
}

impl Layout {
    pub(crate) fn new(state: PathBuf, driver: Driver) -> Self {
        Self { state, driver }
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Directories that exist once the subsystem is open, parents first, with their modes.
    ///
    /// `volumes` can be passed through, as in Docker: a bind mount of a volume needs no more.
    pub(crate) fn skeleton(&self) -> [(PathBuf, u32); 9] {
        [
            (self.state.clone(), 0o711),
            (self.store(), 0o710),
            (self.layer_tmp(), 0o700),
            (self.layer_trash(), 0o700),
            (self.empty_lower(), 0o755),
            (self.images(), 0o700),
            (self.volumes(), 0o711),
            (self.volume_staging(), 0o700),
            (self.volume_trash(), 0o700),
        ]
    }

    /// The driver's own directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.state.join(self.driver.name())
    }

    /// Layers that are being unpacked.
    pub(crate) fn layer_tmp(&self) -> PathBuf {
        self.store().join("tmp")
    }

    /// What is about to be deleted.
    pub(crate) fn layer_trash(&self) -> PathBuf {
        self.store().join("trash")
    }

    /// The lower layer of a container whose image has none: overlayfs wants at least one.
    pub(crate) fn empty_lower(&self) -> PathBuf {
        self.store().join("empty")
    }

    /// Sidecars of images.
    pub(crate) fn images(&self) -> PathBuf {
        self.store().join("images")
    }

    pub(crate) fn image_sidecar(&self, id: &Digest) -> PathBuf {
        self.images().join(format!("{}.json", id.hex()))
    }

    /// Where the driver is tried out at start.
    pub(crate) fn probe(&self) -> PathBuf {
        self.store().join("probe")
    }

    pub(crate) fn layer(&self, key: &Key) -> LayerDir {
        LayerDir::new(self.store(), key)
    }

    pub(crate) fn staged_layer(&self, key: &Key) -> LayerDir {
        LayerDir::new(self.layer_tmp(), key)
    }

    pub(crate) fn trashed_layer(&self, key: &Key) -> PathBuf {
        self.layer_trash().join(key.as_str())
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// Volumes and volume contents that are being made. No volume's name starts with a dot.
    pub(crate) fn volume_staging(&self) -> PathBuf {
        self.volumes().join(".staging")
    }

    pub(crate) fn volume_trash(&self) -> PathBuf {
        self.volumes().join(".trash")
    }

    pub(crate) fn staged_volume(&self, key: &Key) -> PathBuf {
        self.volume_staging().join(key.as_str())
    }

    pub(crate) fn trashed_volume(&self, key: &Key) -> PathBuf {
        self.volume_trash().join(key.as_str())
    }

    pub(crate) fn volume(&self, name: &VolumeName) -> PathBuf {
        self.volumes().join(name.as_str())
    }

    pub(crate) fn volume_sidecar(&self, name: &VolumeName) -> PathBuf {
        self.volume(name).join(VOLUME_SIDECAR)
    }

    /// What containers see of a volume.
    pub(crate) fn volume_data(&self, name: &VolumeName) -> PathBuf {
        self.volume(name).join(VOLUME_DATA)
    }

    /// The filesystem of a volume that has one of its own.
    pub(crate) fn volume_image(&self, name: &VolumeName) -> PathBuf {
        self.volume(name).join(VOLUME_IMAGE)
    }

    /// Snapshots of a volume, which go where it goes.
    pub(crate) fn snapshots(&self, volume: &VolumeName) -> PathBuf {
        self.volume(volume).join(SNAPSHOTS)
    }

    pub(crate) fn snapshot(&self, volume: &VolumeName, key: &Key) -> PathBuf {
        self.snapshots(volume).join(key.as_str())
    }
}

pub(crate) const VOLUME_DATA: &str = "_data";
pub(crate) const VOLUME_IMAGE: &str = "_image";
const SNAPSHOTS: &str = "_snapshots";
/// The row of a volume, for a database that is lost.
pub(crate) const VOLUME_SIDECAR: &str = "volume.json";

/// The directory of a layer, or of a container's writable layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerDir {
    path: PathBuf,
    key: Key,
}

impl LayerDir {
    fn new(parent: PathBuf, key: &Key) -> Self {
        Self {
            path: parent.join(key.as_str()),
            key: key.clone(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn diff(&self) -> PathBuf {
        self.path.join("diff")
    }

    /// How the layer's archive is put together again: [`crate::recipe`].
    pub(crate) fn record(&self) -> PathBuf {
        self.path.join("archive")
    }

    /// Files that the archive itself replaced; mostly absent.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.path.join("replaced")
    }

    /// The row of the layer, for a database that is lost.
    pub(crate) fn sidecar(&self) -> PathBuf {
        self.path.join("layer.json")
    }

    /// The row of a container's writable layer.
    pub(crate) fn rootfs_sidecar(&self) -> PathBuf {
        self.path.join("rootfs.json")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub(crate) fn merged(&self) -> PathBuf {
        self.path.join("merged")
    }
}
