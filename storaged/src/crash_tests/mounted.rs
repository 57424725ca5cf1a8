//! Volumes that show what their options name, and who refers to them, by the plugin's verbs.

use std::path::Path;

use super::stories::{Story, volume};
use super::{DIRECTORIES, How, break_everywhere};
use crate::Storaged;

fn call(storaged: &Storaged, verb: &str) -> bool {
    let opts = r#"{"type":"tmpfs","device":"tmpfs"}"#;
    let body = format!(r#"{{"Name":"data","ID":"m1","Opts":{opts}}}"#);
    let (status, _) = storaged.plugin_call(&format!("/VolumeDriver.{verb}"), body.as_bytes());
    status == 200
}

fn with(storaged: &Storaged, verbs: &[&str]) {
    for verb in verbs {
        assert!(call(storaged, verb), "{verb}");
    }
}

fn is_mounted(state: &Path) -> bool {
    sys::mount::is_mount_root(&state.join("volumes/data/_data")).unwrap()
}

fn holders(storaged: &Storaged) -> Vec<String> {
    storaged.volume("data").unwrap().holders
}

const STORIES: [Story; 6] = [
    Story {
        name: "create a volume that shows a device",
        before: |_| (),
        run: |storaged| call(storaged, "Create"),
        done: |storaged, _| storaged.volume("data").is_ok(),
    },
    Story {
        name: "mount a volume",
        before: |storaged| with(storaged, &["Create"]),
        run: |storaged| call(storaged, "Mount"),
        done: |storaged, state| {
            let mounted = is_mounted(state);
            assert!(!mounted || holders(storaged) == ["m1"], "nobody has it");
            mounted
        },
    },
    Story {
        name: "unmount a volume",
        before: |storaged| with(storaged, &["Create", "Mount"]),
        run: |storaged| call(storaged, "Unmount"),
        done: |storaged, state| {
            let held = holders(storaged) == ["m1"];
            assert!(held || !is_mounted(state), "nobody has it");
            !held
        },
    },
    Story {
        name: "remove a volume that shows a device",
        before: |storaged| with(storaged, &["Create", "Mount", "Unmount"]),
        run: |storaged| call(storaged, "Remove"),
        done: |storaged, _| storaged.volume("data").is_err(),
    },
    Story {
        name: "refer to a volume",
        before: |storaged| assert!(volume(storaged)),
        run: |storaged| storaged.add_volume_user("data", "c1").is_ok(),
        done: |storaged, _| holders(storaged) == ["c1"],
    },
    Story {
        name: "refer to a volume no more",
        before: |storaged| {
            assert!(volume(storaged));
            storaged.add_volume_user("data", "c1").unwrap();
        },
        run: |storaged| storaged.remove_volume_user("data", "c1").is_ok(),
        done: |storaged, _| holders(storaged).is_empty(),
    },
];

#[test]
fn a_crash_at_any_step_leaves_no_mount_without_its_holder() {
    for how in [How::Crash, How::Fail] {
        break_everywhere(&DIRECTORIES, &STORIES, how);
    }
}
