//! Block devices: their size, and giving blocks back (`include/uapi/linux/fs.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

// _IO(0x12, 119) and _IOR(0x12, 114, size_t).
const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// Discards the first `bytes` of a device, which has no use for them any more.
///
/// # Errors
/// The kernel's: `EOPNOTSUPP` for a device that cannot.
pub fn discard(device: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let range = [0, bytes];
    // SAFETY: the kernel reads two `uint64_t`.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) }).map(drop)
}

/// Bytes that a device has.
///
/// # Errors
/// `ENOTTY` for what is no block device.
pub fn size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the kernel writes one `uint64_t`.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::loop_device::LoopDevice;

    #[test]
    fn a_device_tells_its_size_and_takes_blocks_back() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = directory.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 1 << 16], 0).unwrap();
        file.sync_all().unwrap();
        let device = LoopDevice::attach(&image).unwrap();
        let node = File::options()
            .read(true)
            .write(true)
            .open(device.path())
            .unwrap();
        assert_eq!(size(node.as_fd()).unwrap(), 1 << 20);
        assert!(size(file.as_fd()).is_err());
        discard(node.as_fd(), 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
