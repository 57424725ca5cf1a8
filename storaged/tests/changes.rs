//! What a container changed: as a list, as a layer, and as part of the whole.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use api::id::Digest;
use api::storage::{Image, ImageCreate};
use storaged::Storaged;
use support::{Entry, State, config, create, dir, file, hard_link, image, ls, mounted, read};

fn base() -> [Entry; 11] {
    [
        dir("d"),
        file("d/kept", "kept"),
        file("d/changed", "old"),
        file("d/gone", "x"),
        dir("tree"),
        dir("tree/sub"),
        file("tree/sub/f", "deep"),
        file("tree/g", "g"),
        dir("again"),
        file("again/old", "x"),
        file("type", "file"),
    ]
}

/// One of each kind of change.
fn change(root: &Path) {
    std::fs::write(root.join("d/changed"), "new content").unwrap();
    std::fs::remove_file(root.join("d/gone")).unwrap();
    std::fs::write(root.join("new"), "new").unwrap();
    std::fs::hard_link(root.join("new"), root.join("new2")).unwrap();
    symlink("new", root.join("link")).unwrap();
    std::fs::create_dir(root.join("made")).unwrap();
    std::fs::write(root.join("made/in"), "in").unwrap();
    std::fs::rename(root.join("tree"), root.join("moved")).unwrap();
    std::fs::write(root.join("moved/sub/more"), "more").unwrap();
    std::fs::remove_dir_all(root.join("again")).unwrap();
    std::fs::create_dir(root.join("again")).unwrap();
    std::fs::write(root.join("again/young"), "y").unwrap();
    std::fs::remove_file(root.join("type")).unwrap();
    std::fs::create_dir(root.join("type")).unwrap();
}

const CHANGES: &str = "C /again, D /again/old, A /again/young, C /d, C /d/changed, D /d/gone, \
    A /link, A /made, A /made/in, A /moved, A /moved/g, A /moved/sub, A /moved/sub/f, \
    A /moved/sub/more, A /new, A /new2, D /tree, C /type";

fn listed(storaged: &Storaged, container: &str) -> String {
    let changes = storaged.rootfs_changes(container).unwrap();
    let lines: Vec<String> = changes
        .iter()
        .map(|change| {
            format!(
                "{} {}",
                ["C", "A", "D"][usize::from(change.kind)],
                change.path
            )
        })
        .collect();
    lines.join(", ")
}

#[test]
fn changes_are_found_mounted_and_not() {
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "i", &[&base()]);
    let root = mounted(&storaged, "c1", &image);
    assert_eq!(listed(&storaged, "c1"), "");
    change(&root);
    assert_eq!(listed(&storaged, "c1"), CHANGES);
    storaged.unmount_rootfs("c1").unwrap();
    assert_eq!(listed(&storaged, "c1"), CHANGES);
    assert!(state.leftovers().is_empty());
    assert!(storaged.rootfs_changes("nobody").is_err());
}

#[test]
fn what_was_written_without_being_changed_is_no_change() {
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "i", &[&base()]);
    let root = mounted(&storaged, "c1", &image);
    // Copied up, and as it was.
    drop(
        std::fs::File::options()
            .append(true)
            .open(root.join("d/kept"))
            .unwrap(),
    );
    assert_eq!(listed(&storaged, "c1"), "");
    // Another content under the old size and time is a change, although only reading tells.
    let time = std::fs::metadata(root.join("d/changed"))
        .unwrap()
        .modified()
        .unwrap();
    std::fs::write(root.join("d/changed"), "OLD").unwrap();
    let file = std::fs::File::options()
        .append(true)
        .open(root.join("d/changed"))
        .unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(listed(&storaged, "c1"), "C /d, C /d/changed");
}

fn image_of(storaged: &Storaged, tag: &str, diff_ids: &[Digest]) -> Image {
    storaged
        .create_image(ImageCreate {
            config: config(tag, diff_ids),
            tags: vec![tag.to_owned()],
        })
        .unwrap()
}

