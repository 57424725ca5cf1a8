//! Filesystems that are mounted in namespaces of other processes, by what the kernel says of these.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::mount::on_thread;
use crate::owner::clone_mount;
use crate::process;

/// A filesystem that some process sees.
#[derive(Debug)]
pub struct Elsewhere {
    /// One of those who see it.
    pub pid: u32,
    namespace: OwnedFd,
    place: Place,
}

/// Where in a namespace.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    target: PathBuf,
    device: u64,
}

/// An overlay that any process sees and whose upper directory is at a path that ends with `upper`.
///
/// Looks at each mount namespace once. Processes that end meanwhile are passed over; what is mounted
/// and in no process's namespace is not found.
///
/// # Errors
/// Fails when `/proc` is not mounted.
pub fn find_overlay(upper: &Path) -> io::Result<Option<Elsewhere>> {
    find(|line| is_overlay(line, upper))
}

/// The filesystem of the block device with this number, if any process sees its root. Otherwise as
/// [`find_overlay`].
///
/// # Errors
/// Fails when `/proc` is not mounted.
pub fn find_device(number: u64) -> io::Result<Option<Elsewhere>> {
    find(|line| line.root == b"/" && line.place.device == number)
}

fn find(is_wanted: impl Fn(&Line<'_>) -> bool) -> io::Result<Option<Elsewhere>> {
    let mut seen = BTreeSet::new();
    let looked = |pid| look_at(pid, &is_wanted, &mut seen).ok().flatten();
    Ok(process::all()?.find_map(looked))
}

fn look_at(
    pid: u32,
    is_wanted: impl Fn(&Line<'_>) -> bool,
    seen: &mut BTreeSet<Vec<u8>>,
) -> io::Result<Option<Elsewhere>> {
    // Whatever is opened below it is this process's, or an error once it has ended.
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = openat(CWD, format!("/proc/{pid}"), directory, Mode::empty())?;
    let name = readlinkat(&process, "ns/mnt", Vec::new())?.into_bytes();
    if seen.contains(&name) {
        return Ok(None);
    }
    let open = |name: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(&process, name, flags, Mode::empty())
    };
    let mut table = Vec::new();
    File::from(open("mountinfo")?).read_to_end(&mut table)?;
    seen.insert(name);
    let Some(place) = find_in(&table, is_wanted) else {
        return Ok(None);
    };
    Ok(Some(Elsewhere {
        pid,
        namespace: open("ns/mnt")?,
        place,
    }))
}

impl Elsewhere {
    /// The root of the filesystem alone, without what is mounted on top of it there.
    ///
    /// # Errors
    /// The kernel's, and `ESTALE` if it is no longer mounted there.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let mount = on_thread(|| {
            // SAFETY: see `with_working_directory` in `mount`: CLONE_FS parts only what is this
            // thread's, which setns(2) asks for, and the thread ends with this function.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
            let kind = Some(LinkNameSpaceType::Mount);
            move_into_link_name_space(self.namespace.as_fd(), kind)?;
            clone_mount(&self.place.target, false)
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&mount, c".", flags, Mode::empty())?;
        if rustix::fs::fstat(&root)?.st_dev != self.place.device {
            return Err(Errno::STALE.into());
        }
        Ok(root)
    }
}

/// Looks through a mountinfo (proc_pid_mountinfo(5)).
fn find_in(table: &[u8], is_wanted: impl Fn(&Line<'_>) -> bool) -> Option<Place> {
    let lines = table.split(|byte| *byte == b'\n').filter_map(parse);
    Some(lines.into_iter().find(is_wanted)?.place)
}

/// A mount.
struct Line<'a> {
    place: Place,
    root: &'a [u8],
    kind: &'a [u8],
    options: &'a [u8],
}

