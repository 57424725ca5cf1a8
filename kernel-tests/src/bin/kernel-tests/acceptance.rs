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

pub(crate) fn run(dir: &Path, pending: &Path) -> Result<()> {
    let text = fs::read_to_string(pending).with_context(|| pending.display().to_string())?;
    let pending = parse_pending(&text)?;
    let daemon = Daemon::start(Arc::new(Host::real()))?;
    let restart = write_restart(&daemon)?;
    let mut child = Command::new(dir.join("run"))
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
        println!("{line}");
        results.extend(parse_result(&line));
    }
    // Its exit code counts pending scripts as failed; the list decides instead.
    child.wait().context("acceptance runner")?;
    judge(&results, &pending)
}

/// A script that restarts the daemon. The new one is not our child: its process id is in a file,
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
",
        pid_file = pid_file.display(),
        command = daemon.command_line()?.join(" "),
        log = daemon.directories().log().display(),
    );
    fs::write(&path, script).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Lines of `NAME: REASON`; empty lines and `#` comments are skipped.
fn parse_pending(text: &str) -> Result<BTreeMap<String, String>> {
    let mut pending = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        let Some((name, reason)) = line.split_once(": ") else {
            bail!("a pending script needs a reason: {line:?}");
        };
        pending.insert(name.to_owned(), reason.to_owned());
    }
    Ok(pending)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
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

fn judge(results: &BTreeMap<String, Verdict>, pending: &BTreeMap<String, String>) -> Result<()> {
    let is = |name: &str, verdict| results.get(name) == Some(&verdict);
    let mut wrong = Vec::new();
    for name in results.keys().filter(|name| !pending.contains_key(*name)) {
        if is(name, Verdict::Failed) {
            wrong.push(format!("{name} fails"));
        } else if is(name, Verdict::Skipped) {
            wrong.push(format!("{name} is skipped: list it with the reason"));
        }
    }
    for name in pending.keys() {
        if is(name, Verdict::Passed) {
            wrong.push(format!("{name} passes: take it off the list"));
        } else if !results.contains_key(name) {
            wrong.push(format!("{name} is on the list but does not exist"));
        }
    }
    let expected = pending
        .keys()
        .filter(|name| is(name, Verdict::Failed))
        .count();
    println!(
        "{} scripts, {expected} fail as the list says",
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
    fn the_list_and_the_results_must_agree() {
        let results = |pairs: &[(&str, Verdict)]| -> BTreeMap<String, Verdict> {
            pairs
                .iter()
                .map(|(name, verdict)| ((*name).to_owned(), *verdict))
                .collect()
        };
        let pending = parse_pending("# later\n\nb: needs services\n").unwrap();
        let fine = [("a", Verdict::Passed), ("b", Verdict::Failed)];
        assert!(judge(&results(&fine), &pending).is_ok());
        let passes = [("a", Verdict::Passed), ("b", Verdict::Passed)];
        assert!(judge(&results(&passes), &pending).is_err());
        let fails = [("a", Verdict::Failed), ("b", Verdict::Failed)];
        assert!(judge(&results(&fails), &pending).is_err());
        assert!(judge(&results(&fine[..1]), &pending).is_err());
        assert!(parse_pending("b").is_err());
    }
}
