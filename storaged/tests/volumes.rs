//! Volumes: names, options, holders, removal, copy-up, and the plugin protocol.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink as make_symlink};
use std::path::{Path, PathBuf};

use api::storage::{VolumeCreate, VolumePopulate, VolumePrune};
use api::volume_plugin::{self as plugin, Reply};
use api::{ApiError, ErrorCode};
use serde_json::{Value, json};
use storaged::{Storaged, VolumeError};
use support::{
    State, create, dir, entry, file, hard_link, image, ls, mounted, read, symlink, with_options,
};

fn named(name: &str) -> VolumeCreate {
    VolumeCreate {
        name: name.to_owned(),
        ..VolumeCreate::default()
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, VolumeError>) -> ErrorCode {
    ApiError::from(result.expect_err("it was accepted")).code
}

#[test]
fn a_volume_is_a_directory_and_outlives_the_daemon() {
    let state = State::new();
    let storaged = state.open();
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let volume = storaged
        .create_volume(VolumeCreate {
            labels,
            ..named("data")
        })
        .unwrap();
    assert_eq!(
        volume.mountpoint,
        state.path().join("volumes/data/_data").to_str().unwrap()
    );
    assert_eq!(
        (
            volume.driver.as_str(),
            volume.scope.as_str(),
            volume.anonymous
        ),
        ("local", "local", false)
    );
    std::fs::write(Path::new(&volume.mountpoint).join("f"), "x").unwrap();
    assert_eq!(
        storaged.create_volume(named("data")).unwrap(),
        volume,
        "making it again is fine"
    );
    drop(storaged);
    let storaged = state.open();
    assert_eq!(storaged.volumes(), std::slice::from_ref(&volume));
    assert_eq!(read(Path::new(&volume.mountpoint).join("f")), "x");
    storaged.remove_volume("data").unwrap();
    assert!(!Path::new(&volume.mountpoint).exists());
    assert_eq!(code(storaged.remove_volume("data")), ErrorCode::NotFound);
    assert_eq!(code(storaged.volume("data")), ErrorCode::NotFound);
}

#[test]
fn an_anonymous_volume_has_a_random_name() {
    let state = State::new();
    let storaged = state.open();
    let volume = storaged.create_volume(VolumeCreate::default()).unwrap();
    assert!(volume.anonymous);
    assert_eq!(volume.name.as_str().len(), 64);
    assert_ne!(
        storaged
            .create_volume(VolumeCreate::default())
            .unwrap()
            .name,
        volume.name
    );
}

#[test]
fn bad_names_drivers_and_options_make_nothing() {
    let state = State::new();
    let storaged = state.open();
    let long = "0".repeat(300);
    for name in ["a b", "a/b", "-x", ".x", "a", "..", "../x", "a\0b", &long] {
        assert_eq!(
            code(storaged.create_volume(named(name))),
            ErrorCode::InvalidInput,
            "{name:?}"
        );
    }
    let driver = VolumeCreate {
        driver: "nodriver".to_owned(),
        ..named("vol")
    };
    assert!(
        storaged
            .create_volume(driver)
            .unwrap_err()
            .to_string()
            .contains("nodriver")
    );
    let error = storaged
        .create_volume(with_options("vol", &[("bogus", "1")]))
        .unwrap_err();
    assert!(error.to_string().contains("bogus"), "{error}");
    assert_eq!(storaged.volumes(), []);
    assert_eq!(ls(state.path().join("volumes")), ".staging .trash");
}

#[test]
fn holders_are_a_set_that_survives_a_restart() {
    let state = State::new();
    let storaged = state.open();
    storaged.create_volume(named("data")).unwrap();
    for _ in 0..2 {
        storaged.add_volume_user("data", "container-b").unwrap();
        storaged.add_volume_user("data", "container-a").unwrap();
    }
    drop(storaged);
    let storaged = state.open();
    let message = storaged.remove_volume("data").unwrap_err().to_string();
    assert_eq!(
        message,
        "unable to remove volume: remove data: volume is in use - [container-a, container-b]"
    );
    storaged.remove_volume_user("data", "container-a").unwrap();
    storaged
        .remove_volume_user("data", "container-a")
        .expect("twice is fine");
    assert_eq!(storaged.volume("data").unwrap().holders, ["container-b"]);
    assert_eq!(code(storaged.remove_volume("data")), ErrorCode::InUse);
    storaged.remove_volume_user("data", "container-b").unwrap();
    storaged.remove_volume("data").unwrap();
    assert_eq!(
        code(storaged.add_volume_user("data", "c1")),
        ErrorCode::NotFound
    );
    storaged
        .remove_volume_user("data", "c1")
        .expect("of no volume, too");
}

#[test]
fn a_device_is_mounted_for_its_first_and_unmounted_after_its_last_user() {
    let state = State::new();
    let storaged = state.open();
    let back = state.path().join("back");
    std::fs::create_dir(&back).unwrap();
    std::fs::write(back.join("f"), "deep").unwrap();
    let options = [
        ("type", "none"),
        ("o", "bind"),
        ("device", back.to_str().unwrap()),
    ];
    let volume = storaged
        .create_volume(with_options("bound", &options))
        .unwrap();
    let data = PathBuf::from(&volume.mountpoint);
    assert_eq!(volume.options["device"], back.to_str().unwrap());
    assert_eq!(ls(&data), "");
    for id in ["m1", "m2", "m1"] {
        assert_eq!(mount(&storaged, "bound", id).mountpoint, volume.mountpoint);
    }
    assert_eq!(read(data.join("f")), "deep");
    unmount(&storaged, "bound", "m1");
    assert_eq!(read(data.join("f")), "deep");
    assert_eq!(code(storaged.remove_volume("bound")), ErrorCode::InUse);
    for _ in 0..2 {
        unmount(&storaged, "bound", "m2");
    }
    assert_eq!(ls(&data), "");
    storaged.remove_volume("bound").unwrap();
    assert_eq!(read(back.join("f")), "deep", "the backing directory stays");
}

#[test]
fn a_tmpfs_has_its_size_and_a_device_that_is_missing_holds_nothing() {
    let state = State::new();
    let storaged = state.open();
    let tmpfs = [
        ("type", "tmpfs"),
        ("device", "tmpfs"),
        ("o", "size=1m,nosuid"),
    ];
    storaged
        .create_volume(with_options("memory", &tmpfs))
        .unwrap();
    let data = PathBuf::from(mount(&storaged, "memory", "m1").mountpoint);
    let error = std::fs::write(data.join("big"), vec![1; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    unmount(&storaged, "memory", "m1");

    let missing = [
        ("type", "none"),
        ("o", "bind"),
        ("device", "/no/such/place"),
    ];
    storaged
        .create_volume(with_options("missing", &missing))
        .unwrap();
    let (status, reply) = call(
        &storaged,
        plugin::MOUNT,
        json!({"Name": "missing", "ID": "m1"}),
    );
    assert_eq!(status, 500);
    assert!(reply.err.contains("/no/such/place"), "{}", reply.err);
    storaged
        .remove_volume("missing")
        .expect("a failed mount holds nothing");
}

#[test]
fn a_mount_left_by_a_crash_is_not_deleted_through() {
    let state = State::new();
    let storaged = state.open();
    let back = state.path().join("back");
    std::fs::create_dir(&back).unwrap();
    std::fs::write(back.join("precious"), "x").unwrap();
    let volume = storaged.create_volume(named("data")).unwrap();
    let data = PathBuf::from(&volume.mountpoint);
    // On the volume itself, and deeper, where nobody keeps account.
    sys::mount::bind(&back, &data, false, rustix::mount::MountFlags::empty()).unwrap();
    storaged.remove_volume("data").unwrap();
    storaged.create_volume(named("data")).unwrap();
    std::fs::create_dir(data.join("deep")).unwrap();
    sys::mount::bind(
        &back,
        &data.join("deep"),
        false,
        rustix::mount::MountFlags::empty(),
    )
    .unwrap();
    storaged.remove_volume("data").unwrap();
    assert_eq!(read(back.join("precious")), "x");
    assert_eq!(code(storaged.volume("data")), ErrorCode::NotFound);
}

#[test]
fn prune_takes_what_nobody_holds() {
    let state = State::new();
    let storaged = state.open();
    let anonymous = storaged.create_volume(VolumeCreate::default()).unwrap();
    let held = storaged.create_volume(VolumeCreate::default()).unwrap();
    storaged.add_volume_user(held.name.as_str(), "c1").unwrap();
    let label = |value: &str| BTreeMap::from([("app".to_owned(), value.to_owned())]);
    storaged
        .create_volume(VolumeCreate {
            labels: label("web"),
            ..named("web")
        })
        .unwrap();
    storaged
        .create_volume(VolumeCreate {
            labels: label("db"),
            ..named("db")
        })
        .unwrap();
    std::fs::write(Path::new(&anonymous.mountpoint).join("f"), vec![1; 100_000]).unwrap();

    let prune = |anonymous, labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        storaged.prune_volumes(&VolumePrune {
            anonymous,
            labels,
            ..VolumePrune::default()
        })
    };
    let first = prune(true, &[]);
    assert_eq!(first.deleted, [anonymous.name.as_str()]);
    assert!(
        (100_000..200_000).contains(&first.space_reclaimed),
        "{}",
        first.space_reclaimed
    );
    let web = prune(false, &["app=web"]);
    assert_eq!(
        (&web.deleted[..], web.space_reclaimed),
        (&["web".to_owned()][..], 0)
    );
    assert_eq!(prune(false, &["app", "other"]).deleted, [""; 0]);
    assert_eq!(prune(false, &[]).deleted, ["db"]);
    assert_eq!(storaged.volumes().len(), 1);
}

#[test]
fn image_data_is_copied_into_a_new_volume_with_all_it_is() {
    let state = State::on_ext4();
    let storaged = state.open();
    let image = image(
        &storaged,
        "i",
        &[
            &[
                dir("srv").mode(0o2750).owner(33, 34),
                file("srv/f", "content")
                    .mode(0o4711)
                    .owner(1, 2)
                    .pax("SCHILY.xattr.user.k", "v"),
                hard_link("srv/hard", "srv/f"),
                symlink("srv/soft", "/etc/passwd").owner(5, 6),
                dir("srv/sub").mode(0o700),
                file("srv/sub/deleted", "x"),
                file("srv/sub/kept", "y"),
                entry("srv/fifo", b'6'),
                symlink("way", "/srv"),
            ],
            &[file("srv/sub/.wh.deleted", "")],
        ],
    );
    create(&storaged, "c1", &image, false);
    let data = PathBuf::from(storaged.create_volume(named("data")).unwrap().mountpoint);
    let request = VolumePopulate {
        container: "c1".to_owned(),
        path: "/way".to_owned(),
    };
    storaged.populate_volume("data", request.clone()).unwrap();
    assert_eq!(ls(&data), "f fifo hard soft sub");
    assert_eq!(ls(data.join("sub")), "kept");
    let facts = |path: &str| {
        let stat = std::fs::symlink_metadata(data.join(path)).unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime())
    };
    assert_eq!(facts(""), (0o2750, 33, 34, 1_700_000_000));
    assert_eq!(facts("f"), (0o4711, 1, 2, 1_700_000_000));
    assert_eq!(facts("soft"), (0o777, 5, 6, 1_700_000_000));
    let inode = |path: &str| std::fs::metadata(data.join(path)).unwrap().ino();
    assert_eq!(inode("f"), inode("hard"));
    let mut value = [0u8; 8];
    let length = rustix::fs::getxattr(data.join("f"), "user.k", &mut value).unwrap();
    assert_eq!(&value[..length], b"v");
    assert!(
        storaged
            .rootfs("c1")
            .is_ok_and(|rootfs| ls(&rootfs.data["MergedDir"]).is_empty()),
        "not left mounted"
    );

    // Once: what was deleted from the volume does not come back.
    std::fs::remove_dir_all(data.join("sub")).unwrap();
    for name in ["f", "fifo", "hard", "soft"] {
        std::fs::remove_file(data.join(name)).unwrap();
    }
    storaged.populate_volume("data", request).unwrap();
    assert_eq!(ls(&data), "");
}

#[test]
fn a_volume_with_content_is_not_overwritten() {
    let state = State::new();
    let storaged = state.open();
    let image = image(
        &storaged,
        "i",
        &[&[dir("srv"), file("srv/f", "image"), file("file", "")]],
    );
    mounted(&storaged, "c1", &image);
    let data = PathBuf::from(storaged.create_volume(named("data")).unwrap().mountpoint);
    let populate = |path: &str| {
        let request = VolumePopulate {
            container: "c1".to_owned(),
            path: path.to_owned(),
        };
        storaged.populate_volume("data", request)
    };
    std::fs::write(data.join("f"), "mine").unwrap();
    populate("/srv").unwrap();
    assert_eq!(read(data.join("f")), "mine");
    std::fs::remove_file(data.join("f")).unwrap();
    for nothing in ["/none", "/file", "/../../none"] {
        populate(nothing).unwrap();
        assert_eq!(ls(&data), "");
    }
    assert_eq!(code(populate("srv")), ErrorCode::InvalidInput);
    populate("/srv").expect("still as created");
    assert_eq!(read(data.join("f")), "image");
}

#[test]
fn links_of_the_container_do_not_lead_the_copy_outside() {
    let state = State::new();
    let storaged = state.open();
    let outside = state.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "x").unwrap();
    let merged = mounted(&storaged, "c1", &image(&storaged, "i", &[&[dir("d")]]));
    make_symlink(&outside, merged.join("out")).unwrap();
    make_symlink("../../../../../..", merged.join("d/up")).unwrap();
    let data = PathBuf::from(storaged.create_volume(named("data")).unwrap().mountpoint);
    for path in ["/out", "/d/up/out", "/../../out"] {
        let request = VolumePopulate {
            container: "c1".to_owned(),
            path: path.to_owned(),
        };
        storaged.populate_volume("data", request).unwrap();
        assert_eq!(ls(&data), "", "{path}");
    }
}

