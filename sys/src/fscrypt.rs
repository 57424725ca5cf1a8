//! Directories that the filesystem encrypts, each with a key (`Documentation/filesystems/fscrypt.rst`).
//!
//! The kernel knows a key by an identifier that is derived from it, and forgets it when the filesystem
//! is unmounted. Without the key names are gibberish and nothing can be opened or made.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

// `linux/fscrypt.h`: _IOR('f', 19, 12 bytes), _IOWR('f', 23, 80 bytes), _IOWR('f', 24, 64 bytes),
// _IOWR('f', 26, 128 bytes).
const SET_POLICY: libc::Ioctl = 0x800c_6613;
const ADD_KEY: libc::Ioctl = 0xc050_6617;
const REMOVE_KEY: libc::Ioctl = 0xc040_6618;
const KEY_STATUS: libc::Ioctl = 0xc080_661a;
const BY_IDENTIFIER: u32 = 2;
const PRESENT: u32 = 2;

/// What AES-256 needs, and the most the kernel takes.
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=64;

/// Names a key and tells nothing of it.
pub type Identifier = [u8; 16];

/// `struct fscrypt_key_specifier`.
#[repr(C)]
struct Specifier {
    kind: u32,
    reserved: u32,
    identifier: Identifier,
    rest: [u8; 16],
}

impl Specifier {
    fn of(identifier: Identifier) -> Self {
        Self {
            kind: BY_IDENTIFIER,
            reserved: 0,
            identifier,
            rest: [0; 16],
        }
    }
}

/// `struct fscrypt_add_key_arg` with room for the longest key.
#[repr(C)]
struct AddKey {
    specifier: Specifier,
    size: u32,
    reserved: [u32; 9],
    raw: [u8; 64],
}

/// `struct fscrypt_remove_key_arg`.
#[repr(C)]
struct RemoveKey {
    specifier: Specifier,
    status: u32,
    reserved: [u32; 5],
}

/// `struct fscrypt_get_key_status_arg`.
#[repr(C)]
struct KeyStatus {
    specifier: Specifier,
    reserved: [u32; 6],
    status: u32,
    out: [u32; 15],
}

/// `struct fscrypt_policy_v2`.
#[repr(C)]
struct Policy {
    version: u8,
    contents: u8,
    names: u8,
    flags: u8,
    reserved: [u8; 4],
    identifier: Identifier,
}

const _: () = assert!(
    size_of::<Specifier>() == 40
        && size_of::<AddKey>() == 80 + 64
        && size_of::<RemoveKey>() == 64
        && size_of::<KeyStatus>() == 128
        && size_of::<Policy>() == 24
);

/// Gives the filesystem that `directory` is on a key, of [`KEY_BYTES`]. Again is fine.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem does not encrypt, `EINVAL` for a key of another length.
pub fn add_key(directory: BorrowedFd<'_>, key: &[u8]) -> io::Result<Identifier> {
    if !KEY_BYTES.contains(&key.len()) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    let mut argument = AddKey {
        specifier: Specifier::of([0; 16]),
        size: key.len() as u32,
        reserved: [0; 9],
        raw: [0; 64],
    };
    argument.raw[..key.len()].copy_from_slice(key);
    // SAFETY: the kernel reads `struct fscrypt_add_key_arg` and `size` bytes behind it, and writes the
    // identifier.
    let outcome = unsafe { libc::ioctl(directory.as_raw_fd(), ADD_KEY, &raw mut argument) };
    // What the stack had of it is not for the next caller.
    // SAFETY: the field is a local's own, aligned, and needs no drop.
    unsafe { std::ptr::write_volatile(&raw mut argument.raw, [0; 64]) };
    check(outcome)?;
    Ok(argument.specifier.identifier)
}

/// Takes the key away. Files that are open with it stay so until they are closed.
///
/// # Errors
/// `ENOKEY` when it is not there.
pub fn remove_key(directory: BorrowedFd<'_>, identifier: Identifier) -> io::Result<()> {
    let mut argument = RemoveKey {
        specifier: Specifier::of(identifier),
        status: 0,
        reserved: [0; 5],
    };
    // SAFETY: the kernel reads and writes one `struct fscrypt_remove_key_arg`.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), REMOVE_KEY, &raw mut argument) }).map(drop)
}

/// Whether the filesystem has the key.
///
/// # Errors
/// The kernel's.
pub fn has_key(directory: BorrowedFd<'_>, identifier: Identifier) -> io::Result<bool> {
    let mut argument = KeyStatus {
        specifier: Specifier::of(identifier),
        reserved: [0; 6],
        status: 0,
        out: [0; 15],
    };
    // SAFETY: the kernel reads and writes one `struct fscrypt_get_key_status_arg`.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), KEY_STATUS, &raw mut argument) })?;
    Ok(argument.status == PRESENT)
}

/// Encrypts an empty directory, and all that will be in it: AES-256-XTS for content, AES-256-CTS for
/// names.
///
/// # Errors
/// `ENOTEMPTY`, `ENOKEY`, and as [`add_key`].
pub fn encrypt(directory: BorrowedFd<'_>, identifier: Identifier) -> io::Result<()> {
    let policy = Policy {
        version: 2,
        contents: 1,
        names: 4,
        // Names are padded to 32 bytes, so that their lengths tell less.
        flags: 3,
        reserved: [0; 4],
        identifier,
    };
    // SAFETY: the kernel reads one `struct fscrypt_policy_v2`, as the version in it says.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), SET_POLICY, &raw const policy) }).map(drop)
}
