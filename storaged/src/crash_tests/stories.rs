//! The operations that are broken at each of their steps.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;

use api::id::Digest;
use api::storage::{
    ImageCreate, RootfsCreate, SnapshotCreate, VolumeClone, VolumeCreate, VolumePopulate,
    VolumePrune,
};

use crate::Storaged;

pub(super) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn import(storaged: &Storaged, files: &[(&str, &str)]) -> Option<Digest> {
    storaged
        .import_layer(None, None, &mut layer(files).as_slice())
        .ok()
        .map(|layer| layer.diff_id)
}

pub(super) fn image(diff_id: &Digest) -> ImageCreate {
    let rootfs = serde_json::json!({"type": "layers", "diff_ids": [diff_id]});
    ImageCreate {
        config: serde_json::json!({"rootfs": rootfs}).to_string(),
        tags: vec!["web".to_owned()],
    }
}

pub(super) fn rootfs(storaged: &Storaged, ephemeral: bool) -> bool {
    let image = storaged.image("web").unwrap().id;
    storaged
        .create_rootfs(RootfsCreate {
            container: "c1".to_owned(),
            image,
            ephemeral,
            storage_opt: BTreeMap::new(),
            user_namespace: String::new(),
        })
        .is_ok()
}

/// To this process, which drops it.
pub(super) fn handed(storaged: &Storaged) -> bool {
    let socket = storaged.layout.state().join("socket");
    drop(std::fs::remove_file(&socket));
    let _listener = UnixListener::bind(&socket).unwrap();
    storaged
        .hand_rootfs("c1", &socket)
        .is_ok_and(|mount| mount.handed)
}

pub(super) fn volume(storaged: &Storaged) -> bool {
    storaged
        .create_volume(VolumeCreate {
            name: "data".to_owned(),
            ..VolumeCreate::default()
        })
        .is_ok()
}

pub(super) fn populate(storaged: &Storaged) -> bool {
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged.populate_volume("data", request).is_ok()
}

/// A volume with a file, which has not been mounted.
pub(super) fn with_data(storaged: &Storaged) {
    assert!(volume(storaged));
    write(storaged, "one");
}

pub(super) fn write(storaged: &Storaged, content: &str) {
    let data = storaged.volume("data").unwrap().mountpoint;
    std::fs::write(Path::new(&data).join("f"), content).unwrap();
}

pub(super) fn content(state: &Path, volume: &str) -> Option<String> {
    std::fs::read_to_string(state.join(format!("volumes/{volume}/_data/f"))).ok()
}

pub(super) fn image_volume(storaged: &Storaged) -> bool {
    sized_volume(storaged, "loop")
}

pub(super) fn sized_volume(storaged: &Storaged, backend: &str) -> bool {
    let options = [("backend", backend), ("size", "8m")];
    storaged
        .create_volume(VolumeCreate {
            name: "data".to_owned(),
            driver_opts: options
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..VolumeCreate::default()
        })
        .is_ok()
}

pub(super) fn with_mounted_image(storaged: &Storaged) {
    assert!(image_volume(storaged));
    storaged.mount_volume("data", "m1").unwrap();
    write(storaged, "one");
}

pub(super) fn with_pruned(storaged: &Storaged) {
    with_data(storaged);
    assert!(prune(storaged));
}

pub(super) fn prune(storaged: &Storaged) -> bool {
    storaged.prune_volumes(&VolumePrune::default());
    storaged.volume("data").is_err() && storaged.trashed_volumes().len() == 1
}

pub(super) fn with_snapshot(storaged: &Storaged) {
    with_data(storaged);
    assert!(snapshot(storaged));
    write(storaged, "two");
}

pub(super) fn snapshot(storaged: &Storaged) -> bool {
    let request = SnapshotCreate {
        name: "then".to_owned(),
        live: false,
    };
    has_snapshot(storaged) || storaged.create_snapshot("data", &request).is_ok()
}

pub(super) fn has_snapshot(storaged: &Storaged) -> bool {
    !storaged.snapshots(Some("data")).unwrap().is_empty()
}

pub(super) fn clone(storaged: &Storaged) -> bool {
    let request = VolumeClone {
        name: "copy".to_owned(),
        snapshot: Some("then".to_owned()),
        ..VolumeClone::default()
    };
    storaged.volume("copy").is_ok() || storaged.clone_volume("data", request).is_ok()
}

pub(super) const FILES: [(&str, &str); 3] =
    [("srv/a", "one"), ("srv/d/b", "two"), ("etc/c", "three")];

