//! Running programs: one line that says what failed, and quiet unless it did.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The command line as a person would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs with our standard streams.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| line(command))?;
    if !status.success() {
        bail!("`{}`: {status}", line(command));
    }
    Ok(())
}

/// Runs and returns standard output; standard error goes into the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| line(command))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!(
            "`{}`: {}\n{}",
            line(command),
            output.status,
            String::from_utf8_lossy(&text).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", line(command)))
}

/// Runs and returns standard output; standard error is ours.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| line(command))?;
    if !output.status.success() {
        bail!("`{}`: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", line(command)))
}

/// Runs with standard error passed on line by line and handed to `see`; returns whether the
/// program succeeded.
pub(crate) fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| line(command))?;
    let stderr = child
        .stderr
        .take()
        .context("the child's standard error is piped")?;
    for text in BufReader::new(stderr).lines() {
        let text = text.with_context(|| format!("standard error of `{}`", line(command)))?;
        eprintln!("{text}");
        see(&text);
    }
    Ok(child.wait().with_context(|| line(command))?.success())
}

/// Whether `program` is on the search path.
pub(crate) fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

/// The file of `program` on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> Result<bool> {
    // proc_pid_status(5): the first number is the real, the second the effective user.
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|users| users.split_whitespace().nth(1));
    Ok(user == Some("0"))
}

/// An error that says why `what` needs root, unless we are.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if is_root()? {
        return Ok(());
    }
    bail!("{what} needs root (namespaces, mounts, eBPF); run it as root or with `sudo -E`")
}
