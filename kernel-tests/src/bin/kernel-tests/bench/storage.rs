//! Images, root file systems and volumes, beside dockerd where it does the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use api::id::Digest;
use api::path::{ROOTFS, STORAGE_USAGE, VOLUMES, VOLUMES_CREATE};
use api::storage::{Image, Rootfs, RootfsCreate, RootfsMount, StorageUsage, Volume, VolumeCreate};
use kernel_tests::{Daemon, Podman, program, shop};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

use super::row::{Goal, Row, Subject, compare};
use super::turns::Sample;
use super::{FEW, MANY, Scene, docker};

pub(super) const MIB: u64 = 1 << 20;
/// Layers of an image whose import is measured.
const LAYERS: u64 = 8;
/// A file of an image of many small ones.
const SMALL: u64 = 16 << 10;

/// Time of an action in milliseconds.
pub(super) fn time(action: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    action()?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// An image of many small files and one of few large ones, loaded by dockerd too, and the same
/// layers one after the other.
pub(crate) fn import(scene: &Scene) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir().context("scratch directory")?;
    let bytes = u64::from(scene.sizes.image_mib) * MIB;
    let scratch = tempfile::tempdir_in("/var/tmp").context("scratch directory")?;
    let host = Arc::clone(&scene.shop().host);
    let podman = Podman::new(host, scratch.path().join("podman"), "")?;
    let by_podman = |words: &[&str]| {
        let mut command = podman.command();
        command.args(["--storage-driver", "overlay"]).args(words);
        program::output(&mut command).map(drop)
    };
    let mut rows = Vec::new();
    for (what, file) in [
        ("small files", SMALL),
        ("large files", bytes.div_ceil(LAYERS * 2)),
    ] {
        let archive = directory.path().join("image.tar");
        let layers = write_image(&archive, bytes, file)?;
        let daemon = &scene.shop().daemon;
        let input = archive.display().to_string();
        let load = || {
            let took = time(|| daemon.hawser(&["load", "-q", "-i", &input]).map(drop));
            daemon.hawser(&["rmi", "-f", "measured:1"])?;
            took
        };
        let name = |side: &str| format!("import {} MiB of {what}{side}", bytes / MIB);
        let peer = scene.docker().map(|docker| -> Sample<'_, f64> {
            let input = &input;
            Box::new(move || {
                let took = time(|| docker.output(&["load", "-q", "-i", input]).map(drop));
                docker.output(&["rmi", "-f", "measured:1"])?;
                took
            })
        });
        let row = Subject::new(name(""), "ms", Goal::AtMost(1.0));
        let runs = scene.sizes.runs(FEW);
        rows.extend(compare(row, runs, Box::new(load), "docker load", peer)?);
        let row = Subject::new(name(", beside podman"), "ms", Goal::AtMost(1.0));
        let peer: Sample<'_, f64> = Box::new(|| {
            let took = time(|| by_podman(&["load", "-q", "-i", &input]));
            by_podman(&["rmi", "-f", "measured:1"])?;
            took
        });
        rows.extend(compare(row, runs, Box::new(load), "podman load", Ok(peer))?);
        let row = Subject::new(name(", layers at once"), "ms", Goal::AtMost(1.0));
        let one_by_one: Sample<'_, f64> = Box::new(|| one_by_one(daemon, &archive, &layers));
        let peer_name = "hawser, one layer after the other";
        rows.extend(compare(
            row,
            runs,
            Box::new(load),
            peer_name,
            Ok(one_by_one),
        )?);
    }
    by_podman(&["system", "reset", "-f"])?;
    Ok(rows)
}

/// The layers of an archive, each when the one below it is there.
fn one_by_one(daemon: &Daemon, archive: &Path, layers: &[String]) -> Result<f64> {
    let scratch = tempfile::tempdir().context("scratch directory")?;
    let took = time(|| {
        // As the command line does before it sends anything.
        tar::Archive::new(File::open(archive)?).unpack(scratch.path())?;
        let mut parent: Option<Digest> = None;
        for diff_id in layers {
            let mut route = format!("{}?diff_id=sha256:{diff_id}", api::path::LAYERS);
            if let Some(parent) = &parent {
                route.push_str(&format!("&parent={parent}"));
            }
            let file = File::open(scratch.path().join(format!("{diff_id}.tar")))?;
            let layer: api::storage::Layer = daemon.client().post_stream(&route, &mut &file)?;
            parent = Some(layer.chain_id);
        }
        let config = config(layers);
        let request = api::storage::ImageCreate {
            config,
            tags: vec!["measured:1".to_owned()],
        };
        daemon.client().post::<Image>(api::path::IMAGES, &request)?;
        Ok(())
    });
    daemon.hawser(&["rmi", "-f", "measured:1"])?;
    took
}

