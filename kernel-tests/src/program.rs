//! Running programs and reading what they said.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Directory of the programs under test; by default the one beside the running test.
pub const BIN_DIR_ENV: &str = "HAWSER_BIN_DIR";

/// How long a program may run: half of what a story may, so that one that hangs leaves time to clean
/// up behind it.
const LIMIT: Duration = Duration::from_secs(150);

/// What a program that has ended said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The command line.
    pub line: String,
    /// Exit code; 128 and the signal's number for a program that a signal ended.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output without the white space around it.
    ///
    /// # Errors
    /// When the exit code is not 0; the error has all that was said.
    pub fn success(self) -> Result<String> {
        if self.code != 0 {
            bail!(
                "`{}` exited {}: {}{}",
                self.line,
                self.code,
                self.stdout,
                self.stderr.trim()
            );
        }
        Ok(self.stdout.trim().to_owned())
    }

    /// Everything that was said, for matching.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be started, or does not end; then it is killed.
pub fn run(command: &mut Command) -> Result<Ran> {
    use std::os::unix::process::ExitStatusExt;
    let line = line(command);
    let output = end(command.stdin(Stdio::null())).with_context(|| line.clone())?;
    let signal = || output.status.signal().map(|number| 128 + number);
    Ok(Ran {
        code: output.status.code().or_else(signal).unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        line,
    })
}

/// What `command` says until it, and whoever has its standard streams, has ended.
fn end(command: &mut Command) -> Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn()?;
    let pid = child.id();
    let (ended, end) = mpsc::channel();
    // It is left behind when it waits for somebody else who has the streams.
    thread::spawn(move || drop(ended.send(child.wait_with_output())));
    if let Ok(output) = end.recv_timeout(LIMIT) {
        return Ok(output?);
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("a process id")?, Signal::KILL)?;
    bail!("no end within {} s", LIMIT.as_secs());
}

/// Runs `command`, which must succeed, and returns its standard output.
///
/// # Errors
/// As [`Ran::success`].
pub fn output(command: &mut Command) -> Result<String> {
    run(command)?.success()
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The program under test called `name`.
///
/// # Errors
/// When it has not been built.
pub fn under_test(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os(BIN_DIR_ENV) {
        Some(dir) => PathBuf::from(dir),
        None => beside_this_program()?,
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} does not exist; build it with `cargo xtask build`",
            path.display()
        );
    }
    Ok(path)
}

/// Cargo puts tests into `deps/` beside the programs.
fn beside_this_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("path of this program")?;
    let dir = own.parent().context("a program has a directory")?;
    let is_test = dir.ends_with("deps");
    let dir = if is_test {
        dir.parent().context("deps/ has a parent")?
    } else {
        dir
    };
    Ok(dir.to_owned())
}
