//! Extended attributes of directory entries, symbolic links not followed.
//!
//! One list says which belong to the content of a tree, and so to whatever is made of it: layers,
//! archives, copies. Those of overlayfs and labels of security modules belong to the place it is at.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// What is made in a directory gets this access control list.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// POSIX access control lists.
pub(crate) const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", DEFAULT_ACL];
/// Longest list of attribute names, and longest value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_LENGTH: usize = 64 << 10;

/// Names and values.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Whether an attribute belongs to the content.
pub(crate) fn is_content(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability" || ACLS.contains(&name)
}

/// Those that belong to the content, by name.
pub(crate) fn of_content(dir: BorrowedFd<'_>, name: &CStr) -> Result<Attributes, Errno> {
    let mut attributes = all(dir, name)?;
    attributes.retain(|(name, _)| is_content(name));
    attributes.sort();
    Ok(attributes)
}

/// All attributes of `name` in `dir`.
pub(crate) fn all(dir: BorrowedFd<'_>, name: &CStr) -> Result<Attributes, Errno> {
    let path = path(dir, name);
    let length = match rustix::fs::llistxattr_query(path.as_slice()) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result?.min(MAX_LENGTH),
    };
    let mut list = vec![0; length];
    let length = rustix::fs::llistxattr(path.as_slice(), &mut list)?;
    let names = list[..length].split(|byte| *byte == 0);
    let mut all = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        let mut value = vec![0; MAX_LENGTH];
        match rustix::fs::lgetxattr(path.as_slice(), name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                all.push((name.to_vec(), value));
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Sets an attribute of `name` in `dir`.
pub(crate) fn set(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let path = path(dir, name);
    rustix::fs::lsetxattr(path.as_slice(), attribute, value, XattrFlags::empty())
}

/// Removes an attribute of `name` in `dir`; fine if there is none.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &CStr, attribute: &[u8]) -> Result<(), Errno> {
    match rustix::fs::lremovexattr(path(dir, name).as_slice(), attribute) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// There is no `llistxattrat` before Linux 6.13; the magic link names the open directory.
fn path(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let dir = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    [dir.as_bytes(), name.to_bytes()].concat()
}
