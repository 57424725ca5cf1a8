//! Volumes: copies of large ones, many of them, and podman beside us.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use api::Client;
use api::path::VOLUMES_CREATE;
use api::storage::{Volume, VolumeCreate};
use api::volume_plugin::{MOUNT, Reply, Request, UNMOUNT};
use kernel_tests::{Daemon, Directories, Host, Podman, program};

use super::row::{Goal, Row, Subject, compare};
use super::storage::{MIB, time};
use super::turns::Sample;
use super::{FEW, MANY, Scene};

/// One MiB of data in so many, so that a large volume fits on a small disk.
const SPARSE: u64 = 40;

/// Snapshots and clones of a large volume: of a directory and of a filesystem in a file on a
/// filesystem that shares blocks, and of one in a file on the disk of this machine.
pub(crate) fn copies(scene: &Scene) -> Result<Vec<Row>> {
    let shares = Sharing::open()?;
    let mib = u64::from(scene.sizes.volume_mib);
    let size = format!("size={}m", mib + mib / 8);
    let loop_options = ["-o", "backend=loop", "-o", size.as_str()];
    let places: [(&str, &Daemon, &[&str], Goal); 3] = [
        ("directory, xfs", &shares.daemon, &[], Goal::Within(100.0)),
        (
            "loop, xfs",
            &shares.daemon,
            &loop_options,
            Goal::Within(100.0),
        ),
        (
            "loop",
            &scene.shop().daemon,
            &loop_options,
            Goal::AtMost(1.5),
        ),
    ];
    let mut rows = Vec::new();
    for (place, daemon, options, goal) in places {
        let host = if std::ptr::eq(daemon, &shares.daemon) {
            &shares.host
        } else {
            &scene.shop().host
        };
        daemon.hawser(&[&["volume", "create"], options, &["large"]].concat())?;
        let content = fill(daemon, host, mib)?;
        for (what, words, undo) in [
            (
                "snapshot",
                &["volume", "snapshot", "create", "large", "measured"][..],
                &["volume", "snapshot", "rm", "large", "measured"][..],
            ),
            (
                "clone",
                &["volume", "clone", "large", "measured"],
                &["volume", "rm", "measured"],
            ),
        ] {
            let ours = || {
                let took = time(|| daemon.hawser(words).map(drop));
                daemon.hawser(undo)?;
                took
            };
            let name = format!("{what} of {mib} MiB, {place}");
            rows.extend(compare(
                Subject::new(name, "ms", goal),
                scene.sizes.runs(FEW),
                Box::new(ours),
                "cp -a, and sync",
                Ok(copy(host, &content)),
            )?);
        }
        daemon.hawser(&["volume", "rm", "large"])?;
    }
    Ok(rows)
}

/// Puts a large file with holes into the volume. Returns what is copied of it: the directory, or the
/// file with its filesystem.
fn fill(daemon: &Daemon, host: &Host, mib: u64) -> Result<PathBuf> {
    let volume: Volume = daemon
        .client()
        .get(&format!("{}/large", api::path::VOLUMES))?;
    let data = PathBuf::from(&volume.mountpoint);
    mount(daemon, "large", "fill")?;
    let file = host.path(&data).join("large");
    let large = File::create(&file).with_context(|| file.display().to_string())?;
    large.set_len(mib * MIB)?;
    // Not zeros, which some filesystems keep as a hole.
    let block = vec![0xa5; usize::try_from(MIB)?];
    for at in (0..mib).step_by(usize::try_from(SPARSE)?) {
        large.write_all_at(&block, at * MIB)?;
    }
    large.sync_all().context("a large file")?;
    drop(large);
    verb(daemon, UNMOUNT, "large", "fill")?;
    let image = data.with_file_name("_image");
    Ok(if host.path(&image).exists() {
        image
    } else {
        data
    })
}

/// What people do without snapshots.
fn copy<'a>(host: &'a Host, content: &Path) -> Sample<'a, f64> {
    let from = content.display().to_string();
    let to = format!("{from}.copy");
    Box::new(move || {
        let script = "cp -a --reflink=auto \"$0\" \"$1\" && sync -f \"$1\"";
        let took = time(|| host.output("sh", &["-ec", script, &from, &to]).map(drop));
        host.output("rm", &["-r", &to])?;
        took
    })
}

/// A daemon whose state is on an xfs of its own.
struct Sharing {
    daemon: Daemon,
    host: Arc<Host>,
    _scratch: tempfile::TempDir,
}

