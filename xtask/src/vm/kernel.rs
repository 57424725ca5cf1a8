//! A kernel to boot: its image, a disk with its modules, and the first root file system that finds
//! the disks.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use super::disk;
use super::matrix::Kernel;
use super::userland::Userland;
use crate::apt::Suite;
use crate::process;

/// To be changed with what is made here, so that old files are not used.
const RECIPE: &str = "1";
/// Depends on the newest kernel of the suite.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What the first root file system needs to see a disk.
const DISK_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];
const INIT: &str = include_str!("guest/initramfs.sh");

#[derive(Debug)]
pub(super) struct Boot {
    pub(super) image: PathBuf,
    pub(super) first_root: PathBuf,
    pub(super) modules: PathBuf,
}

/// Makes what is missing of it below `home`.
pub(super) fn prepare(home: &Path, kernel: &Kernel, userland: &Userland) -> Result<Boot> {
    let dir = home.join("kernels").join(&kernel.name);
    let boot = Boot {
        image: dir.join("vmlinuz"),
        first_root: dir.join("initramfs"),
        modules: dir.join("modules.img"),
    };
    let made_of = format!("{RECIPE} {} {INIT}", kernel.suite);
    let note = dir.join("made-of");
    if fs::read_to_string(&note).is_ok_and(|old| old == made_of) {
        return Ok(boot);
    }
    println!("vm: preparing Linux {}", kernel.name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let scratch = tempfile::tempdir_in(&dir).context("scratch directory")?;
    let suite = Suite::open(home, &kernel.suite)?;
    let tree = scratch.path().join("tree");
    suite.unpack(&packages(&suite)?, &tree)?;
    let modules = Modules::stage(&tree, scratch.path())?;
    modules.depmod(userland)?;
    fs::copy(vmlinuz(&tree, &modules)?, &boot.image).context("kernel image")?;
    fs::write(&boot.first_root, first_root(&modules)?).context("first root file system")?;
    disk::write(&scratch.path().join("lib/modules"), &boot.modules, 0)?;
    fs::write(&note, made_of).with_context(|| note.display().to_string())?;
    Ok(boot)
}

/// The packages with the image and with the modules: one, or several in suites that split them.
fn packages(suite: &Suite) -> Result<Vec<String>> {
    let names = suite.dependencies(PACKAGE)?;
    let image = names
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{PACKAGE} depends on no kernel"))?;
    let parts = ["linux-binary-", "linux-modules-"]
        .map(|part| image.replacen("linux-image-", part, 1))
        .into_iter()
        .filter(|part| suite.has(part))
        .collect::<Vec<_>>();
    Ok([vec![image], parts].concat())
}

fn vmlinuz(tree: &Path, modules: &Modules) -> Result<PathBuf> {
    let places = [
        tree.join("boot")
            .join(format!("vmlinuz-{}", modules.version)),
        modules.dir().join("vmlinuz"),
    ];
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("the package of {} has no kernel image", modules.version))
}

/// Modules below `lib/modules/VERSION` of a directory.
struct Modules {
    base: PathBuf,
    version: String,
}

impl Modules {
    /// Moves them to `base` from where the packages have them.
    fn stage(tree: &Path, base: &Path) -> Result<Self> {
        let places = [tree.join("lib/modules"), tree.join("usr/lib/modules")];
        let from = places.into_iter().find(|place| place.is_dir());
        let from = from.context("the kernel's packages have no modules")?;
        fs::create_dir_all(base.join("lib")).context("lib")?;
        let to = base.join("lib/modules");
        fs::rename(&from, &to).with_context(|| from.display().to_string())?;
        let mut entries = fs::read_dir(&to).with_context(|| to.display().to_string())?;
        let entry = entries.next().context("no directory of modules")??;
        let version = entry.file_name().to_string_lossy().into_owned();
        Ok(Self {
            base: base.to_owned(),
            version,
        })
    }

    fn dir(&self) -> PathBuf {
        self.base.join("lib/modules").join(&self.version)
    }

    /// Writes the tables of dependencies and aliases, which packages come without.
    fn depmod(&self, userland: &Userland) -> Result<()> {
        process::output(
            Command::new(userland.tree.join("usr/bin/kmod"))
                .arg0("depmod")
                .env("LD_LIBRARY_PATH", userland.libraries())
                .arg("-b")
                .arg(&self.base)
                .arg(&self.version),
        )
        .map(drop)
    }

    /// Paths of the modules `wanted` and of all they need, in the order of loading.
    fn closure(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let table = self.dir().join("modules.dep");
        let table = fs::read_to_string(&table).with_context(|| table.display().to_string())?;
        let names = wanted.iter().flat_map(|name| in_order(&table, name));
        let mut seen = BTreeSet::new();
        Ok(names
            .filter(|path| seen.insert(path.clone()))
            .map(|path| self.dir().join(path))
            .collect())
    }
}

/// What of modules.dep(5) leads to `name`, its dependencies first. A module that is built in has no
/// line.
fn in_order(table: &str, name: &str) -> Vec<String> {
    let file = format!("/{name}.ko");
    let Some((path, needs)) = table.lines().find_map(|line| {
        let (path, needs) = line.split_once(':')?;
        let plain = path.strip_suffix(".xz").unwrap_or(path);
        plain.ends_with(&file).then_some((path, needs))
    }) else {
        return Vec::new();
    };
    // Each comes before what it depends on itself.
    let mut order: Vec<String> = needs.split_whitespace().map(str::to_owned).collect();
    order.reverse();
    order.push(path.to_owned());
    order
}

fn first_root(modules: &Modules) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.directory(dir);
    }
    let busybox = process::find("busybox").context("busybox-static is not installed")?;
    archive.file("bin/busybox", &read(&busybox)?);
    archive.file("init", INIT.as_bytes());
    for (index, path) in modules.closure(&DISK_MODULES)?.iter().enumerate() {
        archive.file(&format!("modules/{index:02}.ko"), &plain(path)?);
    }
    Ok(archive.finish())
}

/// What is in a module's file; insmod knows no compression.
fn plain(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return read(path);
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("xz")?;
    ensure!(output.status.success(), "xz {}", path.display());
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs() {
        let table = "kernel/a/virtio_blk.ko.xz: kernel/b/virtio.ko.xz kernel/b/virtio_ring.ko.xz\n\
             kernel/b/virtio.ko.xz: kernel/b/virtio_ring.ko.xz\n";
        let expected = [
            "kernel/b/virtio_ring.ko.xz",
            "kernel/b/virtio.ko.xz",
            "kernel/a/virtio_blk.ko.xz",
        ];
        assert_eq!(in_order(table, "virtio_blk"), expected);
        assert!(in_order(table, "virtio_pci").is_empty());
    }
}