#[test]
fn a_commit_is_a_layer_that_shows_the_same() {
    let state = State::new();
    let storaged = state.open();
    let base_layer = support::import(&storaged, None, &base());
    let base_image = image_of(&storaged, "base", std::slice::from_ref(&base_layer.diff_id));
    let root = mounted(&storaged, "c1", &base_image);
    change(&root);
    for tag in ["running", "stopped"] {
        let layer = storaged.commit_rootfs("c1").unwrap();
        assert_eq!(layer.parent.as_ref(), Some(&base_layer.chain_id));
        let ids = [base_layer.diff_id.clone(), layer.diff_id];
        let image = image_of(&storaged, tag, &ids);
        let copy = mounted(&storaged, tag, &image);
        assert_eq!(ls(&copy), "again d link made moved new new2 type");
        assert_eq!(ls(copy.join("again")), "young");
        assert_eq!(ls(copy.join("d")), "changed kept");
        assert_eq!(ls(copy.join("moved/sub")), "f more");
        assert_eq!(read(copy.join("moved/sub/f")), "deep");
        assert_eq!(read(copy.join("d/changed")), "new content");
        assert_eq!(std::fs::metadata(copy.join("new2")).unwrap().nlink(), 2);
        assert_eq!(
            std::fs::read_link(copy.join("link")).unwrap(),
            Path::new("new")
        );
        assert_eq!(listed(&storaged, tag), "");
        if tag == "running" {
            storaged.unmount_rootfs("c1").unwrap();
        }
    }
    let running = storaged.image("running").unwrap();
    let stopped = storaged.image("stopped").unwrap();
    assert_eq!(
        running.chain_id, stopped.chain_id,
        "the same changes are the same layer"
    );
}

#[test]
fn an_export_imported_again_is_the_whole_in_one_layer() {
    let state = State::new();
    let storaged = state.open();
    let upper: &[Entry] = &[file("d/upper", "u"), hard_link("d/other", "d/upper")];
    let image = image(&storaged, "i", &[&base(), upper]);
    create(&storaged, "c1", &image, false);
    let mut flat = Vec::new();
    storaged.export_rootfs("c1", &mut flat).unwrap();
    let layer = storaged
        .import_layer(None, None, &mut flat.as_slice())
        .unwrap();
    let image = image_of(&storaged, "flat", &[layer.diff_id]);
    let copy = mounted(&storaged, "copy", &image);
    assert_eq!(ls(&copy), "again d tree type");
    assert_eq!(ls(copy.join("d")), "changed gone kept other upper");
    assert_eq!(std::fs::metadata(copy.join("d/other")).unwrap().nlink(), 2);
}

#[test]
fn names_longer_than_a_header_and_odd_times_survive_a_commit() {
    let state = State::on_ext4();
    let storaged = state.open();
    let layer = support::import(&storaged, None, &base());
    let image = image_of(&storaged, "i", std::slice::from_ref(&layer.diff_id));
    let root = mounted(&storaged, "c1", &image);
    let long = "n".repeat(250);
    std::fs::write(root.join(&long), "x").unwrap();
    symlink("t".repeat(200), root.join("far")).unwrap();
    let before = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    let file = std::fs::File::options()
        .append(true)
        .open(root.join(&long))
        .unwrap();
    file.set_modified(before).unwrap();
    rustix::fs::setxattr(
        root.join(&long),
        "user.note",
        b"\xff\0",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let ids = [layer.diff_id, storaged.commit_rootfs("c1").unwrap().diff_id];
    let copy = mounted(&storaged, "copy", &image_of(&storaged, "j", &ids));
    let found = std::fs::metadata(copy.join(&long)).unwrap();
    assert_eq!(found.modified().unwrap(), before);
    assert_eq!(
        std::fs::read_link(copy.join("far")).unwrap(),
        Path::new(&"t".repeat(200))
    );
    let mut value = [0; 2];
    rustix::fs::getxattr(copy.join(&long), "user.note", &mut value).unwrap();
    assert_eq!(&value, b"\xff\0");
}
