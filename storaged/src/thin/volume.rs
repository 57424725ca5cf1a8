//! What the pool does for volumes, each of which is a filesystem of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::luks::name_of_key;
use super::{Access, Pool};
use crate::disk::set_owner;
use crate::model::thin::{DeviceRow, Filesystem};
use crate::model::thin_options::ThinOptions;
use crate::model::volume_spec::Owner;
use crate::tree;
use crate::volume::image_file::ImageFailure;

/// What a volume is: a filesystem on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) device: DeviceRow,
    pub(crate) filesystem: Filesystem,
    /// Names the key in the keyring that it is encrypted with.
    pub(crate) key_id: Option<String>,
}

impl Content {
    fn key(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(id) = &self.key_id else {
            return Ok(None);
        };
        let key = sys::keyring::get(&name_of_key(id))?;
        key.map(Some).ok_or_else(|| Errno::NOKEY.into())
    }
}

impl Pool {
    /// How filesystems of volumes are made and mounted: like those of layers, but for what is not a
    /// root filesystem.
    fn for_volumes(&self, filesystem: Filesystem) -> ThinOptions {
        let own = ["nosuid", "nodev"].map(str::to_owned);
        ThinOptions {
            filesystem: Some(filesystem),
            mkfs_arguments: Vec::new(),
            mount_options: self
                .options
                .mount_options
                .iter()
                .cloned()
                .chain(own)
                .collect(),
            ..self.options.clone()
        }
    }

    /// Makes the filesystem of a new volume.
    pub(crate) fn format(
        &self,
        content: &Content,
        inodes: Option<u64>,
        owner: Owner,
    ) -> Result<(), ImageFailure> {
        let mut options = self.for_volumes(content.filesystem);
        if let Some(inodes) = inodes {
            options.mkfs_arguments = vec!["-N".to_owned(), inodes.to_string()];
        }
        let key = content.key()?;
        self.mapper
            .format(&content.device, &options, key.as_deref())?;
        let mount = self.mount_volume(content)?;
        let root = tree::open_dir_at(mount.as_fd(), c".")?;
        set_owner(root.as_fd(), owner)?;
        Ok(rustix::fs::syncfs(&root)?)
    }

    /// The content of a volume, mounted nowhere, to be written to. It fills its device from then on.
    pub(crate) fn mount_volume(&self, content: &Content) -> io::Result<OwnedFd> {
        let Content {
            device, filesystem, ..
        } = content;
        let options = self.for_volumes(*filesystem);
        let key = content.key()?;
        self.mapper
            .mount(device, *filesystem, Access::Write, &options, key.as_deref())
    }

    /// Bytes that a device has of the pool, those shared with others included.
    pub(crate) fn used(&self, device: &DeviceRow) -> io::Result<u64> {
        self.mapper.used(device)
    }
}
