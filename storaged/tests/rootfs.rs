//! Root filesystems: what a container sees of its image and what it leaves.

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use api::storage::{ImageCreate, RootfsCreate};
use api::{ApiError, ErrorCode};
use support::{
    State, archive, config, create, dir, file, filesystem, image, import, is_well, ls, mounted,
    read, refused,
};

#[test]
fn containers_do_not_see_each_others_writes() {
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "i", &[&[dir("d"), file("d/f", "low")]]);
    let (a, b) = (
        mounted(&storaged, "ca", &image),
        mounted(&storaged, "cb", &image),
    );
    std::fs::write(a.join("d/f"), "mine").unwrap();
    std::fs::rename(a.join("d"), a.join("moved")).expect("directories can be renamed");
    assert_eq!(read(b.join("d/f")), "low");
    // Stop and start: what was written stays; what was not mounted is not there.
    storaged.unmount_rootfs("ca").unwrap();
    assert_eq!(ls(&a), "");
    storaged.mount_rootfs("ca").unwrap();
    assert_eq!(read(a.join("moved/f")), "mine");
    storaged.remove_rootfs("ca").unwrap();
    storaged
        .remove_rootfs("ca")
        .expect("removing what is gone is fine");
    storaged.unmount_rootfs("ca").expect("so is unmounting it");
    assert!(!a.exists());
    assert_eq!(read(b.join("d/f")), "low");
}

#[test]
fn an_image_may_have_500_layers_and_no_more() {
    let state = State::new();
    let storaged = state.open();
    let mut parent = None;
    let mut diff_ids = Vec::new();
    for n in 0..500 {
        let layer = import(
            &storaged,
            parent.as_ref(),
            &[file(format!("f{n}"), ""), file("last", n.to_string())],
        );
        parent = Some(layer.chain_id);
        diff_ids.push(layer.diff_id);
        if ![30, 128, 500].contains(&(n + 1)) {
            continue;
        }
        let request = ImageCreate {
            config: config("deep", &diff_ids),
            tags: vec![format!("deep:{n}")],
        };
        let image = storaged.create_image(request).unwrap();
        let merged = mounted(&storaged, &format!("c{n}"), &image);
        assert_eq!(read(merged.join("last")), n.to_string());
        assert!(merged.join("f0").exists());
        std::fs::write(merged.join("f0"), "copied up").unwrap();
    }
    let error = storaged
        .import_layer(parent.as_ref(), None, &mut archive(&[]).as_slice())
        .unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");
}

#[test]
fn an_image_without_layers_mounts() {
    let state = State::new();
    let storaged = state.open();
    let merged = mounted(&storaged, "c1", &image(&storaged, "scratch", &[]));
    std::fs::write(merged.join("f"), "x").unwrap();
    assert_eq!(ls(&merged), "f");
}

#[test]
fn an_ephemeral_container_can_stop_and_start() {
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "a", &[&[file("f", "x")]]);
    create(&storaged, "c1", &image, true);
    for expected in ["f", "f g"] {
        let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mounts
            .lines()
            .find(|line| line.contains(merged.to_str().unwrap()))
            .unwrap();
        assert!(
            line.contains("volatile") && line.contains("redirect_dir=on"),
            "{line}"
        );
        assert_eq!(ls(&merged), expected);
        std::fs::write(merged.join("g"), "y").unwrap();
        storaged.unmount_rootfs("c1").unwrap();
    }
}

#[test]
fn an_ephemeral_container_that_somebody_else_unmounted_mounts_again() {
    for restart in [false, true] {
        let state = State::new();
        let mut storaged = state.open();
        create(&storaged, "c1", &image(&storaged, "a", &[]), true);
        let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
        std::fs::write(merged.join("g"), "y").unwrap();
        sys::mount::unmount(&merged).unwrap();
        if restart {
            drop(storaged);
            storaged = state.open();
        }
        storaged.mount_rootfs("c1").unwrap();
        assert_eq!(ls(&merged), "g");
    }
}

