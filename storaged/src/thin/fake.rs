//! A pool of directories, for the crashes that need no device-mapper.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Access, Mapper};
use crate::model::thin::{Base, DeviceRow, Filesystem, Message, Mode, Room, Status};
use crate::model::thin_options::ThinOptions;
use crate::tree;
use crate::volume::copy;
use crate::volume::image_file::ImageFailure;

/// Device `N` is the directory `N`; the file `transaction` has the pool's number.
#[derive(Debug)]
pub(crate) struct Fake(pub(crate) PathBuf);

impl Fake {
    fn device(&self, id: u32) -> PathBuf {
        self.0.join(id.to_string())
    }

    fn number(&self) -> PathBuf {
        self.0.join("transaction")
    }

    /// Ids of what is in the pool.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut ids: Vec<u32> = names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn set_transaction(&self, number: u64) {
        fs::write(self.number(), number.to_string()).unwrap();
    }

    fn make(&self, id: u32) -> io::Result<PathBuf> {
        let path = self.device(id);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(tree::open_root(path)?)
}

impl Mapper for Fake {
    fn status(&self) -> io::Result<Status> {
        let text = fs::read_to_string(self.number()).unwrap_or_else(|_new| "0".to_owned());
        let used = self.ids().len() as u64;
        let room = Room { used, total: 1000 };
        Ok(Status {
            transaction: text.parse().map_err(io::Error::other)?,
            metadata: room,
            data: room,
            mode: Mode::Writable,
            needs_check: false,
        })
    }

    fn block(&self) -> u64 {
        1 << 16
    }

    fn tell(&self, message: Message) -> io::Result<()> {
        match message {
            Message::Create { id } => self.make(id).map(drop),
            Message::Snapshot { id, origin } => {
                let from = open(&self.device(origin)).map_err(|_missing| Errno::NODATA)?;
                let to = self.make(id)?;
                Ok(copy::tree(from.as_fd(), open(&to)?.as_fd())?)
            }
            Message::Delete { id } if !self.device(id).exists() => Err(Errno::NODATA.into()),
            Message::Delete { id } => fs::remove_dir_all(self.device(id)),
            Message::SetTransaction { from, to } => {
                if self.status()?.transaction != from {
                    return Err(Errno::INVAL.into());
                }
                self.set_transaction(to);
                Ok(())
            }
        }
    }

    fn format(
        &self,
        device: &DeviceRow,
        _options: &ThinOptions,
        _key: Option<&[u8]>,
    ) -> Result<Base, ImageFailure> {
        let filesystem = Filesystem::Ext4;
        let uuid = self.identity(device, filesystem)?;
        Ok(Base { filesystem, uuid })
    }

    fn identity(&self, _device: &DeviceRow, _filesystem: Filesystem) -> io::Result<String> {
        Ok("one".to_owned())
    }

    fn mount(
        &self,
        device: &DeviceRow,
        _filesystem: Filesystem,
        _access: Access,
        _options: &ThinOptions,
        _key: Option<&[u8]>,
    ) -> io::Result<OwnedFd> {
        sys::owner::clone_mount(&self.device(device.id), false)
    }

    fn let_go(&self, _device: &DeviceRow, _discard: bool) -> io::Result<()> {
        Ok(())
    }

    fn used(&self, device: &DeviceRow) -> io::Result<u64> {
        Ok(tree::size(&self.device(device.id)).bytes)
    }

    fn number(&self, _device: &DeviceRow) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn places(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn name(&self) -> &str {
        "fake"
    }

    fn discards(&self) -> bool {
        false
    }
}
