//! The acceptance scripts against a daemon of their own, in the host's namespaces.
//!
//! A list names those that cannot pass yet, each with the reason. A script that fails without
//! being on the list is an error, and so is one that passes although it is on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kernel_tests::{Daemon, Host, program};

/// What somebody sets whose scripts were written for Docker: its bridge's name, and the MTU it
/// gives that bridge whatever the host's link has.
const SETTINGS: &str = "[network]\ndefault-bridge = \"docker0\"\nmtu = 1500\n";

/// How often a script that races in itself is run before it counts as failed.
const ATTEMPTS: usize = 5;

pub(crate) fn run(dir: &Path, pending: &Path) -> Result<()> {
    let text = fs::read_to_string(pending).with_context(|| pending.display().to_string())?;
    let list = parse_list(&text)?;
    let daemon = Daemon::configured(Arc::new(Host::real()), SETTINGS)?;
    let restart = write_restart(&daemon)?;
    let runner = |names: &[&str]| run_scripts(dir, &daemon, &restart, &list, names);
    let mut results = runner(&[])?;
    for name in list
        .iter()
        .filter(|(_, row)| row.races)
        .map(|(name, _)| name)
    {
        for _ in 1..ATTEMPTS {
            if results.get(name) == Some(&Verdict::Failed) {
                results.extend(runner(&[name])?);
            }
        }
    }
    judge(&results, &list)
}

/// Runs the scripts whose name contains one of `names`, or all, and shows their output.
fn run_scripts(
    dir: &Path,
    daemon: &Daemon,
    restart: &Path,
    list: &BTreeMap<String, Row>,
    names: &[&str],
) -> Result<BTreeMap<String, Verdict>> {
    let mut child = Command::new(dir.join("run"))
        .args(names)
        .env("D", program::under_test("hawser")?)
        .env(
            api::path::HOST_ENV,
            format!("unix://{}", daemon.directories().socket().display()),
        )
        .env("ACC_RESTART", restart)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| dir.join("run").display().to_string())?;
    let output = child
        .stdout
        .take()
        .context("the runner's output is piped")?;
    let mut results = BTreeMap::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("output of the runner")?;
        let result = parse_result(&line);
        println!("{}", annotate(&line, result.as_ref(), list));
        results.extend(result);
    }
    // Its exit code counts pending scripts as failed; the list decides instead.
    child.wait().context("acceptance runner")?;
    Ok(results)
}

/// A script that restarts the daemon, with what the unit `hawser-resume` does after that. The new one is not our child: its process id is in a file,
/// and clean-up finds it by its directories.
fn write_restart(daemon: &Daemon) -> Result<PathBuf> {
    let path = daemon.directories().root().join("restart");
    let pid = daemon.pid().context("the daemon runs")?;
    let pid_file = daemon.directories().root().join("pid");
    fs::write(&pid_file, pid.to_string()).context("process id of the daemon")?;
    let script = format!(
        "#!/bin/sh
set -e
kill $(cat {pid_file})
while kill -0 $(cat {pid_file}) 2>/dev/null && [ \"$(cut -d' ' -f3 /proc/$(cat {pid_file})/stat)\" != Z ]; do sleep 0.1; done
setsid {command} >>{log} 2>&1 </dev/null &
echo $! >{pid_file}
tries=0
until {hawser} version >/dev/null 2>&1; do
  tries=$((tries + 1)); [ $tries -lt 150 ] || exit 1
  sleep 0.1
done
{hawser} resume >>{log} 2>&1 </dev/null
",
        pid_file = pid_file.display(),
        command = daemon.command_line()?.join(" "),
        hawser = program::under_test("hawser")?.display(),
        log = daemon.directories().log().display(),
    );
    fs::write(&path, script).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())?;
    Ok(path)
}

/// What the list says of one script.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    reason: String,
    /// It passes, but not every time, and the fault is its own.
    races: bool,
}

/// Lines of `NAME: REASON`, or `NAME: races: REASON`; empty lines and `#` comments are skipped.
fn parse_list(text: &str) -> Result<BTreeMap<String, Row>> {
    let mut list = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let Some((name, reason)) = line.split_once(": ") else {
            bail!("a listed script needs a reason: {line:?}");
        };
        list.insert(
            name.to_owned(),
            Row {
                reason: reason.to_owned(),
                races: reason.starts_with("races: "),
            },
        );
    }
    Ok(list)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// The line, unless a listed script fails: then what the list says of it, so that what is left of