#[test]
fn a_rootfs_is_made_once() {
    let state = State::new();
    let storaged = state.open();
    let (a, b) = (image(&storaged, "a", &[]), image(&storaged, "b", &[]));
    let request = |container: &str, image: &api::storage::Image| RootfsCreate {
        container: container.to_owned(),
        image: image.id.clone(),
        ephemeral: false,
        storage_opt: BTreeMap::new(),
        user_namespace: String::new(),
    };
    let first = storaged.create_rootfs(request("c1", &a)).unwrap();
    assert_eq!(storaged.create_rootfs(request("c1", &a)).unwrap(), first);
    assert_eq!(storaged.rootfs("c1").unwrap(), first);
    let code = |result: Result<_, storaged::RootfsError>| ApiError::from(result.unwrap_err()).code;
    assert_eq!(
        code(storaged.create_rootfs(request("c1", &b))),
        ErrorCode::Conflict
    );
    assert_eq!(
        code(storaged.create_rootfs(request("../c", &a))),
        ErrorCode::InvalidInput
    );
    assert_eq!(code(storaged.rootfs("nobody")), ErrorCode::NotFound);
    assert_eq!(
        code(storaged.mount_rootfs("nobody").map(|_| first.clone())),
        ErrorCode::NotFound
    );
    storaged.remove_image("b", false).unwrap();
    assert_eq!(
        code(storaged.create_rootfs(request("c2", &b))),
        ErrorCode::NotFound
    );
    assert_eq!(state.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn everything_is_there_after_a_restart_and_mounts_stay() {
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "a", &[&[file("f", "x")]]);
    let merged = mounted(&storaged, "c1", &image);
    std::fs::write(merged.join("g"), "y").unwrap();
    let (images, layers) = (storaged.images(), storaged.layers());
    drop(storaged);
    assert_eq!(read(merged.join("g")), "y", "closing does not unmount");
    let storaged = state.open();
    assert_eq!(read(merged.join("g")), "y", "nor does opening");
    assert_eq!((storaged.images(), storaged.layers()), (images, layers));
    assert_eq!(
        storaged.mount_rootfs("c1").unwrap().path,
        merged.to_str().unwrap()
    );
    storaged.unmount_rootfs("c1").unwrap();
    assert!(
        !sys::mount::is_mount_root(&merged).unwrap(),
        "it was mounted once, not twice"
    );
}

#[test]
fn the_whole_way_works_on_a_disk() {
    let state = State::on_disk();
    let storaged = state.open();
    let image = image(
        &storaged,
        "a",
        &[
            &[file("srv/f", vec![7; 3 << 20]), file("g", "x")],
            &[file(".wh.g", "")],
        ],
    );
    let merged = mounted(&storaged, "c1", &image);
    assert_eq!(ls(&merged), "srv");
    let volume = storaged
        .create_volume(api::storage::VolumeCreate::default())
        .unwrap();
    let request = api::storage::VolumePopulate {
        container: "c1".to_owned(),
        path: "/srv".to_owned(),
    };
    storaged
        .populate_volume(volume.name.as_str(), request)
        .unwrap();
    assert_eq!(
        std::fs::read(format!("{}/f", volume.mountpoint)).unwrap(),
        vec![7; 3 << 20]
    );
    storaged.remove_volume(volume.name.as_str()).unwrap();
    storaged.remove_rootfs("c1").unwrap();
    storaged.remove_image("a", false).unwrap();
    assert_eq!(state.layer_directories(), [] as [PathBuf; 0]);
    assert_eq!(state.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn a_directory_overlayfs_cannot_use_is_refused_with_the_way_out() {
    let state = State::new();
    // An overlay cannot be the upper layer of another one.
    let storaged = state.open();
    let merged = mounted(&storaged, "c1", &image(&storaged, "a", &[]));
    let database = redb::Database::create(state.path().join("other.redb")).unwrap();
    let error = storaged::Storaged::open(storaged::Options {
        state_dir: merged,
        database: std::sync::Arc::new(database),
        config: storaged::StorageConfig::default(),
        adopt: false,
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("overlayfs") && error.contains("--state-dir"),
        "{error}"
    );
}

fn limited(container: &str, image: &api::storage::Image, option: (&str, &str)) -> RootfsCreate {
    RootfsCreate {
        container: container.to_owned(),
        image: image.id.clone(),
        ephemeral: false,
        storage_opt: BTreeMap::from([(option.0.to_owned(), option.1.to_owned())]),
        user_namespace: String::new(),
    }
}

/// A container writes as much as it may, and no more. Says how much that is.
fn fill(path: &Path) -> u64 {
    let mut file = std::fs::File::create(path).expect("a file");
    let mut written = 0;
    while written < 64 << 20 {
        match file
            .write_all(&[written as u8; 64 << 10])
            .and_then(|()| file.sync_data())
        {
            Ok(()) => written += 64 << 10,
            Err(error) => {
                let kinds = [ErrorKind::QuotaExceeded, ErrorKind::StorageFull];
                assert!(kinds.contains(&error.kind()), "{error}");
                return written;
            }
        }
    }
    written
}

#[test]
fn what_a_container_writes_can_be_limited() {
    let disk = State::new();
    let target = filesystem(&disk, &["mkfs.btrfs", "-q"], "btrfs", "");
    let state = State::inside(target.expect("btrfs is built into the kernels of the matrix"));
    let storaged = state.open();
    let image = image(&storaged, "web", &[&[dir("d"), file("d/f", "x")]]);
    let request = limited("c1", &image, ("size", "8m"));
    storaged.create_rootfs(request.clone()).unwrap();
    storaged.create_rootfs(request).unwrap();
    let other = storaged.create_rootfs(limited("c1", &image, ("size", "9m")));
    refused(other, ErrorCode::Conflict, "remove it first");
    let root = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
    let written = fill(&root.join("d/big"));
    assert!((1 << 20..=8 << 20).contains(&written), "{written}");
    let free = mounted(&storaged, "c2", &image);
    assert_eq!(fill(&free.join("big")), 64 << 20, "nobody else is limited");
    let resize = |container, size: &str| {
        storaged.resize_rootfs(container, &[("size".to_owned(), size.to_owned())].into())
    };
    refused(resize("c1", "4m"), ErrorCode::InvalidInput, "only grows");
    refused(
        resize("c2", "4m"),
        ErrorCode::InvalidInput,
        "without a limit",
    );
    refused(resize("c1", "some"), ErrorCode::InvalidInput, "such as 10g");
    refused(resize("c3", "9m"), ErrorCode::NotFound, "c3");
    for _again in 0..2 {
        resize("c1", "24m").unwrap();
    }
    let written = fill(&root.join("d/big"));
    assert!((10 << 20..=24 << 20).contains(&written), "{written}");
    std::fs::remove_file(root.join("d/big")).unwrap();
    // It is what it was after a restart, and goes whole.
    storaged.unmount_rootfs("c1").unwrap();
    drop(storaged);
    let storaged = state.open();
    is_well(&storaged);
    let root = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
    std::fs::write(root.join("d/f"), "changed").unwrap();
    let written = fill(&root.join("big"));
    assert!((10 << 20..=24 << 20).contains(&written), "{written}");
    std::fs::remove_file(root.join("big")).unwrap();
    storaged.commit_rootfs("c1").unwrap();
    storaged.remove_rootfs("c1").unwrap();
    storaged.remove_rootfs("c2").unwrap();
    assert!(state.leftovers().is_empty());
    is_well(&storaged);
}

#[test]
fn a_limit_that_cannot_be_is_refused_with_the_way_out() {
    // tmpfs has no project quotas on any kernel.
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "web", &[&[file("f", "x")]]);
    for (option, words) in [
        (("size", "8m"), "prjquota"),
        (("size", "much"), "such as 10g"),
        (("size", "0"), "such as 10g"),
        (("inodes", "8"), "the one option"),
    ] {
        let result = storaged.create_rootfs(limited("c1", &image, option));
        refused(result, ErrorCode::InvalidInput, words);
        assert!(storaged.rootfs("c1").is_err());
        assert!(state.leftovers().is_empty());
    }
    is_well(&storaged);
}

/// Overlayfs asks the filesystem for it (`ovl_copy_up_data`), which has to hold both layers.
#[test]
fn a_file_is_copied_up_by_sharing_its_blocks_where_the_filesystem_can() {
    let disk = State::new();
    let xfs = filesystem(&disk, &["mkfs.xfs", "-q", "-m", "reflink=1"], "xfs", "");
    let state = State::inside(xfs.expect("an xfs"));
    let storaged = state.open();
    let content = vec![7; 64 << 20];
    let image = image(&storaged, "a", &[&[file("f", &content)]]);
    let merged = mounted(&storaged, "c1", &image);
    let free = || {
        let directory = std::fs::File::open(state.path()).unwrap();
        rustix::fs::syncfs(&directory).unwrap();
        let stat = rustix::fs::fstatvfs(&directory).unwrap();
        stat.f_bfree * stat.f_frsize
    };
    let before = free();
    let mut opened = std::fs::File::options()
        .write(true)
        .open(merged.join("f"))
        .unwrap();
    opened.write_all(&[8]).unwrap();
    opened.sync_all().unwrap();
    let taken = before.saturating_sub(free());
    assert!(taken < 8 << 20, "{taken} bytes more");
    let now = std::fs::read(merged.join("f")).unwrap();
    assert!(now[0] == 8 && now[1..] == content[1..]);
    let other = mounted(&storaged, "c2", &image);
    assert!(std::fs::read(other.join("f")).unwrap() == content);
    drop((opened, now));
    storaged.remove_rootfs("c1").unwrap();
    storaged.remove_rootfs("c2").unwrap();
}