#[test]
fn simultaneous_copies_into_one_volume_are_one() {
    let state = State::new();
    let storaged = state.open();
    let files: Vec<_> = (0..200)
        .map(|n| file(format!("srv/f{n}"), vec![1; 10_000]))
        .collect();
    let image = image(&storaged, "i", &[&files]);
    let data = PathBuf::from(storaged.create_volume(named("data")).unwrap().mountpoint);
    let containers: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
    for container in &containers {
        create(&storaged, container, &image, false);
    }
    let storaged = &storaged;
    std::thread::scope(|scope| {
        for container in containers {
            let data = &data;
            scope.spawn(move || {
                let request = VolumePopulate {
                    container,
                    path: "/srv".to_owned(),
                };
                storaged.populate_volume("data", request).unwrap();
                assert_eq!(
                    std::fs::read_dir(data).unwrap().count(),
                    200,
                    "back before it was all there"
                );
            });
        }
    });
    assert_eq!(state.leftovers(), [] as [PathBuf; 0]);
}

#[track_caller]
fn call(storaged: &Storaged, path: &str, body: Value) -> (u16, Reply) {
    storaged.plugin_call(path, body.to_string().as_bytes())
}

#[track_caller]
fn mount(storaged: &Storaged, name: &str, id: &str) -> Reply {
    let (status, reply) = call(storaged, plugin::MOUNT, json!({"Name": name, "ID": id}));
    assert_eq!((status, reply.err.as_str()), (200, ""));
    reply
}

