//! Kernel settings below `/proc/sys`, of the calling thread's namespaces.
//!
//! Keys are paths, `net/ipv4/ip_forward`: interface names may contain dots.
//!
//! They are looked up in a procfs of our own. A procfs keeps an entry `net/ipv4` for each network
//! namespace that somebody has looked at through it, all of them under one name, so that the kernel
//! compares them one by one (`proc_sys_compare`, fs/proc/proc_sysctl.c): among a thousand namespaces
//! each look takes a quarter of a millisecond, and six times as long when their entries are in no
//! cache.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, openat, statvfs};

use crate::mount;

/// How often a procfs is asked until a new one, which knows of no namespace, takes its place.
const LOOKS: u32 = 1000;

/// The value of `key` without its line end.
///
/// # Errors
/// The error of reading the file; `NotFound` when this kernel has no such setting.
pub fn read(key: &str) -> io::Result<String> {
    let mut size = 4096;
    loop {
        let mut value = vec![0; size];
        let length = open(key, OFlags::RDONLY)?.read(&mut value)?;
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
    open(key, OFlags::WRONLY)?.write_all(format!("{value}\n").as_bytes())
}

/// Adds the members of `value` to `key`, a list, and leaves those it has: what is written anywhere
/// but at the beginning of such a file is added (`proc_do_large_bitmap`, kernel/sysctl.c).
///
/// # Errors
/// The error of writing the file.
pub fn add(key: &str, value: &str) -> io::Result<()> {
    open(key, OFlags::WRONLY)?.write_all_at(value.as_bytes(), 1)
}

fn open(key: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC;
    let key = Path::new("sys").join(key);
    let file = match own().filter(|_own| !is_read_only()) {
        Some(own) => openat(&*own, key, flags, Mode::empty())?,
        None => openat(CWD, Path::new("/proc").join(key), flags, Mode::empty())?,
    };
    Ok(File::from(file))
}

/// Whether somebody wants no setting changed: ours would know nothing of that.
fn is_read_only() -> bool {
    statvfs("/proc/sys").is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// `None` where the process may not have one.
fn own() -> Option<Arc<OwnedFd>> {
    static OWN: Mutex<Option<(Arc<OwnedFd>, u32)>> = Mutex::new(None);
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *own {
        Some((root, looks)) if *looks < LOOKS => {
            *looks += 1;
            Some(Arc::clone(root))
        }
        stale => {
            let root = Arc::new(mount::detached_virtual("proc").ok()?);
            *stale = Some((Arc::clone(&root), 1));
            Some(root)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::mount::MountFlags;

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
    fn settings_are_looked_up_where_nobody_else_looks() {
        let device = |file: File| file.metadata().unwrap().dev();
        let key = "net/ipv4/ip_forward";
        let everybodys = device(File::open(format!("/proc/sys/{key}")).unwrap());
        let first = device(open(key, OFlags::RDONLY).unwrap());
        assert_ne!(first, everybodys);
        // The first one may go, so that its number is free again; two at once have different ones.
        let held = own().unwrap();
        let replaced = (0..=LOOKS).any(|_| device(open(key, OFlags::RDONLY).unwrap()) != first);
        assert!(replaced, "still {held:?}");
    }

    #[test]
    fn what_is_read_only_for_all_stays_as_it_is() {
        let key = "net/ipv4/conf/default/arp_notify";
        let namespace = NetNs::create().expect("root is needed to create a network namespace");
        let refused = mount::in_private_namespace(|| {
            let settings = Path::new("/proc/sys");
            mount::bind(settings, settings, false, MountFlags::RDONLY)?;
            namespace.run(|| (write(key, "1"), read(key)))
        });
        let (written, read) = refused.unwrap();
        assert_eq!(
            written.unwrap_err().kind(),
            io::ErrorKind::ReadOnlyFilesystem
        );
        assert_eq!(read.unwrap(), "0");
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
