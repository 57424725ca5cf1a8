//! The same for volumes on thin devices.

use api::id::VolumeName;

use super::stories::{
    Story, clone, has_snapshot, populate, prune, sized_volume, snapshot, with_rootfs, write,
};
use super::thin::THIN;
use super::{How, break_everywhere};
use crate::Storaged;
use crate::volume::VolumeError;

/// What the file of the volume `name` holds.
fn content(storaged: &Storaged, name: &str, file: &str) -> Option<String> {
    let mounted = match storaged.mount_volume(name, "look") {
        Err(VolumeError::NotFound(_)) => return None,
        mounted => mounted.unwrap(),
    };
    let content = std::fs::read_to_string(mounted.join(file)).ok();
    storaged.unmount_volume(name, "look").unwrap();
    content
}

fn put(storaged: &Storaged, content: &str) {
    storaged.mount_volume("data", "put").unwrap();
    write(storaged, content);
    storaged.unmount_volume("data", "put").unwrap();
}

fn with_data(storaged: &Storaged) {
    assert!(sized_volume(storaged, "thin"));
    put(storaged, "one");
}

fn with_snapshot(storaged: &Storaged) {
    with_data(storaged);
    assert!(snapshot(storaged));
    put(storaged, "two");
}

fn is_there(storaged: &Storaged) -> bool {
    let now = content(storaged, "data", "f");
    assert!(now.is_none() || now.as_deref() == Some("one"), "{now:?}");
    now.is_some()
}

const STORIES: [Story; 11] = [
    Story {
        name: "create a thin volume",
        before: |_| (),
        run: |storaged| sized_volume(storaged, "thin"),
        done: |storaged, _| {
            let there = storaged.volume("data").is_ok();
            if there {
                put(storaged, "one");
            }
            there
        },
    },
    Story {
        name: "remove a thin volume",
        before: with_data,
        run: |storaged| storaged.volume("data").is_err() || storaged.remove_volume("data").is_ok(),
        done: |storaged, _| !is_there(storaged),
    },
    Story {
        name: "prune a thin volume",
        before: with_data,
        run: |storaged| !storaged.trashed_volumes().is_empty() || prune(storaged),
        done: |storaged, _| !is_there(storaged),
    },
    Story {
        name: "restore a thin volume",
        before: |storaged| {
            with_data(storaged);
            assert!(prune(storaged));
        },
        run: |storaged| storaged.volume("data").is_ok() || storaged.restore_volume("data").is_ok(),
        done: |storaged, _| is_there(storaged),
    },
    Story {
        name: "empty the trash of a thin volume",
        before: |storaged| {
            with_data(storaged);
            assert!(prune(storaged));
        },
        run: |storaged| {
            storaged.empty_trash();
            storaged.trashed_volumes().is_empty()
        },
        done: |storaged, _| storaged.trashed_volumes().is_empty(),
    },
    Story {
        name: "take a snapshot of a thin volume that is mounted",
        before: |storaged| {
            with_data(storaged);
            storaged.mount_volume("data", "m1").unwrap();
        },
        run: snapshot,
        done: |storaged, _| {
            assert_eq!(content(storaged, "data", "f").unwrap(), "one");
            has_snapshot(storaged)
        },
    },
    Story {
        name: "remove a snapshot of a thin volume",
        before: with_snapshot,
        run: |storaged| !has_snapshot(storaged) || storaged.remove_snapshot("data", "then").is_ok(),
        done: |storaged, _| {
            assert_eq!(content(storaged, "data", "f").unwrap(), "two");
            !has_snapshot(storaged)
        },
    },
    Story {
        name: "roll a thin volume back",
        before: with_snapshot,
        run: |storaged| storaged.roll_back("data", "then").is_ok(),
        done: |storaged, _| {
            assert!(has_snapshot(storaged));
            let now = content(storaged, "data", "f").expect("no content at all");
            assert!(now == "one" || now == "two", "{now}");
            now == "one"
        },
    },
    Story {
        name: "clone a thin volume",
        before: with_snapshot,
        run: clone,
        done: |storaged, _| {
            assert_eq!(content(storaged, "data", "f").unwrap(), "two");
            let copy = content(storaged, "copy", "f");
            assert!(copy.is_none() || copy.as_deref() == Some("one"), "{copy:?}");
            copy.is_some()
        },
    },
    Story {
        name: "grow a thin volume",
        before: with_data,
        run: |storaged| storaged.resize_volume("data", "12m").is_ok(),
        done: |storaged, _| {
            assert!(is_there(storaged));
            storaged.volume("data").unwrap().options["size"] == "12m"
        },
    },
    Story {
        name: "populate a thin volume",
        before: |storaged| {
            with_rootfs(storaged);
            assert!(sized_volume(storaged, "thin"));
        },
        run: populate,
        done: |storaged, _| {
            let there = content(storaged, "data", "d/b");
            assert_eq!(there.is_some(), content(storaged, "data", "a").is_some());
            let name = VolumeName::parse("data").unwrap();
            assert_eq!(
                there.is_some(),
                storaged.store.rows().volumes[&name].populated
            );
            there.is_some()
        },
    },
];

#[test]
fn a_crash_at_any_step_leaves_all_of_a_thin_volume_or_nothing() {
    break_everywhere(&THIN, &STORIES, How::Crash);
}

#[test]
fn a_failure_at_any_step_leaves_all_of_a_thin_volume_or_nothing() {
    break_everywhere(&THIN, &STORIES, How::Fail);
}
