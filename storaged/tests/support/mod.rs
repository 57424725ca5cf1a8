//! What the tests of this crate share: a state directory of one's own and archives to order.
//!
//! Each test runs in a mount namespace of its own, on a tmpfs of its own, so that nothing it mounts
//! or leaves is seen elsewhere and no flush waits for the host's disks. All of it needs root and
//! fails without.
#![expect(dead_code, reason = "each test binary uses its part")]
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]
#![expect(unreachable_pub, reason = "shared by test binaries")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::id::Digest;
use api::storage::{Image, ImageCreate, Layer, RootfsCreate, StorageCheck, VolumeCreate};
use api::{ApiError, ErrorCode};
use redb::Database;
use rustix::mount::MountFlags;
use storaged::{Options, StorageConfig, Storaged};
use sys::loop_device::LoopDevice;
use tempfile::TempDir;

pub struct State {
    directory: TempDir,
}

impl State {
    pub fn new() -> Self {
        sys::mount::enter_private_namespace().expect("a private mount namespace: run as root");
        let directory = tempfile::tempdir().unwrap();
        sys::mount::filesystem("tmpfs", "tmpfs", directory.path(), MountFlags::empty(), "")
            .unwrap();
        Self { directory }
    }

    /// On an ext4 that lies in that tmpfs: with attributes of users, which a tmpfs has since Linux 6.6,
    /// and owners that can be mapped, which it has since 6.3.
    pub fn on_ext4() -> Self {
        let state = Self::new();
        let disk = disk(state.path(), &["mkfs.ext4", "-q"]);
        let node = disk.path().to_string_lossy();
        sys::mount::filesystem("ext4", &node, state.path(), MountFlags::empty(), "").unwrap();
        state
    }

    /// On the filesystem of the temporary directory, as an installation would be.
    pub fn on_disk() -> Self {
        sys::mount::enter_private_namespace().expect("a private mount namespace: run as root");
        let directory = tempfile::tempdir().unwrap();
        let none = MountFlags::empty();
        sys::mount::bind(directory.path(), directory.path(), false, none).unwrap();
        Self { directory }
    }

    /// Below a directory of a filesystem that another state's test has mounted.
    pub fn inside(parent: PathBuf) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let none = MountFlags::empty();
        sys::mount::bind(directory.path(), directory.path(), false, none).unwrap();
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn open(&self) -> Storaged {
        self.open_with(StorageConfig::default())
    }

    pub fn open_with(&self, config: StorageConfig) -> Storaged {
        let database = Database::create(self.path().join("meta.redb")).unwrap();
        Storaged::open(Options {
            state_dir: self.path().to_owned(),
            database: Arc::new(database),
            config,
            adopt: false,
        })
        .unwrap()
    }

    /// Directories of layers, committed or not, and whatever waits to be deleted.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        [
            "overlay2/tmp",
            "overlay2/trash",
            "volumes/.staging",
            "volumes/.trash",
        ]
        .iter()
        .flat_map(|directory| list(&self.path().join(directory)))
        .collect()
    }

    pub fn layer_directories(&self) -> Vec<PathBuf> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        list(&self.path().join("overlay2"))
            .into_iter()
            .filter(|path| name(path).len() == 32)
            .collect()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Detaches whatever a failed test left mounted inside, too, and what is below an ext4.
        while match sys::mount::unmount(self.directory.path()) {
            Ok(was_mounted) => was_mounted,
            Err(error) => {
                let path = self.directory.path().display();
                eprintln!("cannot unmount {path}: {error}");
                false
            }
        } {}
    }
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

/// One member of an archive to build.
#[derive(Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub data: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub device: (u32, u32),
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn entry(path: impl AsRef<[u8]>, kind: u8) -> Entry {
    Entry {
        path: path.as_ref().to_vec(),
        kind,
        link: Vec::new(),
        data: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        device: (0, 0),
        pax: Vec::new(),
    }
}

pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
    Entry {
        data: data.as_ref().to_vec(),
        ..entry(path, b'0')
    }
}

pub fn dir(path: impl AsRef<[u8]>) -> Entry {
    Entry {
        mode: 0o755,
        ..entry(path, b'5')
    }
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry {
        link: target.as_ref().to_vec(),
        mode: 0o777,
        ..entry(path, b'2')
    }
}

pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry {
        link: target.as_ref().to_vec(),
        ..entry(path, b'1')
    }
}

impl Entry {
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub fn device(self, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..self
        }
    }

    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax
            .push((key.as_bytes().to_vec(), value.as_ref().to_vec()));
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        if !self.pax.is_empty() {
            let records = self
                .pax
                .iter()
                .flat_map(|(key, value)| pax_record(key, value))
                .collect();
            let header = Entry {
                data: records,
                pax: Vec::new(),
                ..entry("pax", b'x')
            };
            header.write(out);
        }
        out.extend(self.header().as_bytes());
        out.extend(&self.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }

    /// The header, with fields as given: `tar` itself would refuse hostile ones.
    pub fn header(&self) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        let fields = header.as_mut_bytes();
        fields[..self.path.len().min(100)].copy_from_slice(&self.path[..self.path.len().min(100)]);
        fields[157..157 + self.link.len()].copy_from_slice(&self.link);
        fields[156] = self.kind;
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header.set_size(self.data.len() as u64);
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        header.set_cksum();
        header
    }
}

