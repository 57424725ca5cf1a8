//! Overlays that are only read, and mounted nowhere.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::mount::{
    OverlayApi, open_path, option_page, set_directory, unmount, with_working_directory,
};

impl OverlayApi {
    /// The root of an overlay of two or more directories, top first, without an upper layer. It
    /// lives as long as the descriptor.
    ///
    /// Before `lowerdir+` a mount must have a place: it is mounted on `scratch`, an empty directory
    /// of the caller's, for the moment it takes to open it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn view(self, lowers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd> {
        match self {
            Self::Layered => view_layered(lowers),
            Self::OptionPage => view_option_page(lowers, scratch),
        }
    }
}

/// A writable layer below keeps where its renamed directories came from, and may have files whose
/// data are those of a layer below it.
const OPTIONS: [(&str, &str); 2] = [("redirect_dir", "follow"), ("metacopy", "on")];

fn view_layered(lowers: &[PathBuf]) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut stand_ins = Vec::new();
    fsconfig_set_string(&context, "source", "overlay")?;
    for lower in lowers {
        set_directory(&context, "lowerdir+", lower, &mut stand_ins)?;
    }
    for (key, value) in OPTIONS {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?;
    // What `fsmount(2)` gives is an O_PATH descriptor.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&mount, c".", flags, Mode::empty())?)
}

fn view_option_page(lowers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd> {
    let lowers = lowers
        .iter()
        .map(|path| open_path(path))
        .collect::<io::Result<Vec<_>>>()?;
    let numbers: Vec<String> = lowers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut options = format!("lowerdir={}", numbers.join(":"));
    for (key, value) in OPTIONS {
        options.push_str(&format!(",{key}={value}"));
    }
    let options = option_page(options)?;
    with_working_directory(Path::new("/proc/thread-self/fd"), || {
        rustix::mount::mount(
            "overlay",
            scratch,
            "overlay",
            MountFlags::RDONLY,
            options.as_c_str(),
        )?;
        Ok(())
    })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(scratch, flags, Mode::empty());
    unmount(scratch)?;
    Ok(opened?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn shows_the_upper_file(api: OverlayApi) {
        crate::mount::enter_private_namespace().unwrap();
        let root = tempfile::tempdir().unwrap();
        let lowers: Vec<PathBuf> = ["a", "b"].map(|name| root.path().join(name)).to_vec();
        for (lower, content) in lowers.iter().zip(["upper", "lower"]) {
            std::fs::create_dir(lower).unwrap();
            std::fs::write(lower.join("f"), content).unwrap();
        }
        let scratch = root.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        let view = api.view(&lowers, &scratch).unwrap();
        assert!(!crate::mount::is_mount_root(&scratch).unwrap());
        let open = |flags| rustix::fs::openat(view.as_fd(), "f", flags, Mode::empty());
        let mut content = [0; 5];
        rustix::io::read(open(OFlags::RDONLY).unwrap(), &mut content).unwrap();
        assert_eq!(&content, b"upper");
        assert_eq!(open(OFlags::WRONLY).unwrap_err(), rustix::io::Errno::ROFS);
    }

    #[test]
    fn a_view_is_mounted_nowhere_and_cannot_be_written() {
        for api in OverlayApi::of_this_kernel() {
            shows_the_upper_file(api);
        }
    }
}
