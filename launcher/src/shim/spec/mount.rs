//! What is mounted in the container, in order: kernel file systems, the user's mounts, `/etc` files.

use serde_json::{Value, json};

use super::Input;
use crate::container::{IDMAP, Mount, MountKind, Recursion};
use crate::shim::stage::subpath_option;

/// Docker's `/dev/shm`.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;
/// Docker's options of a `--tmpfs` without any.
const TMPFS_OPTIONS: [&str; 3] = ["noexec", "nosuid", "nodev"];

struct Entry {
    destination: String,
    value: Value,
}

fn entry(destination: &str, kind: &str, source: &str, options: &[String]) -> Entry {
    Entry {
        destination: destination.to_owned(),
        value: json!({
            "destination": destination, "type": kind, "source": source, "options": options
        }),
    }
}

fn fixed(destination: &str, kind: &str, source: &str, options: &str) -> Entry {
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    entry(destination, kind, source, &options)
}

pub(super) fn all(input: &Input<'_>) -> Vec<Value> {
    let mut chosen = chosen(input);
    // A shallow mount must not cover a deeper one.
    chosen.sort_by_key(|entry| entry.destination.matches('/').count());
    // The user's own mount of, say, /dev/shm stands for ours.
    let mut entries = kernel(input);
    entries.extend(etc(input));
    entries.retain(|ours| {
        !chosen
            .iter()
            .any(|theirs| theirs.destination == ours.destination)
    });
    entries.extend(chosen);
    entries.into_iter().map(|entry| entry.value).collect()
}

fn kernel(input: &Input<'_>) -> Vec<Entry> {
    let host = &input.record.host_config;
    let shm_size = if host.shm_size == 0 {
        DEFAULT_SHM_BYTES
    } else {
        host.shm_size
    };
    let access = if host.privileged { "rw" } else { "ro" };
    let shm = format!("nosuid,noexec,nodev,mode=1777,size={shm_size}");
    let guarded = format!("nosuid,noexec,nodev,{access}");
    let mut entries = vec![
        fixed("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        fixed(
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        fixed(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        fixed("/sys", "sysfs", "sysfs", &guarded),
        fixed("/sys/fs/cgroup", "cgroup", "cgroup", &guarded),
        // Of the IPC namespace that the container is in, whosever that is.
        fixed("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ];
    match &input.shared.shm {
        _ if host.ipc_mode == "none" => {}
        Some(mount) => {
            let mount = mount.to_string_lossy();
            entries.push(fixed("/dev/shm", "bind", &mount, "rbind,rprivate"));
        }
        None => entries.push(fixed("/dev/shm", "tmpfs", "shm", &shm)),
    }
    entries
}

fn etc(input: &Input<'_>) -> Vec<Entry> {
    let files = [
        ("/etc/resolv.conf", &input.etc.resolv_conf),
        ("/etc/hostname", &input.etc.hostname),
        ("/etc/hosts", &input.etc.hosts),
    ];
    files
        .into_iter()
        .map(|(destination, source)| {
            fixed(
                destination,
                "bind",
                &source.to_string_lossy(),
                "rbind,rprivate,rw",
            )
        })
        .collect()
}

fn chosen(input: &Input<'_>) -> Vec<Entry> {
    let record = input.record;
    let mut entries: Vec<Entry> = record
        .mounts
        .iter()
        .map(|mount| one(input, mount))
        .collect();
    for (destination, options) in record.host_config.tmpfs.iter().flatten() {
        entries.push(tmpfs(destination, options));
    }
    entries
}

fn one(input: &Input<'_>, mount: &Mount) -> Entry {
    let source = match mount.kind {
        MountKind::Tmpfs => return tmpfs(&mount.destination, &mount.mode),
        MountKind::Bind => mount.source.clone(),
        MountKind::Volume => input.volumes.get(&mount.destination).map_or_else(
            || mount.source.clone(),
            |path| path.to_string_lossy().into_owned(),
        ),
    };
    let propagation = if mount.propagation.is_empty() {
        "rprivate"
    } else {
        mount.propagation.as_str()
    };
    let access = if mount.rw { "rw" } else { "ro" };
    let bind = match mount.recursion {
        Recursion::Disabled => "bind",
        _ => "rbind",
    };
    let mut options = vec![bind.to_owned(), propagation.to_owned(), access.to_owned()];
    let read_only_below = match mount.recursion {
        Recursion::Enabled => !mount.rw && input.read_only_below,
        Recursion::ReadOnly => true,
        Recursion::Disabled | Recursion::Writable => false,
    };
    if read_only_below {
        options.push("rro".to_owned());
    }
    if !mount.subpath.is_empty() {
        options.push(subpath_option(&mount.subpath));
    }
    // Without a user namespace the ids are those of the host anyway.
    if mount.is_mapped() && input.record.id_maps.is_some() {
        options.push(IDMAP.to_owned());
    }
    entry(&mount.destination, "bind", &source, &options)
}

fn tmpfs(destination: &str, options: &str) -> Entry {
    let mut all: Vec<String> = TMPFS_OPTIONS.map(str::to_owned).to_vec();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        // `exec` lifts the default `noexec`.
        all.retain(|held| *held != format!("no{option}") && held != option);
        all.push(option.to_owned());
    }
    entry(destination, "tmpfs", "tmpfs", &all)
}
