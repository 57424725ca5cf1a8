//! Kernel settings below `/proc/sys`, of the calling thread's namespaces.
//!
//! Keys are paths, `net/ipv4/ip_forward`: interface names may contain dots.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The value of `key` without its line end.
///
/// # Errors
/// The error of reading the file; `NotFound` when this kernel has no such setting.
pub fn read(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(file(key))?.trim_end().to_owned())
}

/// Writes `key` unless it has the value already, so that a read-only `/proc/sys` with the right
/// values does, and no watcher of the setting is woken for nothing. Returns the value before.
///
/// # Errors
/// The error of reading or writing the file.
pub fn ensure(key: &str, value: &str) -> io::Result<String> {
    let before = read(key)?;
    if before != value {
        fs::write(file(key), value)?;
    }
    Ok(before)
}

fn file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetNs;

    #[test]
    fn a_setting_is_written_once_and_only_in_its_namespace() {
        let key = "net/ipv4/conf/default/arp_notify";
        let outside = read(key).unwrap();
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        namespace
            .run(|| {
                let before = ensure(key, "1").unwrap();
                assert_ne!(before, "1");
                assert_eq!(ensure(key, "1").unwrap(), "1");
            })
            .unwrap();
        assert_eq!(read(key).unwrap(), outside);
    }
}
