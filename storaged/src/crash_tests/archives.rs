//! Volumes that come from archives, and go into them.

use std::fs::File;
use std::path::{Path, PathBuf};

use api::storage::VolumeImport;

use super::stories::{Story, image_volume, sized_volume, volume, write};
use super::thin::THIN;
use super::{DIRECTORIES, How, break_everywhere};
use crate::Storaged;
use crate::volume::VolumeError;

fn archive(storaged: &Storaged) -> PathBuf {
    storaged.layout.state().join("archive")
}

/// What the file of a volume holds, wherever the volume is.
pub(super) fn content(storaged: &Storaged, name: &str) -> Option<String> {
    let mounted = match storaged.mount_volume(name, "look") {
        Err(VolumeError::NotFound(_)) => return None,
        mounted => mounted.unwrap(),
    };
    let content = std::fs::read_to_string(mounted.join("f")).unwrap();
    storaged.unmount_volume(name, "look").unwrap();
    Some(content)
}

pub(super) fn put(storaged: &Storaged, content: &str) {
    storaged.mount_volume("data", "put").unwrap();
    write(storaged, content);
    storaged.unmount_volume("data", "put").unwrap();
}

pub(super) fn export(storaged: &Storaged) -> bool {
    let mut archive = File::create(archive(storaged)).unwrap();
    storaged.export_volume("data", false, &mut archive).is_ok()
}

pub(super) fn import(storaged: &Storaged, request: VolumeImport) -> bool {
    let mut archive = File::open(archive(storaged)).unwrap();
    storaged.volume("copy").is_ok()
        || storaged
            .import_volume("copy", request, &mut archive)
            .is_ok()
}

/// Whole, or not there; and the one that was exported as it was.
pub(super) fn is_imported(storaged: &Storaged, _state: &Path) -> bool {
    assert_eq!(content(storaged, "data").unwrap(), "one");
    let there = storaged.volume("copy").is_ok();
    let expected = there.then(|| "one".to_owned());
    assert_eq!(content(storaged, "copy"), expected);
    there
}

fn is_kept(storaged: &Storaged, _state: &Path) -> bool {
    assert_eq!(content(storaged, "data").unwrap(), "one");
    true
}

fn exported(storaged: &Storaged) {
    put(storaged, "one");
    assert!(export(storaged));
}

const DIRECTORY: Story = Story {
    name: "import a volume",
    before: |storaged| {
        assert!(volume(storaged));
        exported(storaged);
    },
    run: |storaged| import(storaged, VolumeImport::default()),
    done: is_imported,
};

const FILE: [Story; 2] = [
    Story {
        name: "export a volume in a file",
        before: |storaged| {
            assert!(image_volume(storaged));
            put(storaged, "one");
        },
        run: export,
        done: is_kept,
    },
    Story {
        name: "import a volume in a file",
        before: |storaged| {
            assert!(image_volume(storaged));
            exported(storaged);
        },
        run: |storaged| import(storaged, VolumeImport::default()),
        done: is_imported,
    },
];

const DEVICE: [Story; 2] = [
    Story {
        name: "export a thin volume",
        before: |storaged| {
            assert!(sized_volume(storaged, "thin"));
            put(storaged, "one");
        },
        run: export,
        done: is_kept,
    },
    Story {
        name: "import a thin volume",
        before: |storaged| {
            assert!(sized_volume(storaged, "thin"));
            exported(storaged);
        },
        run: |storaged| import(storaged, VolumeImport::default()),
        done: is_imported,
    },
];

fn break_all(how: How) {
    break_everywhere(&DIRECTORIES, &[DIRECTORY], how);
    break_everywhere(&DIRECTORIES, &FILE, how);
    break_everywhere(&THIN, &[DIRECTORY], how);
    break_everywhere(&THIN, &DEVICE, how);
}

#[test]
fn a_crash_at_any_step_imports_all_of_a_volume_or_nothing() {
    break_all(How::Crash);
}

#[test]
fn a_failure_at_any_step_imports_all_of_a_volume_or_nothing() {
    break_all(How::Fail);
}