impl Sharing {
    fn open() -> Result<Self> {
        let scratch = tempfile::tempdir_in("/var/tmp").context("scratch directory")?;
        let disk = scratch.path().join("disk");
        let file = File::create(&disk).context("a disk")?;
        file.set_len(64 << 30).context("a disk")?;
        program::output(Command::new("mkfs.xfs").arg("-q").arg(&disk))?;
        let host = Arc::new(Host::throwaway()?);
        let directories = Directories::new(scratch.path())?;
        let (disk, state) = (disk.display().to_string(), directories.state());
        let state = state.display().to_string();
        host.output("mount", &["-o", "loop", &disk, &state])?;
        Ok(Self {
            daemon: Daemon::start_in(Arc::clone(&host), directories)?,
            host,
            _scratch: scratch,
        })
    }
}

/// As a client of the plugin socket asks for it: a directory, and a filesystem in a file.
pub(crate) fn mounts(scene: &Scene) -> Result<Vec<Row>> {
    let daemon = &scene.shop().daemon;
    let mut rows = Vec::new();
    let places: [(&str, &[&str], Goal); 2] = [
        ("directory", &[], Goal::Within(2.0)),
        (
            "loop",
            &["-o", "backend=loop", "-o", "size=64m"],
            Goal::Shown,
        ),
    ];
    for (what, options, goal) in places {
        daemon.hawser(&[&["volume", "create"][..], options, &["measured"]].concat())?;
        let ours = || {
            let took = time(|| mount(daemon, "measured", "holder"));
            verb(daemon, UNMOUNT, "measured", "holder")?;
            took
        };
        let row = Subject::new(format!("volume mount, {what}"), "ms", goal);
        let none = Err("docker and podman mount volumes when a container starts".to_owned());
        let runs = scene.sizes.runs(MANY);
        rows.extend(compare(row, runs, Box::new(ours), "none", none)?);
        daemon.hawser(&["volume", "rm", "measured"])?;
    }
    Ok(rows)
}

/// From the start of a daemon that was killed to its first answer, with many volumes and without.
pub(crate) fn restart(scene: &Scene) -> Result<Vec<Row>> {
    let volumes = scene.sizes.volumes.min(500);
    let mounts = volumes * 2 / 5;
    let mut full = Daemon::start(Arc::new(Host::throwaway()?))?;
    let mut empty = Daemon::start(Arc::new(Host::throwaway()?))?;
    for number in 0..volumes {
        let name = format!("many{number}");
        let request = VolumeCreate {
            name: name.clone(),
            ..VolumeCreate::default()
        };
        full.client().post::<Volume>(VOLUMES_CREATE, &request)?;
        if number < mounts {
            mount(&full, &name, "holder")?;
        }
    }
    let again = |daemon: &mut Daemon| {
        daemon.kill()?;
        time(|| daemon.launch())
    };
    let name = format!("restart with {volumes} volumes and {mounts} mounts");
    let rows = compare(
        Subject::new(name, "ms", Goal::AtMost(1.5)),
        scene.sizes.runs(FEW),
        Box::new(|| again(&mut full)),
        "hawserd without volumes",
        Ok(Box::new(|| again(&mut empty))),
    );
    for number in 0..mounts {
        verb(&full, UNMOUNT, &format!("many{number}"), "holder")?;
    }
    rows
}

/// From the command line, as in the row beside docker.
pub(crate) fn podman(scene: &Scene) -> Result<Vec<Row>> {
    let daemon = &scene.shop().daemon;
    let scratch = tempfile::tempdir_in("/var/tmp").context("scratch directory")?;
    let podman = Podman::new(
        Arc::clone(&scene.shop().host),
        scratch.path().join("podman"),
        "",
    )?;
    let ours = || {
        let took = time(|| daemon.hawser(&["volume", "create", "measured"]).map(drop));
        daemon.hawser(&["volume", "rm", "measured"])?;
        took
    };
    let peer: Sample<'_, f64> = Box::new(|| {
        let took = time(|| podman.say("volume create measured").map(drop));
        podman.say("volume rm measured")?;
        took
    });
    compare(
        Subject::new("volume create, beside podman", "ms", Goal::AtMost(0.33)),
        scene.sizes.runs(MANY),
        Box::new(ours),
        "podman volume create",
        Ok(peer),
    )
}

/// As a client of the plugin socket.
fn mount(daemon: &Daemon, name: &str, holder: &str) -> Result<()> {
    verb(daemon, MOUNT, name, holder)
}

fn verb(daemon: &Daemon, verb: &str, name: &str, holder: &str) -> Result<()> {
    let socket = daemon.directories().root().join("plugins/hawser.sock");
    let request = Request {
        name: name.to_owned(),
        id: holder.to_owned(),
        opts: None,
    };
    let reply: Reply = Client::new(socket).post(verb, &request)?;
    ensure!(reply.err.is_empty(), "{}", reply.err);
    Ok(())
}
