//! The driver that copies: it shows what overlay2 shows, works where overlayfs does not, and the two
//! leave each other's images alone.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use api::storage::{StorageCheck, VolumeCreate};
use storaged::{DriverName, Options, StorageConfig, Storaged};
use support::{Entry, State, archive, dir, file, hard_link, image, ls, mounted, read, symlink};

fn config(driver: DriverName) -> StorageConfig {
    StorageConfig {
        driver: Some(driver),
        ..StorageConfig::default()
    }
}

/// Layers that hide, replace and delete in every way there is.
fn stack() -> [Vec<Entry>; 3] {
    [
        vec![
            dir("d"),
            file("d/f1", "low1"),
            file("d/f2", "low2"),
            file("d/f3", "low3"),
            dir("d/keep"),
            file("d/keep/in", "x"),
            dir("o"),
            file("o/hidden", "hid"),
            dir("gone"),
            file("gone/f", "x"),
            dir("again"),
            file("again/old", "x"),
            file("plain", "file below"),
            dir("real"),
            file("real/below", "b"),
            symlink("way", "real"),
            file("one", "same"),
            hard_link("other", "one"),
        ],
        vec![
            file("d/f2", "up"),
            file("d/f4", "new"),
            file("d/.wh.f3", ""),
            file("o/.wh..wh..opq", ""),
            file("o/only", "seen"),
            file(".wh.gone", ""),
            file(".wh.again", ""),
            file("again/new", "y"),
            dir("plain"),
            file("plain/f", "directory above"),
            // Not through the link below: as in a stack, a directory takes its place.
            file("way/f", "w"),
            file("one", "changed"),
            file(".wh.never-was", ""),
            file("no/such/.wh.thing", ""),
        ],
        vec![
            // Brought by this layer before and after the deletion: it stays.
            dir("late"),
            file("late/own", "o"),
            file(".wh.late", ""),
            file("d/keep/own", "o"),
            file("d/.wh.keep", ""),
        ],
    ]
}

fn tree(root: &Path, below: &Path, out: &mut Vec<String>) {
    let mut names: Vec<_> = std::fs::read_dir(root.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    for name in names {
        let path = below.join(name);
        let stat = std::fs::symlink_metadata(root.join(&path)).unwrap();
        let content = if stat.is_file() {
            read(root.join(&path))
        } else {
            format!("{:?}", stat.file_type())
        };
        let facts = (stat.mode(), stat.uid(), stat.mtime());
        out.push(format!("{} {facts:?} {content}", path.display()));
        if stat.is_dir() {
            tree(root, &path, out);
        }
    }
}

#[test]
fn both_drivers_show_the_same_and_give_the_same_archives() {
    let mut shown = Vec::new();
    for driver in [DriverName::Overlay2, DriverName::Vfs] {
        let state = State::new();
        let storaged = state.open_with(config(driver));
        assert_eq!(storaged.driver(), driver.name());
        let stack = stack();
        let layers: Vec<&[Entry]> = stack.iter().map(Vec::as_slice).collect();
        let image = image(&storaged, "i", &layers);
        let root = mounted(&storaged, "c1", &image);
        let mut lines = Vec::new();
        tree(&root, Path::new(""), &mut lines);
        shown.push(lines);
        let mut at = image.chain_id;
        for entries in stack.iter().rev() {
            let chain = at.unwrap();
            let mut bytes = Vec::new();
            storaged.export_layer(&chain, &mut bytes).unwrap();
            assert!(bytes == archive(entries), "{driver:?}");
            at = storaged.layer(&chain).unwrap().parent;
        }
        let request = StorageCheck {
            deep: true,
            repair: false,
        };
        let report = storaged.check(&request).unwrap();
        assert!(report.is_well(), "{driver:?}: {:?}", report.differences);
    }
    // Times of directories that came without a member are those of the import.
    let without_times = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .filter(|line| !line.contains("is_dir"))
            .cloned()
            .collect()
    };
    assert_eq!(without_times(&shown[0]), without_times(&shown[1]));
}

