//! Thin devices of the kernel.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Instant;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use sys::device_mapper::{DeviceMapper, Info, Suspended, Target};

use super::luks::{self, HEADER};
use super::{Access, Mapper};
use crate::handing::{END_OF_USE, PAUSE};
use crate::lock::KeyedLocks;
use crate::model::layout::Key;
use crate::model::thin::{self, Base, DeviceRow, Filesystem, Message, PoolTable, SECTOR, Status};
use crate::model::thin_options::ThinOptions;
use crate::tree;
use crate::volume::image_file::{self, ImageFailure};

/// How often a device is activated anew that goes in the moment before it is used.
const ATTEMPTS: u32 = 20;

const DECRYPTED: &str = "-crypt";

/// A pool of the kernel, and what it was made of.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) mapper: DeviceMapper,
    /// Of the pool; those of its devices begin with it.
    pub(super) name: String,
    pub(super) table: PoolTable,
    pub(super) places: Vec<(&'static str, String)>,
    /// Blocks that are given back make room for others than ourselves.
    pub(super) discards: bool,
    pub(super) deferred_removal: bool,
    pub(super) active: KeyedLocks,
    /// The monitor ends with it.
    pub(super) used: Arc<()>,
}

impl Mapper for Kernel {
    fn status(&self) -> io::Result<Status> {
        let targets = self.mapper.status(&self.name)?;
        let line = targets.first().filter(|target| target.kind == "thin-pool");
        line.and_then(|target| thin::parse_status(&target.parameters))
            .ok_or_else(|| io::Error::other("it is no thin-pool, or one of an unknown kind"))
    }

    fn block(&self) -> u64 {
        self.table.block
    }

    fn tell(&self, message: Message) -> io::Result<()> {
        let tell = || self.mapper.message(&self.name, &message.to_string());
        let Message::Snapshot { origin, .. } = message else {
            return tell();
        };
        // A snapshot of what is being written to would be of no one moment.
        let active = self.active_names(origin)?;
        let mut held = Vec::new();
        for name in active {
            // The filesystem of one that is encrypted is on the device above it.
            let above = decrypted(&name);
            let info = self.mapper.info(&above)?;
            if info.is_some_and(|info| info.is_active) {
                held.push(Suspended::new(&self.mapper, &above)?);
            }
            held.push(Suspended::new(&self.mapper, &name)?);
        }
        let told = tell();
        // From below.
        while held.pop().is_some() {}
        told
    }