/// One operation, what must be there before it, and what is there once it has succeeded.
pub(super) struct Story {
    pub(super) name: &'static str,
    pub(super) before: fn(&Storaged),
    pub(super) run: fn(&Storaged) -> bool,
    pub(super) done: fn(&Storaged, &Path) -> bool,
}

pub(super) fn with_image(storaged: &Storaged) {
    let diff_id = import(storaged, &FILES).unwrap();
    storaged.create_image(image(&diff_id)).unwrap();
}

pub(super) fn with_rootfs(storaged: &Storaged) {
    with_image(storaged);
    assert!(rootfs(storaged, false));
}

pub(super) fn with_volume(storaged: &Storaged) {
    with_rootfs(storaged);
    assert!(volume(storaged));
}

pub(super) fn is_complete(directory: &Path, files: &[(&str, &str)]) -> bool {
    files.iter().all(|(path, content)| {
        std::fs::read_to_string(directory.join(path)).is_ok_and(|found| found == *content)
    })
}

pub(super) fn diffs(storaged: &Storaged) -> Vec<std::path::PathBuf> {
    let rows = storaged.store.rows();
    rows.layers
        .values()
        .map(|row| storaged.layout.layer(&row.key).diff())
        .collect()
}

pub(super) const LAYERS: [Story; 8] = [
    Story {
        name: "import a layer",
        before: |_| (),
        run: |storaged| import(storaged, &FILES).is_some(),
        done: |storaged, _| {
            let diffs = diffs(storaged);
            assert!(
                diffs.iter().all(|diff| is_complete(diff, &FILES)),
                "a committed layer lost files"
            );
            !diffs.is_empty()
        },
    },
    Story {
        name: "create an image",
        before: |storaged| drop(import(storaged, &FILES).unwrap()),
        run: |storaged| {
            let diff_id = storaged.layers()[0].diff_id.clone();
            storaged.create_image(image(&diff_id)).is_ok()
        },
        done: |storaged, _| storaged.image("web").is_ok(),
    },
    Story {
        name: "remove an image",
        before: with_image,
        run: |storaged| {
            storaged.image("web").is_err() || storaged.remove_image("web", false).is_ok()
        },
        done: |storaged, _| storaged.image("web").is_err(),
    },
    Story {
        name: "create a root filesystem",
        before: with_image,
        run: |storaged| rootfs(storaged, true),
        done: |storaged, _| storaged.rootfs("c1").is_ok(),
    },
    Story {
        name: "mount a root filesystem",
        before: with_rootfs,
        run: |storaged| {
            storaged
                .mount_rootfs("c1")
                .is_ok_and(|mount| is_complete(Path::new(&mount.path), &FILES))
        },
        done: |storaged, _| storaged.store.rows().rootfs["c1"].mounted_in.is_some(),
    },
    Story {
        name: "hand over a root filesystem",
        before: with_rootfs,
        run: handed,
        done: |storaged, _| storaged.store.rows().rootfs["c1"].mounted_in.is_some(),
    },
    Story {
        name: "remove a root filesystem that was handed over",
        before: |storaged| {
            with_rootfs(storaged);
            assert!(handed(storaged));
        },
        run: |storaged| {
            storaged.unmount_rootfs("c1").is_ok() && storaged.remove_rootfs("c1").is_ok()
        },
        done: |storaged, _| storaged.rootfs("c1").is_err(),
    },
    Story {
        name: "remove a mounted root filesystem",
        before: |storaged| {
            with_rootfs(storaged);
            storaged.mount_rootfs("c1").unwrap();
        },
        run: |storaged| storaged.remove_rootfs("c1").is_ok(),
        done: |storaged, _| storaged.rootfs("c1").is_err(),
    },
];

