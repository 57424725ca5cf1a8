//! Connections while the daemon is killed every second, and while members of a service come and go,
//! for as long as it is told to.

use std::time::Duration;

use anyhow::Result;
use kernel_tests::soak::{self, Outcome};

use super::Scene;
use super::row::{Goal, Row, Subject, row};

/// Who opens connections as fast as it goes.
const CLIENTS: usize = 4;
/// Design: connections a second while members come and go.
const RATE: f64 = 10_000.0;
/// docker's published ports are a process of the daemon's, and its rules have no members.
const NO_PEER: &str = "none has this";

pub(crate) fn kills(scene: &Scene) -> Result<Vec<Row>> {
    let outcome = soak::kills(Duration::from_secs(scene.sizes.soak))?;
    rows("daemon killed every second", &outcome, Goal::Shown)
}

pub(crate) fn churn(scene: &Scene) -> Result<Vec<Row>> {
    let outcome = soak::churn(Duration::from_secs(scene.sizes.soak), CLIENTS)?;
    rows("members come and go", &outcome, Goal::Reach(RATE))
}

fn rows(name: &str, outcome: &Outcome, rate: Goal) -> Result<Vec<Row>> {
    eprintln!("  {outcome}");
    let subject = |what: &str, unit, goal| Subject::new(format!("{what}, {name}"), unit, goal);
    let alone = |subject, ours: f64| row(subject, &Ok(vec![ours]), "-", &Err(NO_PEER.to_owned()));
    let lost = outcome.failures.len() as f64;
    Ok(vec![
        alone(subject("lost", "connections", Goal::Within(0.0)), lost)?,
        alone(subject("opened", "1/s", rate), outcome.rate())?,
    ])
}
