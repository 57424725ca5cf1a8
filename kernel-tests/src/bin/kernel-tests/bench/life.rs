//! What containers cost beside docker's once there are any: a command in one that runs, a log, the
//! process that holds it, an image of many layers from a registry.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernel_tests::registry::{Guard, Registry};
use kernel_tests::{Podman, program, shop};

use super::docker::{self, Docker};
use super::memory;
use super::row::{Goal, Row, Subject, compare, row};
use super::turns::{self, Sample};
use super::{FEW, MANY, Scene};

/// Of the log that is measured, in lines of a hundred bytes.
const LOG_BYTES: u32 = 64_000_000;
/// Of the image that is pulled, a megabyte each, above those of the tools.
const LAYERS: u32 = 30;
const PORT: u16 = 5090;
const MANY_LAYERS: &str = "127.0.0.1:5090/many:1";
/// After so long without output, memory is what it stays.
const CALM: Duration = Duration::from_secs(2);
/// Outlives what is measured, and is removed at the end.
const IDLE: [&str; 2] = ["sleep", "3600"];

fn timed(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    program::output(command)?;
    Ok(begin.elapsed().as_secs_f64())
}

pub(crate) fn exec(scene: &Scene) -> Result<Vec<Row>> {
    const NAME: &str = "exec-idle";
    let words = ["exec", NAME, "true"];
    let idle = |tools| {
        [
            &["run", "-d", "--network", "none", "--name", NAME, tools],
            &IDLE[..],
        ]
        .concat()
    };
    let daemon = &scene.shop().daemon;
    daemon.hawser(&idle(shop::TOOLS))?;
    let peer = scene
        .docker()
        .and_then(|docker| -> Result<Sample<'_, f64>, String> {
            let begun = docker.output(&idle(docker::TOOLS));
            begun.map_err(|error| format!("{error:#}"))?;
            Ok(Box::new(move || {
                Ok(timed(&mut docker.command(&words))? * 1e3)
            }))
        });
    let ours = Box::new(|| Ok(timed(&mut daemon.command(&words)?)? * 1e3));
    let subject = Subject {
        tail: true,
        ..Subject::new("exec-true", "ms", Goal::AtMost(0.5))
    };
    let rows = compare(subject, scene.sizes.runs(MANY), ours, "docker exec", peer);
    daemon.hawser(&["rm", "-f", NAME])?;
    if let Ok(docker) = scene.docker() {
        docker.output(&["rm", "-f", NAME])?;
    }
    rows
}

/// A shell's command that writes the log.
fn writer() -> String {
    let line = "x".repeat(99);
    format!("yes {line} | head -c {LOG_BYTES}")
}

pub(crate) fn log(scene: &Scene) -> Result<Vec<Row>> {
    const NAME: &str = "log-writer";
    let script = writer();
    let turn = |command: &dyn Fn(&[&str]) -> Result<Command>, flags: &[&str], tools| {
        let head = [
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            NAME,
            "--log-driver",
            "json-file",
        ];
        let words = [&head[..], flags, &[tools, "sh", "-c", &script]].concat();
        let begin = Instant::now();
        program::output(&mut command(&words)?)?;
        let code = program::output(&mut command(&["wait", NAME])?)?;
        let seconds = begin.elapsed().as_secs_f64();
        ensure!(code == "0", "the writer ended with {code}");
        program::output(&mut command(&["rm", NAME])?)?;
        Ok(f64::from(LOG_BYTES) / 1e6 / seconds)
    };
    let daemon = &scene.shop().daemon;
    // Docker's is without bound by itself.
    let endless = ["--log-opt", "max-size=-1"];
    let ours = Box::new(|| turn(&|words| daemon.command(words), &endless, shop::TOOLS));
    let peer = scene.docker().map(|docker| -> Sample<'_, f64> {
        Box::new(move || turn(&|words| Ok(docker.command(words)), &[], docker::TOOLS))
    });
    let subject = Subject::new("log-json-file", "MB/s", Goal::AtLeast(1.0));
    compare(
        subject,
        scene.sizes.runs(FEW),
        ours,
        "docker, json-file",
        peer,
    )
}