#[track_caller]
fn unmount(storaged: &Storaged, name: &str, id: &str) {
    let (status, reply) = call(storaged, plugin::UNMOUNT, json!({"Name": name, "ID": id}));
    assert_eq!((status, reply), (200, Reply::default()));
}

#[test]
fn the_plugin_answers_as_dockerd_asks() {
    let state = State::new();
    let storaged = state.open();
    let at = state
        .path()
        .join("volumes/data/_data")
        .to_str()
        .unwrap()
        .to_owned();
    let name = json!({"Name": "data"});
    let id = json!({"Name": "data", "ID": "m1"});
    let volume = |reply: &Value| reply["Volume"]["Mountpoint"].as_str().map(str::to_owned);
    // The sequence a real dockerd sends, repeated where a lost reply would make it repeat.
    let (status, reply) = storaged.plugin_call(plugin::ACTIVATE, b"");
    assert_eq!(
        (status, reply.implements),
        (200, Some(vec!["VolumeDriver".to_owned()]))
    );
    let script: &[(&str, Value, u16, &str)] = &[
        (
            plugin::CAPABILITIES,
            json!({}),
            200,
            r#"{"Err":"","Capabilities":{"Scope":"local"}}"#,
        ),
        (
            plugin::GET,
            name.clone(),
            500,
            r#"{"Err":"no such volume: data"}"#,
        ),
        (
            plugin::CREATE,
            json!({"Name": "data", "Opts": null}),
            200,
            r#"{"Err":""}"#,
        ),
        (
            plugin::CREATE,
            json!({"Name": "data", "Opts": {}}),
            200,
            r#"{"Err":""}"#,
        ),
        (
            plugin::MOUNT,
            id.clone(),
            200,
            &format!(r#"{{"Err":"","Mountpoint":"{at}"}}"#),
        ),
        (
            plugin::MOUNT,
            id.clone(),
            200,
            &format!(r#"{{"Err":"","Mountpoint":"{at}"}}"#),
        ),
        (
            plugin::PATH,
            name.clone(),
            200,
            &format!(r#"{{"Err":"","Mountpoint":"{at}"}}"#),
        ),
        (
            plugin::REMOVE,
            name.clone(),
            500,
            r#"{"Err":"unable to remove volume: remove data: volume is in use - [m1]"}"#,
        ),
        (plugin::UNMOUNT, id.clone(), 200, r#"{"Err":""}"#),
        (plugin::UNMOUNT, id.clone(), 200, r#"{"Err":""}"#),
        (
            plugin::MOUNT,
            json!({"Name": "none", "ID": "m1"}),
            500,
            r#"{"Err":"no such volume: none"}"#,
        ),
        (
            plugin::CREATE,
            json!({"Opts": {}}),
            400,
            r#"{"Err":"the request names no volume"}"#,
        ),
        (
            "/VolumeDriver.Format",
            json!({}),
            404,
            r#"{"Err":"unknown call /VolumeDriver.Format"}"#,
        ),
    ];
    for (path, body, status, expected) in script {
        let (found, reply) = call(&storaged, path, body.clone());
        assert_eq!(
            (found, serde_json::to_string(&reply).unwrap().as_str()),
            (*status, *expected),
            "{path}"
        );
    }
    let (_, reply) = call(&storaged, plugin::GET, name.clone());
    let reply = serde_json::to_value(reply).unwrap();
    assert_eq!(volume(&reply), Some(at.clone()));
    let created = reply["Volume"]["CreatedAt"].as_str().unwrap();
    assert!(created.parse::<jiff::Timestamp>().is_ok(), "{created}");
    let (_, reply) = storaged.plugin_call(plugin::LIST, b"");
    assert_eq!(reply.volumes.unwrap().len(), 1);
    for _ in 0..2 {
        let (status, reply) = call(&storaged, plugin::REMOVE, name.clone());
        assert_eq!((status, reply), (200, Reply::default()));
    }
    let (status, reply) = storaged.plugin_call(plugin::CREATE, b"{not json");
    assert_eq!(status, 400);
    assert!(!reply.err.is_empty());
    for id in [json!(""), json!("a b"), json!("x".repeat(300))] {
        storaged.create_volume(named("data")).unwrap();
        let (status, _) = call(&storaged, plugin::MOUNT, json!({"Name": "data", "ID": id}));
        assert_eq!(status, 500);
        storaged
            .remove_volume("data")
            .expect("a refused mount holds nothing");
    }
}
