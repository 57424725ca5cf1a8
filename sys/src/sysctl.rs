//! Kernel settings below `/proc/sys`, of the calling thread's namespaces.
//!
//! Keys are paths, `net/ipv4/ip_forward`: interface names may contain dots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The value of `key` without its line end.
///
/// # Errors
/// The error of reading the file; `NotFound` when this kernel has no such setting.
pub fn read(key: &str) -> io::Result<String> {
    let mut size = 4096;
    loop {
        let mut value = vec![0; size];
        let length = File::open(file(key))?.read(&mut value)?;
        // A setting is read in one piece: lists (`proc_do_large_bitmap`, kernel/sysctl.c) give what
        // fits the first read, and an end of file to the second.
        if length < size {
            value.truncate(length);
            let value = String::from_utf8(value).map_err(io::Error::other)?;
            return Ok(value.trim_end().to_owned());
        }
        size *= 16;
    }
}

/// Writes `key` unless it has the value already, so that a read-only `/proc/sys` with the right
/// values does, and no watcher of the setting is woken for nothing. Returns the value before.
///
/// # Errors
/// The error of reading or writing the file.
pub fn ensure(key: &str, value: &str) -> io::Result<String> {
    let before = read(key)?;
    if before != value {
        write(key, value)?;
    }
    Ok(before)
}

/// Writes `key`, whatever it has.
///
/// # Errors
/// The error of writing the file.
pub fn write(key: &str, value: &str) -> io::Result<()> {
    // With a line end, for an empty value would be no write at all.
    fs::write(file(key), format!("{value}\n"))
}

/// Adds the members of `value` to `key`, a list, and leaves those it has: what is written anywhere
/// but at the beginning of such a file is added (`proc_do_large_bitmap`, kernel/sysctl.c).
///
/// # Errors
/// The error of writing the file.
pub fn add(key: &str, value: &str) -> io::Result<()> {
    let list = OpenOptions::new().write(true).open(file(key))?;
    list.write_all_at(value.as_bytes(), 1)
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

    /// More than the kernel takes or gives at once.
    fn many_ports() -> String {
        let ports = (1..5000).map(|number| (2 * number).to_string());
        ports.collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_long_setting_is_read_and_written_whole() {
        let key = "net/ipv4/ip_local_reserved_ports";
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        let ports = many_ports();
        namespace
            .run(|| {
                ensure(key, &ports).unwrap();
                assert!(read(key).unwrap() == ports);
            })
            .unwrap();
    }

    #[test]
    fn a_list_grows_by_what_is_added() {
        let key = "net/ipv4/ip_local_reserved_ports";
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        let ports = many_ports();
        namespace
            .run(|| {
                write(key, "1,20001").unwrap();
                add(key, &ports).unwrap();
                let all = read(key).unwrap();
                assert!(all == format!("1-2{},20001", &ports[1..]), "{all}");
                add(key, "").unwrap();
                assert!(read(key).unwrap() == all);
            })
            .unwrap();
    }

    #[test]
    fn a_setting_can_be_emptied() {
        let key = "net/ipv4/ip_local_reserved_ports";
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        namespace
            .run(|| {
                ensure(key, "80,443").unwrap();
                assert_eq!(ensure(key, "").unwrap(), "80,443");
                assert_eq!(read(key).unwrap(), "");
            })
            .unwrap();
    }
}