/// The memory of the process that holds a container which has written a log.
pub(crate) fn shim(scene: &Scene) -> Result<Vec<Row>> {
    const NAME: &str = "log-idle";
    let script = format!("{}; echo end; exec sleep 3600", writer());
    let turn = |command: &dyn Fn(&[&str]) -> Result<Command>, tools| -> Result<f64> {
        let say = |words: &[&str]| program::output(&mut command(words)?);
        let head = ["run", "-d", "--network", "none", "--name", NAME];
        say(&[&head[..], &[tools, "sh", "-c", &script]].concat())?;
        kernel_tests::wait::until(shop::SOON, "the log is written", || {
            let last = say(&["logs", "--tail", "1", NAME]).ok()?;
            (last.trim() == "end").then_some(())
        })?;
        // What is asked is what it costs to have a container, not to have its output.
        thread::sleep(CALM);
        let init = say(&["inspect", "-f", "{{.State.Pid}}", NAME])?;
        let resident = memory::of_process(parent(init.trim())?)?[0];
        say(&["rm", "-f", NAME])?;
        Ok(resident)
    };
    let daemon = &scene.shop().daemon;
    let ours = Box::new(|| turn(&|words| daemon.command(words), shop::TOOLS));
    let peer = scene.docker().map(|docker| -> Sample<'_, f64> {
        Box::new(move || turn(&|words| Ok(docker.command(words)), docker::TOOLS))
    });
    let subject = Subject::new("shim-memory", "MB", Goal::Within(4.0));
    compare(
        subject,
        scene.sizes.runs(FEW),
        ours,
        "containerd-shim-runc-v2",
        peer,
    )
}

fn parent(pid: &str) -> Result<u32> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
    let parent = parent.and_then(|parent| parent.parse().ok());
    parent.with_context(|| format!("no parent in {path}"))
}

pub(crate) fn pull(scene: &Scene) -> Result<Vec<Row>> {
    let shop = scene.shop();
    let scratch = tempfile::Builder::new()
        .prefix("hawser-pull-")
        .tempdir_in("/var/tmp")
        .context("scratch directory")?;
    let archive = scratch.path().join("many.tar");
    let registry = Registry::start(&shop.host, PORT, Guard::default())?;
    build(&shop.daemon, &archive)?;
    shop.daemon.hawser(&["push", "-q", MANY_LAYERS])?;
    let ours: Sample<'_, f64> = Box::new(|| {
        shop.daemon.hawser(&["rmi", MANY_LAYERS])?;
        Ok(timed(&mut shop.daemon.command(&["pull", "-q", MANY_LAYERS])?)? * 1e3)
    });
    let beside = scene.docker().and_then(|docker| {
        let beside = seeded(docker, &archive);
        beside.map_err(|error| format!("{error:#}"))
    });
    let docker = scene.docker().map(|docker| -> Sample<'_, f64> {
        Box::new(move || {
            docker.output(&["rmi", MANY_LAYERS])?;
            Ok(timed(&mut docker.command(&["pull", "-q", MANY_LAYERS]))? * 1e3)
        })
    });
    let podman = Podman::new(Arc::clone(&shop.host), scratch.path().join("podman"), "")?;
    let by_podman = |words: &[&str]| {
        let mut command = podman.command();
        command.args(["--storage-driver", "overlay"]).args(words);
        command
    };
    let podmans: Sample<'_, f64> = Box::new(|| {
        program::output(&mut by_podman(&["rmi", "--ignore", "-f", MANY_LAYERS]))?;
        let words = ["pull", "-q", "--tls-verify=false", MANY_LAYERS];
        Ok(timed(&mut by_podman(&words))? * 1e3)
    });
    let players = [
        Ok(ours),
        beside.as_ref().map_err(Clone::clone).and(docker),
        Ok(podmans),
    ];
    let figures = turns::take(scene.sizes.runs(FEW), players);
    program::output(&mut by_podman(&["system", "reset", "-f"]))?;
    shop.daemon.hawser(&["rmi", MANY_LAYERS])?;
    drop(registry);
    let name = "pull-30-layers";
    Ok(vec![
        row(
            Subject::new(name, "ms", Goal::AtMost(1.0)),
            &figures[0],
            "docker pull",
            &figures[1],
        )?,
        row(
            Subject::new(name, "ms", Goal::AtMost(1.0)),
            &figures[0],
            "podman pull",
            &figures[2],
        )?,
    ])
}

/// Makes the image, and an archive of it.
fn build(daemon: &kernel_tests::Daemon, archive: &Path) -> Result<()> {
    const NAME: &str = "layer";
    let mut image = shop::TOOLS;
    for number in 0..LAYERS {
        let script = format!("head -c 1000000 /dev/urandom >/layer{number}");
        let run = [
            "run",
            "--network",
            "none",
            "--name",
            NAME,
            image,
            "sh",
            "-c",
            &script,
        ];
        daemon.hawser(&run)?;
        daemon.hawser(&["commit", NAME, MANY_LAYERS])?;
        daemon.hawser(&["rm", NAME])?;
        image = MANY_LAYERS;
    }
    // Those that had the name before would keep the layers.
    daemon.hawser(&["image", "prune", "-f"])?;
    daemon.hawser(&["save", "-o", &archive.display().to_string(), MANY_LAYERS])?;
    Ok(())
}

/// A registry with the image where `docker` is.
fn seeded(docker: &Docker, archive: &Path) -> Result<Registry> {
    let registry = Registry::start(docker.host(), PORT, Guard::default())?;
    docker.output(&["load", "-q", "-i", &archive.display().to_string()])?;
    docker.output(&["push", "-q", MANY_LAYERS])?;
    Ok(registry)
}
