//! Volumes that are subvolumes of a btrfs, with limits of their own.

use std::path::Path;
use std::process::Command;

use api::storage::VolumeCreate;
use rustix::mount::MountFlags;
use sys::loop_device::LoopDevice;

use super::stories::{Story, VOLUMES, content, write};
use super::{Bed, DIRECTORIES, How, break_everywhere, mount_tmpfs};
use crate::Storaged;

const BYTES: u64 = 512 << 20;

const BTRFS: Bed = Bed {
    mount: |state| mount_made(state, &["mkfs.btrfs", "-q"], "btrfs"),
    ..DIRECTORIES
};

/// Mounts a filesystem that is made for it, in a file of a tmpfs.
pub(super) fn mount_made(state: &Path, mkfs: &[&str], kind: &str) {
    mount_tmpfs(state);
    let image = state.join("disk");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(BYTES)
        .unwrap();
    let mut program = Command::new(mkfs[0]);
    let output = program.args(&mkfs[1..]).arg(&image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let disk = LoopDevice::attach(&image).unwrap();
    let node = disk.path().to_string_lossy().into_owned();
    sys::mount::filesystem(kind, &node, state, MountFlags::empty(), "").unwrap();
}

fn limited(storaged: &Storaged) -> bool {
    let request = VolumeCreate {
        name: "data".to_owned(),
        driver_opts: [("size".to_owned(), "8m".to_owned())].into(),
        ..VolumeCreate::default()
    };
    storaged.create_volume(request).is_ok()
}

const LIMITED: [Story; 2] = [
    Story {
        name: "create a volume with a limit",
        before: |_| (),
        run: limited,
        done: |storaged, state| {
            let there = storaged.volume("data").is_ok();
            if there {
                assert!(!takes(state, 16), "it has no limit");
            }
            there
        },
    },
    Story {
        name: "let a volume with a limit grow",
        before: |storaged| {
            assert!(limited(storaged));
            write(storaged, "one");
        },
        run: |storaged| storaged.resize_volume("data", "24m").is_ok(),
        done: |storaged, state| {
            assert_eq!(content(state, "data").unwrap(), "one");
            let grown = storaged.volume("data").unwrap().options["size"] == "24m";
            assert_eq!(takes(state, 16), grown, "its limit is not what it says");
            grown
        },
    },
];

/// Whether as many megabytes fit into the volume.
fn takes(state: &Path, megabytes: usize) -> bool {
    let path = state.join("volumes/data/_data/large");
    let written = std::fs::write(&path, vec![1; megabytes << 20])
        .and_then(|()| std::fs::File::open(&path)?.sync_all());
    std::fs::remove_file(&path).unwrap();
    written.is_ok()
}

#[test]
fn a_crash_at_any_step_leaves_all_of_a_subvolume_or_nothing() {
    for how in [How::Crash, How::Fail] {
        break_everywhere(&BTRFS, &VOLUMES, how);
        break_everywhere(&BTRFS, &LIMITED, how);
    }
}