#[test]
fn changes_and_commits_of_copies_are_found_by_comparison() {
    let state = State::new();
    let storaged = state.open_with(config(DriverName::Vfs));
    let entries: &[Entry] = &[
        dir("d"),
        file("d/kept", "k"),
        file("d/old", "o"),
        file("gone", ""),
    ];
    let image = image(&storaged, "i", &[entries]);
    let root = mounted(&storaged, "c1", &image);
    assert!(storaged.rootfs_changes("c1").unwrap().is_empty());
    std::fs::write(root.join("d/new"), "n").unwrap();
    std::fs::write(root.join("d/old"), "changed").unwrap();
    std::fs::remove_file(root.join("gone")).unwrap();
    let changes = storaged.rootfs_changes("c1").unwrap();
    let lines: Vec<String> = changes
        .iter()
        .map(|change| format!("{}{}", change.kind, change.path))
        .collect();
    assert_eq!(lines, ["0/d", "1/d/new", "0/d/old", "2/gone"]);
    let layer = storaged.commit_rootfs("c1").unwrap();
    let mut flat = Vec::new();
    storaged.export_rootfs("c1", &mut flat).unwrap();
    assert!(layer.size > 0 && !flat.is_empty());
    // The image's own tree is untouched.
    let other = mounted(&storaged, "c2", &image);
    assert_eq!(ls(other.join("d")), "kept old");
    storaged.unmount_rootfs("c1").unwrap();
    storaged.remove_rootfs("c1").unwrap();
    for left in ["vfs/tmp", "vfs/trash"] {
        assert_eq!(ls(state.path().join(left)), "");
    }
}

#[test]
fn switching_the_driver_hides_images_and_switching_back_shows_them() {
    let state = State::new();
    let entries: &[Entry] = &[file("f", "overlay2")];
    let storaged = state.open();
    let first = image(&storaged, "web", &[entries]);
    mounted(&storaged, "c1", &first);
    let volume = VolumeCreate {
        name: "data".to_owned(),
        ..VolumeCreate::default()
    };
    storaged.create_volume(volume).unwrap();
    drop(storaged);
    let storaged = state.open_with(config(DriverName::Vfs));
    assert!(storaged.images().is_empty() && storaged.rootfs("c1").is_err());
    assert!(storaged.volume("data").is_ok(), "volumes are no driver's");
    let entries: &[Entry] = &[file("f", "vfs")];
    image(&storaged, "web", &[entries]);
    storaged.remove_image("web", false).unwrap();
    image(&storaged, "web", &[entries]);
    drop(storaged);
    let storaged = state.open();
    assert_eq!(storaged.images(), std::slice::from_ref(&first));
    let root = storaged.mount_rootfs("c1").unwrap().path;
    assert_eq!(read(Path::new(&root).join("f")), "overlay2");
    drop(storaged);
    let storaged = state.open_with(config(DriverName::Vfs));
    let image = storaged.image("web").unwrap();
    assert_eq!(read(mounted(&storaged, "c1", &image).join("f")), "vfs");
}

#[test]
fn copies_work_where_overlayfs_does_not() {
    let state = State::new();
    let storaged = state.open();
    // An overlay cannot be the upper layer of another one.
    let merged = mounted(&storaged, "c1", &image(&storaged, "a", &[]));
    let open = |driver| {
        let database = redb::Database::create(state.path().join("other.redb")).unwrap();
        Storaged::open(Options {
            state_dir: merged.clone(),
            database: Arc::new(database),
            config: config(driver),
            adopt: false,
        })
    };
    let error = open(DriverName::Overlay2).unwrap_err().to_string();
    assert!(error.contains("driver = \"vfs\""), "{error}");
    let inner = open(DriverName::Vfs).unwrap();
    let entries: &[Entry] = &[file("f", "inside")];
    let root = mounted(&inner, "c1", &image(&inner, "b", &[entries]));
    assert_eq!(read(root.join("f")), "inside");
}
