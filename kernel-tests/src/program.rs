//! Running programs and reading what they said.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Directory of the programs under test; by default the one beside the running test.
pub const BIN_DIR_ENV: &str = "HAWSER_BIN_DIR";

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
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<Ran> {
    use std::os::unix::process::ExitStatusExt;
    let line = line(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| line.clone())?;
    let signal = || output.status.signal().map(|number| 128 + number);
    Ok(Ran {
        code: output.status.code().or_else(signal).unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        line,
    })
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
