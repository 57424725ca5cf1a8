//! From the command line to the exit code of /bin/true.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use kernel_tests::{program, shop};

use super::row::{Goal, Row, Subject, compare};
use super::turns::Sample;
use super::{MANY, Scene, docker};

pub(crate) fn run_true(scene: &Scene) -> Result<Vec<Row>> {
    let none = &["--network", "none"];
    measure(scene, "run-true", "docker run --network none", none, none)
}

pub(crate) fn run_true_network(scene: &Scene) -> Result<Vec<Row>> {
    let ours = &["--network", "bench"];
    measure(scene, "run-true-network", "docker run", ours, &[])
}

fn measure(
    scene: &Scene,
    name: &str,
    peer_name: &str,
    our_flags: &[&str],
    peer_flags: &[&str],
) -> Result<Vec<Row>> {
    let subject = Subject {
        name: name.to_owned(),
        unit: "ms",
        goal: Goal::AtMost(0.14),
        tail: true,
    };
    let daemon = &scene.shop().daemon;
    let ours = [&["run", "--rm"], our_flags, &[shop::TOOLS, "true"]].concat();
    let theirs = [&["run", "--rm"], peer_flags, &[docker::TOOLS, "true"]].concat();
    let peer = scene.docker().map(|docker| -> Sample<'_, f64> {
        Box::new(move || milliseconds(&mut docker.command(&theirs)))
    });
    // Ours enters the throwaway host through nsenter, about 1 ms that dockerd's client is spared.
    let ours = Box::new(|| milliseconds(&mut daemon.command(&ours)?));
    compare(subject, scene.sizes.runs(MANY), ours, peer_name, peer)
}

fn milliseconds(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    program::output(command)?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
