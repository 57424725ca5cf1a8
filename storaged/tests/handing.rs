//! Root filesystems that are handed over by a descriptor: mounted in no place of the host, and in use
//! as long as somebody has them.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use api::ErrorCode;
use api::storage::RootfsMount;
use rustix::cmsg_space;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use storaged::{DriverName, StorageConfig, Storaged};
use support::{State, create, dir, file, image, is_well, ls, mounted, read, refused};

/// Listens and is handed a root filesystem; none if it was mounted at a path instead.
fn ask(state: &State, storaged: &Storaged) -> (RootfsMount, Option<OwnedFd>) {
    let path = state.path().join("socket");
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let reply = storaged.hand_rootfs("c1", &path).unwrap();
    let Ok((connection, _)) = listener.accept() else {
        return (reply, None);
    };
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    recvmsg(
        &connection,
        &mut pieces,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    (reply, sent)
}

fn take(state: &State, storaged: &Storaged) -> OwnedFd {
    let (reply, sent) = ask(state, storaged);
    assert!(reply.handed && reply.path.is_empty(), "{reply:?}");
    sent.expect("a descriptor")
}

/// A process in a namespace of its own, as a container is.
struct Container(Child);

impl Container {
    /// Has `mount` at `target`, with something mounted on top of its directory `d`.
    fn with(mount: OwnedFd, target: &Path) -> Self {
        sys::owner::attach(mount.as_fd(), target).unwrap();
        let covered = target.join("d");
        sys::mount::filesystem("tmpfs", "t", &covered, MountFlags::empty(), "").unwrap();
        std::fs::write(covered.join("volume"), "").unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let container = Self(child);
        // The child stays where it was made.
        sys::mount::enter_private_namespace().unwrap();
        assert!(sys::mount::unmount(&covered).unwrap());
        assert!(sys::mount::unmount(target).unwrap());
        container
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn paths(storaged: &Storaged) -> Vec<String> {
    let changes = storaged.rootfs_changes("c1").unwrap();
    changes.into_iter().map(|change| change.path).collect()
}

fn merged(storaged: &Storaged) -> PathBuf {
    PathBuf::from(&storaged.rootfs("c1").unwrap().data["MergedDir"])
}

#[test]
fn what_is_handed_over_is_mounted_nowhere_and_known_after_a_restart() {
    let state = State::new();
    let storaged = state.open();
    let layers: [&[_]; 2] = [&[dir("d"), file("d/f", "low")], &[file("g", "x")]];
    create(&storaged, "c1", &image(&storaged, "i", &layers), false);
    let target = state.path().join("target");
    std::fs::create_dir(&target).unwrap();

    let mount = take(&state, &storaged);
    let inside = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    std::fs::write(inside.join("early"), "before it is put anywhere").unwrap();
    assert_eq!(ls(merged(&storaged)), "");
    let me = format!("in use by process {}", std::process::id());
    refused(storaged.mount_rootfs("c1"), ErrorCode::InUse, &me);
    std::fs::remove_file(inside.join("g")).unwrap();

    let container = Container::with(mount, &target);
    drop(storaged);
    let storaged = state.open();
    refused(storaged.mount_rootfs("c1"), ErrorCode::InUse, &me);
    // Read where the container has it, without what it has mounted on top.
    assert_eq!(paths(&storaged), ["/early", "/g"]);
    let mut archive = Vec::new();
    storaged.export_rootfs("c1", &mut archive).unwrap();
    let mut names: Vec<String> = tar::Archive::new(archive.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["./", "d/", "d/f", "early"]);
    let layer = storaged.commit_rootfs("c1").unwrap();
    is_well(&storaged);

    // Whoever says that it is done cannot say so for those who are not.
    storaged.unmount_rootfs("c1").unwrap();
    let last = format!("in use by process {}", container.0.id());
    refused(storaged.mount_rootfs("c1"), ErrorCode::InUse, &last);
    drop(container);
    let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
    assert_eq!(ls(&merged), "d early");
    storaged.unmount_rootfs("c1").unwrap();
    assert_eq!(storaged.commit_rootfs("c1").unwrap(), layer);
    storaged.remove_rootfs("c1").unwrap();
    is_well(&storaged);
}

#[test]
fn an_ephemeral_layer_is_not_let_go_while_somebody_has_it() {
    let state = State::new();
    let storaged = state.open();
    create(
        &storaged,
        "c1",
        &image(&storaged, "i", &[&[dir("d")]]),
        true,
    );
    let mark = merged(&storaged).with_file_name("work/work/incompat/volatile");
    let target = state.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mount = take(&state, &storaged);
    assert!(mark.exists());
    let container = Container::with(mount, &target);
    drop(storaged);
    let storaged = state.open();
    assert!(
        mark.exists(),
        "opening cleared the mark of a mount that is in use"
    );
    storaged.unmount_rootfs("c1").unwrap();
    refused(storaged.mount_rootfs("c1"), ErrorCode::InUse, "in use");
    assert!(mark.exists());
    drop(container);
    for _ in 0..2 {
        drop(take(&state, &storaged));
        storaged.unmount_rootfs("c1").unwrap();
    }
    storaged.mount_rootfs("c1").unwrap();
    assert_eq!(ls(merged(&storaged)), "d");
}

#[test]
fn who_has_lost_what_it_was_given_can_ask_again() {
    let state = State::new();
    let storaged = state.open();
    create(
        &storaged,
        "c1",
        &image(&storaged, "i", &[&[file("f", "x")]]),
        true,
    );
    drop(take(&state, &storaged));
    let again = take(&state, &storaged);
    let inside = format!("/proc/self/fd/{}/f", again.as_raw_fd());
    assert_eq!(read(inside), "x");
}

#[test]
fn where_nothing_can_be_handed_over_there_is_a_path() {
    let state = State::new();
    let storaged = state.open();
    let image_of = |storaged: &Storaged| image(storaged, "i", &[&[file("f", "x")]]);
    // An earlier version has mounted it.
    let path = mounted(&storaged, "c1", &image_of(&storaged));
    let (reply, sent) = ask(&state, &storaged);
    assert_eq!(
        (reply.handed, PathBuf::from(reply.path)),
        (false, path.clone())
    );
    assert!(sent.is_none());
    storaged.unmount_rootfs("c1").unwrap();
    assert_eq!(ls(path), "", "it was mounted once, not twice");
    let nobody = storaged.hand_rootfs("c1", &state.path().join("nobody"));
    refused(nobody, ErrorCode::InvalidInput, "nobody");
    drop(take(&state, &storaged));
    drop(storaged);

    let state = State::new();
    let storaged = state.open_with(StorageConfig {
        driver: Some(DriverName::Vfs),
        ..StorageConfig::default()
    });
    create(&storaged, "c1", &image_of(&storaged), false);
    let (reply, sent) = ask(&state, &storaged);
    assert!(!reply.handed && sent.is_none());
    assert_eq!(read(Path::new(&reply.path).join("f")), "x");
}
