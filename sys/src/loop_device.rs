//! Loop devices: a file as a block device (`drivers/block/loop.c`).
//!
//! A device made here clears itself when its last user goes (`LO_FLAGS_AUTOCLEAR`): a mount, or the
//! [`LoopDevice`] itself. So nothing is left behind by whoever dies between attaching and mounting.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::check;

// `linux/loop.h`.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
/// Linux 5.8: descriptor and status in one call, so that no half-configured device is ever seen.
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Another process takes the free device first now and then.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

impl LoopInfo {
    const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// A loop device that stays attached at least as long as this lives.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    path: PathBuf,
}

impl LoopDevice {
    /// The device whose file `image` is, or a new one. There is never a second device for one file
    /// by this function, because two filesystems mounted from the same blocks destroy it.
    ///
    /// Direct I/O is asked for, which spares a second copy in the page cache; the kernel does
    /// without where the file's filesystem cannot.
    ///
    /// # Errors
    /// The kernel's; `ENXIO` or `ENOENT` where it has no loop devices.
    pub fn attach(image: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(image)?;
        if let Some(device) = Self::of(&file)? {
            return Ok(device);
        }
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let device = Self::open(&path(check(number)?), true)?;
            match device.configure(file.as_fd()) {
                Ok(()) => return Ok(device),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// The device that `image` is attached to, if it is to one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find(image: &Path) -> io::Result<Option<Self>> {
        Self::of(&File::open(image)?)
    }

    fn of(image: &File) -> io::Result<Option<Self>> {
        let stat = rustix::fs::fstat(image)?;
        for entry in std::fs::read_dir("/sys/block")? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("loop"));
            let Some(number) = number.and_then(|number| number.parse::<c_int>().ok()) else {
                continue;
            };
            // The directory is there while the device has a file.
            if !entry.path().join("loop").exists() {
                continue;
            }
            // For reading: a kernel may refuse to have a mounted device opened for writing.
            let Ok(device) = Self::open(&path(number), false) else {
                continue;
            };
            // Cleared since, if there is no status.
            if let Ok(info) = device.status()
                && (info.device, info.inode) == (stat.st_dev, stat.st_ino)
            {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    fn open(path: &Path, write: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(write).open(path)?;
        let path = path.to_owned();
        Ok(Self { file, path })
    }

    /// Its node, such as `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file's new length for the device's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn refresh_size(&self) -> io::Result<()> {
        // SAFETY: LOOP_SET_CAPACITY takes no argument.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), LOOP_SET_CAPACITY) }).map(drop)
    }

    fn status(&self) -> io::Result<LoopInfo> {
        let mut info = LoopInfo::ZERO;
        // SAFETY: the kernel writes one `struct loop_info64`, for which there is room.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) })?;
        Ok(info)
    }

    fn configure(&self, image: BorrowedFd<'_>) -> io::Result<()> {
        let config = LoopConfig {
            fd: image.as_raw_fd().cast_unsigned(),
            block_size: 0,
            info: LoopInfo {
                flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
                ..LoopInfo::ZERO
            },
            reserved: [0; 8],
        };
        // SAFETY: the kernel reads one `struct loop_config`; the descriptor in it is open during
        // the call, and the device takes a reference of its own to the file.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })
            .map(drop)
    }
}

fn path(number: c_int) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_device_that_clears_itself() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(LoopDevice::find(&image).unwrap().is_none());
        let device = LoopDevice::attach(&image).unwrap();
        let again = LoopDevice::attach(&image).unwrap();
        assert_eq!(device.path(), again.path());
        let length = || rustix::fs::seek(&device.file, rustix::fs::SeekFrom::End(0)).unwrap();
        assert_eq!(length(), 1 << 20);
        file.set_len(2 << 20).unwrap();
        device.refresh_size().unwrap();
        assert_eq!(length(), 2 << 20);
        drop((device, again));
        // Clearing is left to the kernel's work queue.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while LoopDevice::find(&image).unwrap().is_some() {
            assert!(std::time::Instant::now() < deadline, "it stays attached");
            std::thread::yield_now();
        }
    }
}