/// Writes the archive of an image in `docker save`'s format and returns the layers' digests.
fn write_image(path: &Path, bytes: u64, file: u64) -> Result<Vec<String>> {
    let mut out = Builder::new(File::create(path).context("archive of an image")?);
    let mut layers = Vec::new();
    for number in 0..LAYERS {
        let layer = layer(number, bytes / LAYERS, file)?;
        let digest = hex::encode(Sha256::digest(&layer));
        append(&mut out, &format!("{digest}.tar"), &layer)?;
        layers.push(digest);
    }
    let config = config(&layers);
    let name = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
    append(&mut out, &name, config.as_bytes())?;
    let files: Vec<String> = layers
        .iter()
        .map(|digest| format!("{digest}.tar"))
        .collect();
    let manifest = json!([{"Config": name, "RepoTags": ["measured:1"], "Layers": files}]);
    append(&mut out, "manifest.json", manifest.to_string().as_bytes())?;
    out.finish().context("archive of an image")?;
    Ok(layers)
}

fn config(layers: &[String]) -> String {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|digest| format!("sha256:{digest}"))
        .collect();
    json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
}

fn append(out: &mut Builder<impl Write>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    out.append_data(&mut header, name, content)
        .with_context(|| name.to_owned())
}

/// One layer of files of `file` bytes that do not compress well and are not zeros.
fn layer(number: u64, bytes: u64, file: u64) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = vec![0; usize::try_from(file).context("size of a file")?];
    for at in 0..(bytes / file).max(1) {
        for word in content.chunks_mut(8) {
            // Xorshift (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        append(&mut tar, &format!("l{number}/{}/{at}", at % 64), &content)?;
    }
    tar.into_inner().context("a layer")
}

/// The writable layer of a container with its mount, over chains of several lengths.
pub(crate) fn rootfs(scene: &Scene) -> Result<Vec<Row>> {
    let daemon = &scene.shop().daemon;
    let client = daemon.client();
    let mut rows = Vec::new();
    for depth in [1_usize, 30, 128, 500] {
        let image = deep_image(daemon, depth)?;
        let mount = || {
            let request = RootfsCreate {
                container: "measured".to_owned(),
                image: image.id.clone(),
                ephemeral: false,
                storage_opt: BTreeMap::new(),
                user_namespace: String::new(),
            };
            let route = format!("{ROOTFS}/measured");
            let took = time(|| {
                client.post::<Rootfs>(ROOTFS, &request)?;
                client.post::<RootfsMount>(&format!("{route}/mount"), &())?;
                Ok(())
            });
            client.delete(&route)?;
            took
        };
        let goal = if depth <= 30 { 5.0 } else { 50.0 };
        let row = Subject::new(
            format!("writable layer and mount, {depth} layers"),
            "ms",
            Goal::Within(goal),
        );
        let peer = scene.docker().map(|docker| -> Sample<'_, f64> {
            Box::new(move || {
                let create = ["create", "--name", "measured", docker::TOOLS, "true"];
                let took = time(|| docker.output(&create).map(drop));
                docker.output(&["rm", "measured"])?;
                took
            })
        });
        let runs = scene.sizes.runs(MANY);
        rows.extend(compare(
            row,
            runs,
            Box::new(mount),
            "docker create, 1 layer",
            peer,
        )?);
    }
    Ok(rows)
}

/// An image of `depth` layers of one file each.
fn deep_image(daemon: &Daemon, depth: usize) -> Result<Image> {
    let client = daemon.client();
    let (mut parent, mut layers): (Option<Digest>, _) = (None, Vec::new());
    for number in 0..depth {
        let layer = layer(number as u64, 1, 512)?;
        let mut route = api::path::LAYERS.to_owned();
        if let Some(parent) = &parent {
            route.push_str(&format!("?parent={parent}"));
        }
        let made: api::storage::Layer = client.post_stream(&route, &mut layer.as_slice())?;
        parent = Some(made.chain_id);
        layers.push(made.diff_id.hex().to_owned());
    }
    let request = api::storage::ImageCreate {
        config: config(&layers),
        tags: vec![format!("deep:{depth}")],
    };
    Ok(client.post(api::path::IMAGES, &request)?)
}

/// An image from what a container wrote.
pub(crate) fn commit(scene: &Scene) -> Result<Vec<Row>> {
    const WRITE: &str = "mkdir /w; for n in $(seq 500); do echo $n >/w/$n; done";
    let daemon = &scene.shop().daemon;
    let flags = ["--network", "none", "--name", "written"];
    daemon.hawser(&[&["run"][..], &flags, &[shop::TOOLS, "sh", "-c", WRITE]].concat())?;
    let ours = || {
        let took = time(|| {
            daemon
                .hawser(&["commit", "written", "measured:2"])
                .map(drop)
        });
        daemon.hawser(&["rmi", "-f", "measured:2"])?;
        took
    };
    let peer = scene.docker().and_then(|docker| {
        let run = [&["run"][..], &flags, &[docker::TOOLS, "sh", "-c", WRITE]].concat();
        docker.output(&run).map_err(|error| format!("{error:#}"))?;
        let sample: Sample<'_, f64> = Box::new(move || {
            let took = time(|| {
                docker
                    .output(&["commit", "written", "measured:2"])
                    .map(drop)
            });
            docker.output(&["rmi", "-f", "measured:2"])?;
            took
        });
        Ok(sample)
    });
    let row = Subject::new("commit of 500 files", "ms", Goal::AtMost(1.0));
    let rows = compare(
        row,
        scene.sizes.runs(MANY),
        Box::new(ours),
        "docker commit",
        peer,
    );
    daemon.hawser(&["rm", "written"])?;
    rows
}