    fn format(
        &self,
        device: &DeviceRow,
        options: &ThinOptions,
        key: Option<&[u8]>,
    ) -> Result<Base, ImageFailure> {
        let filesystem = options.filesystem.unwrap_or_else(best_filesystem);
        let thin = self.activate(device)?;
        if let Some(key) = key {
            luks::format(&thin.node(), key)?;
        }
        let node = self.decrypt(device, &thin, key)?.node();
        let mut command = Command::new(filesystem.maker());
        match filesystem {
            // As for volumes: nobody wants a reserve, and what is not written has no blocks.
            Filesystem::Ext4 => command
                .args(["-q", "-F", "-m", "0", "-E"])
                .arg("nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
            Filesystem::Xfs => command.args(["-q", "-f", "-K"]),
        };
        command.args(&options.mkfs_arguments).arg(&node);
        image_file::run(filesystem.maker(), filesystem.package(), &mut command)?;
        let mount = self.mount(device, filesystem, Access::Write, options, key)?;
        let root = tree::open_dir_at(mount.as_fd(), c".")?;
        image_file::make_empty(root.as_fd())?;
        rustix::fs::syncfs(&root)?;
        drop((root, mount));
        let uuid = match key {
            None => self.identity(device, filesystem)?,
            Some(_) => String::new(),
        };
        Ok(Base { filesystem, uuid })
    }

    fn identity(&self, device: &DeviceRow, filesystem: Filesystem) -> io::Result<String> {
        let mut uuid = [0; 16];
        // `struct dsb` (fs/xfs/libxfs/xfs_format.h) and `struct ext4_super_block` (fs/ext4/ext4.h).
        let at = match filesystem {
            Filesystem::Xfs => 32,
            Filesystem::Ext4 => 1024 + 0x68,
        };
        self.with_active(device, |info| {
            File::open(info.node())?.read_exact_at(&mut uuid, at)
        })?;
        self.mapper.remove(&self.device_name(&device.key), true)?;
        Ok(hex::encode(uuid))
    }

    fn mount(
        &self,
        device: &DeviceRow,
        filesystem: Filesystem,
        access: Access,
        options: &ThinOptions,
        key: Option<&[u8]>,
    ) -> io::Result<OwnedFd> {
        let _one = self.active.lock(device.key.as_str());
        let (parameters, attributes) = mount_options(filesystem, access, options);
        let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
        let (info, mount) = self.with_active(device, |info| {
            let info = &self.decrypt(device, info, key)?;
            let node = info.node();
            let mount =
                sys::mount::detached_with(filesystem.name(), &node, &parameters, attributes);
            Ok((*info, mount?))
        })?;
        if access == Access::Write {
            let root = tree::open_dir_at(mount.as_fd(), c".")?;
            let header = key.map_or(0, |_key| HEADER);
            grow(&root, &info, filesystem, device.bytes - header)?;
            match (filesystem, options.xfs_retries) {
                (Filesystem::Xfs, Some(tries)) => give_up_when_full(&info, tries),
                (Filesystem::Xfs, None) => {}
                (Filesystem::Ext4, _) => leave_pages_to_others(&info),
            }
        }
        let name = self.device_name(&device.key);
        if key.is_some() {
            // Whatever becomes of the one below: what is decrypted is there only while it is used.
            self.mapper.remove(&decrypted(&name), true)?;
        }
        if self.deferred_removal {
            self.mapper.remove(&name, true)?;
        }
        Ok(mount)
    }

    fn let_go(&self, device: &DeviceRow, discard: bool) -> io::Result<()> {
        let _one = self.active.lock(device.key.as_str());
        let name = self.device_name(&device.key);
        if discard && self.number(device)?.is_none() {
            let info = self.activate(device)?;
            let node = File::options().write(true).open(info.node())?;
            if let Err(error) = sys::block::discard(node.as_fd(), device.bytes) {
                tracing::warn!(device = device.id, %error, "cannot discard the blocks of a device");
            }
        }
        // What processes that have ended had mounted goes a moment after them.
        let deadline = Instant::now() + END_OF_USE;
        for name in [decrypted(&name), name] {
            loop {
                match self.mapper.remove(&name, false) {
                    Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(PAUSE),
                    removed => break removed?,
                }
            }
        }
        Ok(())
    }

    fn used(&self, device: &DeviceRow) -> io::Result<u64> {
        let _one = self.active.lock(device.key.as_str());
        let name = self.device_name(&device.key);
        let status = self.with_active(device, |_info| self.mapper.status(&name))?;
        self.mapper.remove(&name, true)?;
        let line = status.into_iter().next();
        line.and_then(|target| thin::parse_used(&target.parameters))
            .ok_or_else(|| io::Error::other("it is no thin device, or one that has failed"))
    }

    fn number(&self, device: &DeviceRow) -> io::Result<Option<u64>> {
        let name = self.device_name(&device.key);
        let info = match self.mapper.info(&decrypted(&name))? {
            None => self.mapper.info(&name)?,
            above => above,
        };
        Ok(info.map(|info| info.device))
    }

    fn places(&self) -> Vec<(&'static str, String)> {
        self.places.clone()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn discards(&self) -> bool {
        self.discards
    }
}

impl Kernel {
    fn device_name(&self, key: &Key) -> String {
        format!("{}-{key}", self.name)
    }

    /// Removes what a daemon that was killed had activated and not mounted, and lets go on what it had
    /// suspended.
    pub(super) fn remove_unused(&self) -> io::Result<()> {
        for name in self.mapper.names()? {
            let rest = name.strip_prefix(&self.name);
            let key = rest.and_then(|rest| rest.strip_prefix('-'));
            let key = key.map(|key| key.strip_suffix(DECRYPTED).unwrap_or(key));
            if key.is_some_and(|key| Key::parse(key).is_some()) {
                let info = self.mapper.info(&name)?;
                if info.is_some_and(|info| info.is_suspended && info.is_active) {
                    tracing::warn!(%name, "writers waited for a snapshot that was never finished; they go on");
                    self.mapper.resume(&name)?;
                }
                self.mapper.remove(&name, true)?;
            }
        }
        Ok(())
    }

    /// Active devices with this id, of which there is one at most.
    fn active_names(&self, id: u32) -> io::Result<Vec<String>> {
        let mut active = Vec::new();
        for name in self.mapper.names()? {
            if !name.starts_with(&self.name) || name == self.name {
                continue;
            }
            match self.mapper.table(&name) {
                Ok(table) => {
                    let is_it = |target: &Target| {
                        let last = target.parameters.split_whitespace().nth(1);
                        target.kind == "thin" && last == Some(&id.to_string())
                    };
                    if table.iter().any(is_it) {
                        active.push(name);
                    }
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(active)
    }

    /// Does something with a device that is active, again if it goes in the moment before: with its last
    /// user, who was there when it was looked at.
    fn with_active<T>(
        &self,
        device: &DeviceRow,
        mut action: impl FnMut(&Info) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            match self.activate(device).and_then(|info| action(&info)) {
                Err(error) if left > 0 && is_gone(&error) => sleep(PAUSE),
                done => return done,
            }
        }
    }

    /// The device with the filesystem, which is another one if there is a key.
    fn decrypt(&self, device: &DeviceRow, info: &Info, key: Option<&[u8]>) -> io::Result<Info> {
        let Some(key) = key else {
            return Ok(*info);
        };
        // It stays while it is looked at.
        let _held = File::open(info.node())?;
        let name = decrypted(&self.device_name(&device.key));
        luks::open(&self.mapper, &info.node(), &name, device.bytes, key)
    }

    fn activate(&self, device: &DeviceRow) -> io::Result<Info> {
        let name = self.device_name(&device.key);
        let wanted = self.thin_table(device)?;
        if let Some(info) = self.mapper.info(&name)?
            && info.is_active
        {
            if self.mapper.table(&name)? == wanted {
                return Ok(info);
            }
            // It has grown meanwhile.
            self.load(&name, &wanted)?;
            self.mapper.suspend(&name)?;
            return self.mapper.resume(&name);
        }
        self.mapper.remove(&name, false)?;
        self.mapper
            .create(&name, &format!("HAWSER-{}", device.key))?;
        let started = self
            .load(&name, &wanted)
            .and_then(|()| self.mapper.resume(&name));
        if started.is_err() {
            self.mapper.remove(&name, false)?;
        }
        // What is said before the table is in use has no events and no activity yet.
        started
    }

    /// The kernel refuses tables of thin devices while their pool is suspended (`thin_ctr`,
    /// drivers/md/dm-thin.c), which it is for a moment when it gets more room.
    fn load(&self, name: &str, wanted: &[Target]) -> io::Result<()> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            match self.mapper.load(name, wanted, false) {
                Err(error) if left > 0 && Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                    sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    fn thin_table(&self, device: &DeviceRow) -> io::Result<Vec<Target>> {
        let pool = self.mapper.info(&self.name)?.ok_or(Errno::NXIO)?;
        Ok(vec![Target {
            start: 0,
            length: device.bytes / SECTOR,
            kind: "thin".to_owned(),
            parameters: format!("{} {}", pool.number(), device.id),
        }])
    }
}

/// The name of what is decrypted of a device.
fn decrypted(name: &str) -> String {
    format!("{name}{DECRYPTED}")
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

fn is_gone(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::NXIO | Errno::NODEV | Errno::NOENT))
}

/// xfs where it can be made, as in Docker.
fn best_filesystem() -> Filesystem {
    let version = Command::new(Filesystem::Xfs.maker()).arg("-V").output();
    match version {
        Ok(output) if output.status.success() => Filesystem::Xfs,
        _ => Filesystem::Ext4,
    }
}

/// Parameters of the filesystem, and attributes of the mount: a root filesystem has neither `nosuid` nor
/// `nodev`.
fn mount_options(
    filesystem: Filesystem,
    access: Access,
    options: &ThinOptions,
) -> (Vec<String>, MountAttrFlags) {
    let mut attributes = MountAttrFlags::empty();
    let mut parameters = Vec::new();
    for option in &options.mount_options {
        match option.as_str() {
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "nodiratime" => attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            "strictatime" => attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "relatime" | "defaults" | "rw" => {}
            other => parameters.push(other.to_owned()),
        }
    }
    // A snapshot has the identity of its origin.
    if filesystem == Filesystem::Xfs && !parameters.iter().any(|name| name == "nouuid") {
        parameters.push("nouuid".to_owned());
    }
    if filesystem == Filesystem::Ext4 && !parameters.iter().any(|name| name.starts_with("errors="))
    {
        // Never write on after an error.
        parameters.push("errors=remount-ro".to_owned());
    }
    if access == Access::Read {
        parameters.push("ro".to_owned());
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    (parameters, attributes)
}

/// Has the filesystem fill its device.
fn grow(root: &OwnedFd, info: &Info, filesystem: Filesystem, bytes: u64) -> io::Result<()> {
    match filesystem {
        Filesystem::Xfs => sys::xfs::grow(root.as_fd(), bytes),
        Filesystem::Ext4 if ext4_bytes(&info.node())? < bytes => {
            sys::ext4::grow(root.as_fd(), bytes)
        }
        Filesystem::Ext4 => Ok(()),
    }
}

/// Of its superblock (`s_blocks_count_lo`, `s_log_block_size` and `s_blocks_count_hi`).
fn ext4_bytes(node: &Path) -> io::Result<u64> {
    let mut superblock = [0; 1024];
    File::open(node)?.read_exact_at(&mut superblock, 1024)?;
    let number = |at: usize| {
        let bytes = [at, at + 1, at + 2, at + 3].map(|at| superblock[at]);
        u64::from(u32::from_le_bytes(bytes))
    };
    let blocks = number(0x4) | number(0x150) << 32;
    // Up to the last whole block of a device.
    Ok((blocks + 1) << (10 + number(0x18).min(6)))
}

/// An xfs that finds no room for its metadata tries again for ever, and whoever waits for it can not
/// be killed.
fn give_up_when_full(info: &Info, tries: u64) {
    let name = info.node();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let file = format!("/sys/fs/xfs/{name}/error/metadata/ENOSPC/max_retries");
    if let Err(error) = std::fs::write(&file, tries.to_string()) {
        tracing::warn!(file, %error, "cannot limit the tries of an xfs");
    }
}

/// An ext4 whose journal finds no room in the pool keeps for ever what it cannot write
/// (`ext4_do_writepages`, fs/ext4/inode.c). Of the pages that may wait to be written on this host, it
/// must not have them all: then everybody would wait.
fn leave_pages_to_others(info: &Info) {
    /// Of the host's limit.
    const PERCENT: &str = "40";
    let file = format!("/sys/class/bdi/{}/max_ratio", info.number());
    if let Err(error) = std::fs::write(&file, PERCENT) {
        tracing::warn!(file, %error, "cannot limit the pages that wait for an ext4");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::thin_options;

    #[test]
    fn options_of_mounts_go_where_the_kernel_takes_them() {
        let given = ["dm.thinpooldev=p", "dm.mountopt=noatime,discard,logbufs=4"];
        let options = thin_options::parse(&given.map(str::to_owned)).unwrap();
        let (parameters, attributes) = mount_options(Filesystem::Xfs, Access::Read, &options);
        assert_eq!(parameters, ["discard", "logbufs=4", "nouuid", "ro"]);
        let expected = MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_RDONLY;
        assert_eq!(attributes, expected);
        let (parameters, _) = mount_options(Filesystem::Ext4, Access::Write, &options);
        assert_eq!(parameters, ["discard", "logbufs=4", "errors=remount-ro"]);
    }
}
