//! Stories of one guest, or of several on one virtual switch: the scripts of `kernel-tests/guests`, run
//! in all of them at once. `# guests: N` in a script says how many, `# first: systemd` that the guests are
//! machines as people install them, and `# packages: NAME…` what they have more than others.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::{Account, Verdict};
use super::guest::{Guest, Machine, Seat};
use super::plan::is_asked_for;
use crate::workspace;

const SCRIPTS: &str = "kernel-tests/guests";
/// How long the first guest's emulator may take to open the others' wires.
const WIRED: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) guests: usize,
    pub(super) first: First,
    /// Of Debian's.
    pub(super) packages: Vec<String>,
    pub(super) text: String,
}

/// The first process of a guest's user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// What the plan says, and nothing else.
    Plan,
    /// As on an installed system, with the plan for one of its units.
    Systemd,
}

impl First {
    /// What `guest/initramfs.sh` reads.
    pub(super) fn environment(self) -> &'static str {
        match self {
            Self::Plan => "",
            Self::Systemd => "FIRST=/lib/systemd/systemd",
        }
    }
}

/// The scripts that [are asked for](is_asked_for).
pub(super) fn scripts(names: &[String]) -> Result<Vec<Script>> {
    let mut scripts = Vec::new();
    for (file, text) in files(&workspace::root().join(SCRIPTS))? {
        let name = file.trim_end_matches(".sh").to_owned();
        if is_asked_for(names, &name) {
            let guests = said(&text, "guests").and_then(|number| number.parse().ok());
            let guests = guests.with_context(|| format!("{file} does not say `# guests: N`"))?;
            let first = match said(&text, "first") {
                Some("systemd") => First::Systemd,
                Some(other) => bail!("{file}: no first process {other:?}"),
                None => First::Plan,
            };
            let packages = said(&text, "packages").unwrap_or_default();
            let packages = packages.split_whitespace().map(str::to_owned);
            scripts.push(Script {
                name,
                guests,
                first,
                packages: packages.collect(),
                text,
            });
        }
    }
    Ok(scripts)
}

/// What scripts share, by the name that they include it by.
pub(super) fn common() -> Result<Vec<(String, String)>> {
    files(&workspace::root().join(SCRIPTS).join("common"))
}

/// Names and texts of the files in `dir`, in order.
fn files(dir: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| path.display().to_string())?;
            files.push((name.into_owned(), text));
        }
    }
    files.sort();
    Ok(files)
}

/// What a script says of `name` in a comment of its own.
fn said<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let comments = text.lines().filter_map(|line| line.strip_prefix("# "));
    let mut pairs = comments.filter_map(|line| line.split_once(": "));
    let (_, what) = pairs.find(|(about, _)| *about == name)?;
    Some(what.trim())
}

/// Starts `count` guests and follows each to its end.
pub(super) fn run(
    machine: Machine<'_>,
    count: usize,
    logs: &Path,
    limit: Duration,
    tell: impl Fn(usize, &Verdict) + Sync,
) -> Result<Vec<(Guest, Account)>> {
    // Names of sockets may not be long.
    let wires = tempfile::tempdir().context("directory of the switch")?;
    let mut guests = Vec::new();
    for number in 1..=count {
        let seat = Seat {
            number,
            of: count,
            wires: wires.path(),
        };
        guests.push(Guest::start(machine, seat, logs, limit)?);
        if number == 1 {
            await_wires(wires.path(), count)?;
        }
    }
    let tell = &tell;
    thread::scope(|scope| {
        let followed: Vec<_> = guests
            .into_iter()
            .zip(1..)
            .map(|(mut guest, number)| {
                scope.spawn(move || {
                    let account = guest.follow(|verdict| tell(number, verdict))?;
                    Ok((guest, account))
                })
            })
            .collect();
        let ended = followed.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_panic) => bail!("a thread that follows a guest panicked"),
        });
        ended.collect()
    })
}

fn await_wires(dir: &Path, count: usize) -> Result<()> {
    let wires: Vec<PathBuf> = (2..=count)
        .map(|number| dir.join(format!("wire-{number}")))
        .collect();
    let deadline = Instant::now() + WIRED;
    while !wires.iter().all(|wire| wire.exists()) {
        if Instant::now() > deadline {
            bail!("the first guest opens no wires in {}", dir.display());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_says_how_many_guests() {
        assert!(scripts(&[]).unwrap().iter().all(|script| script.guests > 0));
        assert_eq!(scripts(&["vxlan".to_owned()]).unwrap().len(), 1);
        assert_eq!(said("#!/bin/sh\n# guests: 3\n", "guests"), Some("3"));
        assert_eq!(said("#!/bin/sh\n# no number\n", "guests"), None);
    }
}