pub fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [key, b"=", value, b"\n"].concat();
    let digits = (1..)
        .find(|digits| (digits + 1 + body.len()).to_string().len() == *digits)
        .unwrap();
    [format!("{} ", digits + 1 + body.len()).as_bytes(), &body].concat()
}

/// An archive with its end.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = unfinished(entries);
    bytes.extend([0; 1024]);
    bytes
}

/// An archive without its end.
pub fn unfinished(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        entry.write(&mut bytes);
    }
    bytes
}

/// An archive of one old GNU sparse file.
pub fn gnu_sparse(path: &str, data: &[(u64, &[u8])], size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(data.iter().map(|(_, bytes)| bytes.len() as u64).sum());
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(size);
    for (slot, (offset, bytes)) in gnu.sparse.iter_mut().zip(data) {
        slot.set_offset(*offset);
        slot.set_length(bytes.len() as u64);
    }
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    for (_, bytes) in data {
        archive.extend(*bytes);
    }
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

pub fn import(storaged: &Storaged, parent: Option<&Digest>, entries: &[Entry]) -> Layer {
    storaged
        .import_layer(parent, None, &mut archive(entries).as_slice())
        .unwrap()
}

/// An image of one layer per list of entries, tagged `tag`.
pub fn image(storaged: &Storaged, tag: &str, layers: &[&[Entry]]) -> Image {
    let mut diff_ids = Vec::new();
    let mut parent = None;
    for entries in layers {
        let layer = import(storaged, parent.as_ref(), entries);
        diff_ids.push(layer.diff_id);
        parent = Some(layer.chain_id);
    }
    storaged
        .create_image(ImageCreate {
            config: config(tag, &diff_ids),
            tags: vec![tag.to_owned()],
        })
        .unwrap()
}

pub fn config(author: &str, diff_ids: &[Digest]) -> String {
    serde_json::json!({
        "author": author,
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
}

/// A mounted root filesystem.
pub fn mounted(storaged: &Storaged, container: &str, image: &Image) -> PathBuf {
    create(storaged, container, image, false);
    PathBuf::from(storaged.mount_rootfs(container).unwrap().path)
}

pub fn create(storaged: &Storaged, container: &str, image: &Image, ephemeral: bool) {
    let request = RootfsCreate {
        container: container.to_owned(),
        image: image.id.clone(),
        ephemeral,
        storage_opt: BTreeMap::new(),
        user_namespace: String::new(),
    };
    storaged.create_rootfs(request).unwrap();
}

/// A request for a volume.
pub fn with_options(name: &str, options: &[(&str, &str)]) -> VolumeCreate {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    VolumeCreate {
        name: name.to_owned(),
        driver_opts: options.iter().map(own).collect(),
        ..VolumeCreate::default()
    }
}

#[track_caller]
pub fn refused<T: Debug>(result: Result<T, impl Into<ApiError>>, code: ErrorCode, words: &str) {
    let error: ApiError = match result {
        Ok(made) => panic!("it was accepted: {made:?}"),
        Err(error) => error.into(),
    };
    assert_eq!(error.code, code, "{}", error.message);
    assert!(error.message.contains(words), "{}", error.message);
    assert!(!error.message.contains('\n'), "{}", error.message);
}

/// Reads all there is: nothing differs.
#[track_caller]
pub fn is_well(storaged: &Storaged) {
    let request = StorageCheck {
        deep: true,
        repair: false,
    };
    let report = storaged.check(&request).unwrap();
    assert!(report.is_well(), "{:?}", report.differences);
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The names in a directory, sorted, with spaces between.
pub fn ls(directory: impl AsRef<Path>) -> String {
    let names: Vec<String> = list(directory.as_ref())
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.join(" ")
}

/// A filesystem made for one test, on a loop device of its own, below the state directory.
pub fn filesystem(state: &State, mkfs: &[&str], kind: &str, options: &str) -> Option<PathBuf> {
    let target = state.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    let disk = disk(state.path(), mkfs);
    let node = disk.path().to_string_lossy();
    match sys::mount::filesystem(kind, &node, &target, MountFlags::empty(), options) {
        Ok(()) => Some(target),
        Err(error) => {
            println!("this kernel has no {kind} with {options:?}: {error}");
            None
        }
    }
}

/// Makes a filesystem in a file of `directory`.
fn disk(directory: &Path, mkfs: &[&str]) -> LoopDevice {
    let image = directory.join("disk");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(512 << 20).unwrap();
    let output = std::process::Command::new(mkfs[0])
        .args(&mkfs[1..])
        .arg(&image)
        .output()
        .expect("cargo xtask setup test");
    assert!(output.status.success(), "{output:?}");
    LoopDevice::attach(&image).unwrap()
}