/// `ID PARENT MAJOR:MINOR ROOT TARGET OPTIONS FIELD… - KIND SOURCE OPTIONS`.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (root, target) = (words.next()?, words.next()?);
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let (kind, options) = (words.next()?, words.nth(1)?);
    let (major, minor) = device.split_once(':')?;
    let place = Place {
        target: unescaped(target),
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
    };
    Some(Line {
        place,
        root,
        kind,
        options,
    })
}

/// Whether it is the root of an overlay with such an upper directory.
fn is_overlay(line: &Line<'_>, upper: &Path) -> bool {
    let mut options = line.options.split(|byte| *byte == b',');
    let found = options.find_map(|option| option.strip_prefix(b"upperdir="));
    line.kind == b"overlay"
        && line.root == b"/"
        && found.is_some_and(|found| unescaped(found).ends_with(upper))
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let byte = digits.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        path.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command, Stdio};

    use rustix::fs::{Access, AtFlags};

    use super::*;
    use crate::mount::{Overlay, OverlayApi, enter_private_namespace, unmount};
    use crate::owner::attach;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"99 1 0:51 / /a\\040b rw shared:7 - overlay overlay rw,lowerdir=/l,upperdir=/s/k1/diff";
        let taken = parse(line).unwrap();
        assert_eq!(taken.place.target, Path::new("/a b"));
        assert_eq!(taken.place.device, rustix::fs::makedev(0, 51));
        assert!(is_overlay(&taken, Path::new("k1/diff")));
        assert!(!is_overlay(&taken, Path::new("1/diff")));
        let below = b"99 1 0:51 /sub /a rw - overlay overlay rw,upperdir=/s/k1/diff";
        assert!(!is_overlay(&parse(below).unwrap(), Path::new("k1/diff")));
    }

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn is_found_as_long_as_somebody_sees_it(api: OverlayApi) {
        enter_private_namespace().unwrap();
        let root = tempfile::tempdir().unwrap();
        let tmpfs = rustix::mount::MountFlags::empty();
        crate::mount::filesystem("tmpfs", "t", root.path(), tmpfs, "").unwrap();
        let key = format!("{api:?}");
        let [lower, work, merged] = ["l", "w", "m"].map(|name| root.path().join(name));
        let upper = root.path().join(&key).join("diff");
        for directory in [&lower, &work, &merged, &upper] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::create_dir(lower.join("sub")).unwrap();
        let overlay = Overlay {
            lowers: vec![lower],
            upper,
            work,
            volatile: false,
            metacopy: false,
        };
        assert!(overlay.names_upper());
        let wanted = Path::new(&key).join("diff");
        let mount = api.detached(&overlay, &merged).unwrap();
        assert!(!crate::mount::is_mount_root(&merged).unwrap());
        assert!(find_overlay(&wanted).unwrap().is_none(), "it is nowhere");

        attach(mount.as_fd(), &merged).unwrap();
        drop(mount);
        crate::mount::filesystem("tmpfs", "t", &merged.join("sub"), tmpfs, "").unwrap();
        fs::write(merged.join("sub/hidden"), "").unwrap();
        fs::write(merged.join("shown"), "").unwrap();
        let sleeper = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn();
        let sleeper = Sleeper(sleeper.unwrap());
        // It stays where it is; here the overlay goes.
        enter_private_namespace().unwrap();
        unmount(&merged.join("sub")).unwrap();
        unmount(&merged).unwrap();

        let found = find_overlay(&wanted).unwrap().expect("the sleeper sees it");
        assert_eq!(found.pid, sleeper.0.id());
        let opened = found.open().unwrap();
        let there = |path| rustix::fs::accessat(&opened, path, Access::EXISTS, AtFlags::empty());
        there("shown").unwrap();
        there("sub").unwrap();
        there("sub/hidden").unwrap_err();
        drop(sleeper);
        assert!(find_overlay(&wanted).unwrap().is_none());
    }

    #[test]
    fn an_overlay_is_found_as_long_as_somebody_sees_it() {
        for api in OverlayApi::of_this_kernel() {
            is_found_as_long_as_somebody_sees_it(api);
        }
    }
}