pub(super) const VOLUMES: [Story; 10] = [
    Story {
        name: "create a volume",
        before: |_| (),
        run: volume,
        done: |storaged, state| {
            storaged.volume("data").is_ok() && state.join("volumes/data/_data").is_dir()
        },
    },
    Story {
        name: "remove a volume",
        before: |storaged| assert!(volume(storaged)),
        run: |storaged| storaged.volume("data").is_err() || storaged.remove_volume("data").is_ok(),
        done: |storaged, state| {
            storaged.volume("data").is_err() && !state.join("volumes/data").exists()
        },
    },
    Story {
        name: "populate a volume",
        before: with_volume,
        run: populate,
        done: |_, state| {
            let data = state.join("volumes/data/_data");
            let complete = is_complete(&data, &[("a", "one"), ("d/b", "two")]);
            assert!(
                complete || std::fs::read_dir(&data).unwrap().next().is_none(),
                "half a copy"
            );
            complete
        },
    },
    Story {
        name: "prune a volume",
        before: with_data,
        run: prune,
        done: |storaged, state| {
            let pruned = storaged.volume("data").is_err();
            let expected = (!pruned).then(|| "one".to_owned());
            assert_eq!(content(state, "data"), expected, "neither here nor there");
            pruned
        },
    },
    Story {
        name: "restore a volume",
        before: with_pruned,
        run: |storaged| storaged.volume("data").is_ok() || storaged.restore_volume("data").is_ok(),
        done: |storaged, state| {
            let back = storaged.volume("data").is_ok();
            assert_eq!(storaged.trashed_volumes().is_empty(), back);
            assert_eq!(content(state, "data").is_some(), back);
            back
        },
    },
    Story {
        name: "empty the trash",
        before: with_pruned,
        run: |storaged| {
            storaged.empty_trash();
            storaged.trashed_volumes().is_empty()
        },
        done: |storaged, _| storaged.trashed_volumes().is_empty(),
    },
    Story {
        name: "take a snapshot",
        before: with_data,
        run: snapshot,
        done: |storaged, state| {
            assert_eq!(content(state, "data").unwrap(), "one");
            has_snapshot(storaged)
        },
    },
    Story {
        name: "remove a snapshot",
        before: with_snapshot,
        run: |storaged| !has_snapshot(storaged) || storaged.remove_snapshot("data", "then").is_ok(),
        done: |storaged, _| !has_snapshot(storaged),
    },
    Story {
        name: "roll back",
        before: with_snapshot,
        run: |storaged| storaged.roll_back("data", "then").is_ok(),
        done: |storaged, state| {
            assert!(has_snapshot(storaged));
            let now = content(state, "data").expect("no content at all");
            assert!(now == "one" || now == "two", "{now}");
            now == "one"
        },
    },
    Story {
        name: "clone a volume",
        before: with_snapshot,
        run: clone,
        done: |storaged, state| {
            assert_eq!(content(state, "data").unwrap(), "two");
            let there = storaged.volume("copy").is_ok();
            assert_eq!(content(state, "copy"), there.then(|| "one".to_owned()));
            there
        },
    },
];

pub(super) const LOOPS: [Story; 5] = [
    Story {
        name: "create a volume in a file",
        before: |_| (),
        run: image_volume,
        done: |storaged, state| {
            storaged.volume("data").is_ok() && state.join("volumes/data/_image").is_file()
        },
    },
    Story {
        name: "grow a volume in a file",
        before: |storaged| assert!(image_volume(storaged)),
        run: |storaged| storaged.resize_volume("data", "12m").is_ok(),
        done: |storaged, _| storaged.volume("data").unwrap().options["size"] == "12m",
    },
    Story {
        name: "take a snapshot of a volume in a file that is mounted",
        before: with_mounted_image,
        run: snapshot,
        done: |storaged, state| {
            assert_eq!(content(state, "data").unwrap(), "one");
            write(storaged, "one");
            has_snapshot(storaged)
        },
    },
    Story {
        name: "roll a volume in a file back",
        before: |storaged| {
            with_mounted_image(storaged);
            assert!(snapshot(storaged));
            write(storaged, "two");
            storaged.unmount_volume("data", "m1").unwrap();
        },
        run: |storaged| storaged.roll_back("data", "then").is_ok(),
        done: |storaged, state| {
            storaged.mount_volume("data", "m1").unwrap();
            let now = content(state, "data").expect("no content at all");
            storaged.unmount_volume("data", "m1").unwrap();
            assert!(now == "one" || now == "two", "{now}");
            now == "one"
        },
    },
    Story {
        name: "populate a volume in a file",
        before: |storaged| {
            with_rootfs(storaged);
            assert!(image_volume(storaged));
        },
        run: populate,
        done: |storaged, state| {
            storaged.mount_volume("data", "m1").unwrap();
            let data = state.join("volumes/data/_data");
            let complete = is_complete(&data, &[("a", "one"), ("d/b", "two")]);
            let empty = std::fs::read_dir(&data).unwrap().next().is_none();
            storaged.unmount_volume("data", "m1").unwrap();
            assert!(complete || empty, "half a copy");
            complete
        },
    },
];
