//! Access control lists as the kernel takes and gives them (`include/uapi/linux/posix_acl_xattr.h`):
//! a version, and entries of a tag, permissions and an id, in the order of the tags.

/// `POSIX_ACL_XATTR_VERSION`.
pub(crate) const VERSION: [u8; 4] = 2_u32.to_le_bytes();
/// Bytes of an entry, and where its id is.
pub(crate) const ENTRY: usize = 8;
pub(crate) const ID: usize = 4;
/// `ACL_UNDEFINED_ID`.
pub(crate) const NOBODY: u32 = u32::MAX;

/// `ACL_USER_OBJ` and so on.
pub(crate) const OWNER: u16 = 0x01;
pub(crate) const USER: u16 = 0x02;
pub(crate) const OWNING_GROUP: u16 = 0x04;
pub(crate) const GROUP: u16 = 0x08;
pub(crate) const MASK: u16 = 0x10;
pub(crate) const OTHER: u16 = 0x20;
