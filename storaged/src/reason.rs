//! What an I/O error is about, and what helps: the words behind an error number.

use std::io;

use rustix::io::Errno;

/// An error of one entry of a tree.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct Named {
    path: String,
    source: io::Error,
}

/// Adds the entry's path once, where the error is first seen.
pub(crate) fn named(path: &[u8], source: io::Error) -> io::Error {
    if source.get_ref().is_some_and(|inner| inner.is::<Named>()) {
        return source;
    }
    let path = String::from_utf8_lossy(path).into_owned();
    io::Error::new(source.kind(), Named { path, source })
}

/// An error of a volume's own filesystem, in a file: there is no room that anybody else could make.
#[derive(Debug, thiserror::Error)]
#[error("{0}; the volume's own filesystem is full: give it a larger size, or more inodes")]
struct OwnFull(io::Error);

/// Says so of an error that is for want of room.
pub(crate) fn in_own_filesystem(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::StorageFull => io::Error::new(error.kind(), OwnFull(error)),
        _ => error,
    }
}

/// Why a filesystem of a kind is not mounted.
pub(crate) fn mount_problem(kind: &str, error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NODEV) => {
            format!("{error}: this kernel has no {kind}, or cannot load its module")
        }
        _ => error.to_string(),
    }
}

/// What to do about it, as the end of a message.
pub(crate) fn way_out(error: &io::Error) -> &'static str {
    let inner = || error.get_ref()?.downcast_ref::<Named>();
    let number = error
        .raw_os_error()
        .or_else(|| inner()?.source.raw_os_error());
    match number.map(Errno::from_raw_os_error) {
        Some(Errno::IO) => "; the disk or what is below it fails, and dmesg says how",
        Some(Errno::ROFS) => "; mount the filesystem for writing, or see in dmesg why it stopped",
        Some(Errno::NOSPC) => {
            "; make room, or free inodes if df -i shows none, for example with hawser system prune"
        }
        Some(Errno::DQUOT) => {
            "; a limit is used up: that of a volume grows with hawser volume resize"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_one_path_and_keeps_its_way_out() {
        let error = named(b"d/f", Errno::IO.into());
        let error = named(b"d", error);
        let text = format!("{error}{}", way_out(&error));
        assert!(text.starts_with("d/f: Input/output error"), "{text}");
        assert!(text.ends_with("dmesg says how"), "{text}");
        assert_eq!(way_out(&Errno::NOENT.into()), "");
        let full = in_own_filesystem(named(b"f", Errno::NOSPC.into()));
        let text = format!("{full}{}", way_out(&full));
        assert!(text.ends_with("larger size, or more inodes"), "{text}");
        let error = in_own_filesystem(Errno::IO.into());
        assert!(way_out(&error).contains("dmesg"));
    }
}
