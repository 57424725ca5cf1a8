//! What containers wrote becomes a layer, and what nobody needs goes, whichever driver there is.

use std::path::Path;

use api::storage::ImagePrune;

use super::stories::{FILES, LAYERS, Story, is_complete, with_image, with_rootfs};
use super::thin::{THIN, content};
use super::{Bed, DIRECTORIES, How, break_everywhere, mount_tmpfs, open_with};
use crate::Storaged;
use crate::config::Driver;

const VFS: Bed = Bed {
    mount: mount_tmpfs,
    open: |state, at, how| open_with(Driver::Vfs, state, at, how),
    assert_tidy: super::assert_tidy,
};

/// The changes of a container that runs.
const CHANGED: [(&str, &str); 2] = [FILES[0], ("srv/new", "four")];

fn with_changes(storaged: &Storaged) {
    with_rootfs(storaged);
    let root = storaged.mount_rootfs("c1").unwrap().path;
    std::fs::write(Path::new(&root).join("srv/new"), "four").unwrap();
    std::fs::remove_file(Path::new(&root).join("etc/c")).unwrap();
}

fn keeps_changes(storaged: &Storaged) {
    let root = storaged.mount_rootfs("c1").unwrap().path;
    let root = Path::new(&root);
    assert!(is_complete(root, &CHANGED), "what it wrote is gone");
    assert!(!root.join("etc/c").exists(), "what it removed is back");
}

/// With that of the image or without.
fn is_the_change(diff: &Path) -> bool {
    is_complete(diff, &CHANGED[1..]) && std::fs::read_to_string(diff.join("etc/c")).is_err()
}

const STORIES: [Story; 3] = [
    Story {
        name: "commit a container",
        before: with_changes,
        run: |storaged| storaged.commit_rootfs("c1").is_ok(),
        done: |storaged, _| {
            keeps_changes(storaged);
            let layers = storaged.layers();
            let top = layers.iter().find(|layer| layer.parent.is_some());
            if let Some(top) = top {
                let committed = content(storaged, &top.chain_id, is_the_change);
                assert!(committed, "a committed layer lost files");
            }
            top.is_some()
        },
    },
    Story {
        name: "unmount a root filesystem",
        before: with_changes,
        run: |storaged| storaged.unmount_rootfs("c1").is_ok(),
        done: |storaged, _| {
            let unmounted = storaged.store.rows().rootfs["c1"].mounted_in.is_none();
            keeps_changes(storaged);
            if unmounted {
                storaged.unmount_rootfs("c1").unwrap();
            }
            unmounted
        },
    },
    Story {
        name: "prune images",
        before: with_image,
        run: |storaged| {
            let all = ImagePrune {
                all: true,
                ..ImagePrune::default()
            };
            storaged.prune_images(&all).is_ok()
        },
        done: |storaged, _| storaged.images().is_empty(),
    },
];

/// Other drivers have a whole tree to read.
const EXPORT: Story = Story {
    name: "export a container",
    before: |storaged| {
        with_changes(storaged);
        storaged.unmount_rootfs("c1").unwrap();
    },
    run: |storaged| storaged.export_rootfs("c1", &mut std::io::sink()).is_ok(),
    done: |storaged, _| {
        keeps_changes(storaged);
        storaged.unmount_rootfs("c1").unwrap();
        true
    },
};

#[test]
fn a_crash_at_any_step_loses_nothing_of_a_container() {
    break_everywhere(&DIRECTORIES, &[EXPORT], How::Crash);
    for bed in [DIRECTORIES, VFS] {
        break_everywhere(&bed, &STORIES, How::Crash);
    }
}

#[test]
fn a_failure_at_any_step_loses_nothing_of_a_container() {
    break_everywhere(&DIRECTORIES, &[EXPORT], How::Fail);
    for bed in [DIRECTORIES, VFS] {
        break_everywhere(&bed, &STORIES, How::Fail);
    }
}

#[test]
fn a_crash_at_any_step_loses_nothing_of_a_container_on_a_thin_device() {
    break_everywhere(&THIN, &STORIES, How::Crash);
    break_everywhere(&THIN, &STORIES, How::Fail);
}

#[test]
fn a_crash_at_any_step_leaves_all_of_a_copy_or_nothing() {
    // Copies are mounted nowhere, and handed to nobody.
    let whole: Vec<Story> = LAYERS
        .into_iter()
        .filter(|story| !story.name.contains("hand") && !story.name.starts_with("mount"))
        .collect();
    for how in [How::Crash, How::Fail] {
        break_everywhere(&VFS, &whole, how);
    }
}