/// `not ok` is news.
fn annotate(
    line: &str,
    result: Option<&(String, Verdict)>,
    list: &BTreeMap<String, Row>,
) -> String {
    let listed = |name: &str| list.get(name).filter(|row| !row.races);
    match result {
        Some((name, Verdict::Failed)) if let Some(row) = listed(name) => {
            format!("listed - {name}: {}", row.reason)
        }
        _ => line.to_owned(),
    }
}

/// `ok 3 - NAME`, `ok 3 - NAME # SKIP why`, `not ok 3 - NAME # why`.
fn parse_result(line: &str) -> Option<(String, Verdict)> {
    let (state, rest) = line.split_once(" - ")?;
    let name = rest.split([' ', '#']).next()?.to_owned();
    let verdict = match state.rsplit_once(' ')?.0 {
        "ok" if rest.contains("# SKIP") => Verdict::Skipped,
        "ok" => Verdict::Passed,
        "not ok" => Verdict::Failed,
        _ => return None,
    };
    Some((name, verdict))
}

fn judge(results: &BTreeMap<String, Verdict>, list: &BTreeMap<String, Row>) -> Result<()> {
    let mut wrong = Vec::new();
    let mut expected = 0;
    for (name, verdict) in results {
        match (verdict, list.get(name)) {
            (Verdict::Passed, None | Some(Row { races: true, .. })) => {}
            (Verdict::Failed | Verdict::Skipped, Some(Row { races: false, .. })) => expected += 1,
            (Verdict::Passed, Some(_)) => {
                wrong.push(format!("{name} passes: take it off the list"))
            }
            (Verdict::Failed, _) => wrong.push(format!("{name} fails")),
            (Verdict::Skipped, _) => {
                wrong.push(format!("{name} is skipped: list it with the reason"));
            }
        }
    }
    let unknown = list.keys().filter(|name| !results.contains_key(*name));
    wrong.extend(unknown.map(|name| format!("{name} is on the list but does not exist")));
    println!(
        "{} scripts, {expected} cannot pass yet, as the list says",
        results.len()
    );
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_runner() {
        let rows = [
            ("ok 1 - net-01-a", Some(("net-01-a", Verdict::Passed))),
            ("ok 2 - net-02-b (3 s)", Some(("net-02-b", Verdict::Passed))),
            ("ok 3 - c # SKIP needs x", Some(("c", Verdict::Skipped))),
            (
                "not ok 4 - d # no such - thing",
                Some(("d", Verdict::Failed)),
            ),
            ("1..40", None),
            ("3 passed, 1 failed, 0 skipped", None),
        ];
        for (line, expected) in rows {
            let expected = expected.map(|(name, verdict)| (name.to_owned(), verdict));
            assert_eq!(parse_result(line), expected, "{line}");
        }
    }

    #[test]
    fn a_listed_failure_is_no_news() {
        let list = parse_list("b: needs services\nc: races: with itself\n").unwrap();
        let shown = |line| annotate(line, parse_result(line).as_ref(), &list);
        assert_eq!(shown("not ok 1 - b # got ''"), "listed - b: needs services");
        for line in [
            "not ok 2 - a # why",
            "not ok 3 - c # why",
            "ok 4 - b",
            "1..4",
        ] {
            assert_eq!(shown(line), line);
        }
    }

    #[test]
    fn the_list_and_the_results_must_agree() {
        let results = |pairs: &[(&str, Verdict)]| -> BTreeMap<String, Verdict> {
            pairs
                .iter()
                .map(|(name, verdict)| ((*name).to_owned(), *verdict))
                .collect()
        };
        let pending = parse_list("# later\n\nb: needs services\n").unwrap();
        let fine = [("a", Verdict::Passed), ("b", Verdict::Failed)];
        assert!(judge(&results(&fine), &pending).is_ok());
        let passes = [("a", Verdict::Passed), ("b", Verdict::Passed)];
        assert!(judge(&results(&passes), &pending).is_err());
        let fails = [("a", Verdict::Failed), ("b", Verdict::Failed)];
        assert!(judge(&results(&fails), &pending).is_err());
        assert!(judge(&results(&fine[..1]), &pending).is_err());
        let racing = parse_list("a: races: with itself\nb: needs services\n").unwrap();
        assert!(judge(&results(&fine), &racing).is_ok());
        assert!(judge(&results(&fails), &racing).is_err());
        assert!(parse_list("b").is_err());
    }
}