/// Making a volume from the command line, and what all volumes take.
pub(crate) fn volumes(scene: &Scene) -> Result<Vec<Row>> {
    let daemon = &scene.shop().daemon;
    let client = daemon.client();
    let create = || {
        let took = time(|| daemon.hawser(&["volume", "create", "measured"]).map(drop));
        daemon.hawser(&["volume", "rm", "measured"])?;
        took
    };
    let peer = scene.docker().map(|docker| -> Sample<'_, f64> {
        Box::new(move || {
            let took = time(|| docker.output(&["volume", "create", "measured"]).map(drop));
            docker.output(&["volume", "rm", "measured"])?;
            took
        })
    });
    let row = Subject::new("volume create", "ms", Goal::AtMost(0.33));
    let runs = scene.sizes.runs(MANY);
    let mut rows = compare(row, runs, Box::new(create), "docker volume create", peer)?;
    let many = scene.sizes.volumes;
    let made: Vec<String> = (0..many).map(|number| format!("many{number}")).collect();
    for name in &made {
        let request = VolumeCreate {
            name: name.clone(),
            ..VolumeCreate::default()
        };
        client.post::<Volume>(VOLUMES_CREATE, &request)?;
    }
    let usage = || time(|| Ok(client.get::<StorageUsage>(STORAGE_USAGE).map(drop)?));
    let row = Subject::new(format!("usage of {many} volumes"), "ms", Goal::Within(50.0));
    let none = Err("docker measures the volumes anew each time".to_owned());
    rows.extend(compare(row, runs, Box::new(usage), "none", none)?);
    for name in &made {
        client.delete(&format!("{VOLUMES}/{name}"))?;
    }
    Ok(rows)
}

/// The first write to a file of the image, by its size. The kernel has the copy on the disk before
/// the writer goes on, but for a container whose layer goes with it.
pub(crate) fn copy_up(scene: &Scene) -> Result<Vec<Row>> {
    let daemon = &scene.shop().daemon;
    let directory = tempfile::tempdir().context("scratch directory")?;
    let mut rows = Vec::new();
    for mib in [1_u64, 64] {
        let archive = directory.path().join("large.tar");
        let file = File::create(&archive).context("archive of a large file")?;
        let mut tar = Builder::new(file);
        append(&mut tar, "large", &vec![b'x'; usize::try_from(mib * MIB)?])?;
        tar.finish().context("archive of a large file")?;
        let image = format!("large:{mib}");
        daemon.hawser(&["import", &archive.display().to_string(), &image])?;
        let found: Image = daemon.client().get(&format!(
            "{}/{}",
            api::path::IMAGES,
            api::client::escape(&image)
        ))?;
        let kept = format!("copy-up of {mib} MiB");
        let thrown_away = format!("{kept}, --rm");
        for (row, ephemeral, peer, script) in [
            (
                kept,
                false,
                "cp of as much, and sync",
                "cp --reflink=auto -- \"$1\" \"$2\" && sync \"$2\"",
            ),
            (
                thrown_away,
                true,
                "cp of as much",
                "cp --reflink=auto -- \"$1\" \"$2\"",
            ),
        ] {
            let copy = directory.path().join("copy");
            let plain = || {
                let took = time(|| {
                    let mut shell = std::process::Command::new("sh");
                    shell.args(["-c", script, "sh"]).args([&archive, &copy]);
                    program::output(&mut shell).map(drop)
                });
                fs::remove_file(&copy)?;
                took
            };
            let write = || first_write(scene, &found.id, ephemeral);
            let row = Subject::new(row, "ms", Goal::AtMost(1.2));
            let peer_side: Sample<'_, f64> = Box::new(plain);
            let runs = scene.sizes.runs(FEW);
            rows.extend(compare(row, runs, Box::new(write), peer, Ok(peer_side))?);
        }
        daemon.hawser(&["rmi", "-f", &image])?;
    }
    Ok(rows)
}

/// Milliseconds of opening the image's `large` to append to it, in a container of its own.
fn first_write(scene: &Scene, image: &Digest, ephemeral: bool) -> Result<f64> {
    let client = scene.shop().daemon.client();
    let request = RootfsCreate {
        container: "measured".to_owned(),
        image: image.clone(),
        ephemeral,
        storage_opt: BTreeMap::new(),
        user_namespace: String::new(),
    };
    let route = format!("{ROOTFS}/measured");
    client.post::<Rootfs>(ROOTFS, &request)?;
    let mounted: RootfsMount = client.post(&format!("{route}/mount"), &())?;
    let mounted = scene.shop().host.path(Path::new(&mounted.path));
    let file = mounted.join("large");
    let took = time(|| {
        let mut options = fs::OpenOptions::new();
        let opened = options.append(true).open(&file).map(drop);
        opened.with_context(|| file.display().to_string())
    });
    client.delete(&route)?;
    took
}
