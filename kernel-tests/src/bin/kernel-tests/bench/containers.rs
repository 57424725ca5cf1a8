//! From the command line to the exit code of /bin/true.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use kernel_tests::{program, shop};

use super::row::{Goal, Row, Sample, Subject, compare};
use super::{MANY, Scene, docker};

pub(crate) fn run_true(scene: &Scene) -> Result<Row> {
    let subject = Subject {
        name: "run-true",
        unit: "ms",
        peer_name: "docker run --network none",
        goal: Goal::AtMost(0.14),
        runs: MANY,
    };
    measure(
        scene,
        subject,
        &["--network", "none"],
        &["--network", "none"],
    )
}

pub(crate) fn run_true_network(scene: &Scene) -> Result<Row> {
    let subject = Subject {
        name: "run-true-network",
        unit: "ms",
        peer_name: "docker run",
        goal: Goal::AtMost(0.14),
        runs: MANY,
    };
    measure(scene, subject, &["--network", "bench"], &[])
}

fn measure(
    scene: &Scene,
    subject: Subject,
    our_flags: &[&str],
    peer_flags: &[&str],
) -> Result<Row> {
    let ours = [&["run", "--rm"], our_flags, &[shop::TOOLS, "true"]].concat();
    let theirs = [&["run", "--rm"], peer_flags, &[docker::TOOLS, "true"]].concat();
    let peer = scene.docker().map(|docker| -> Sample<'_> {
        Box::new(move || milliseconds(&mut docker.command(&theirs)))
    });
    // Ours enters the throwaway host through nsenter, about 1 ms that dockerd's client is spared.
    let ours = Box::new(|| milliseconds(&mut scene.shop.daemon.command(&ours)?));
    compare(subject, ours, peer)
}

fn milliseconds(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    program::output(command)?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
