//! Lines for the user. A reader that has gone, such as `head`, is an error and not a panic.

use std::fmt::Display;
use std::io::{self, BufRead, Write};

use super::error::CliError;

/// Prints a line on standard output.
///
/// # Errors
/// Standard output is closed.
pub(super) fn line(text: impl Display) -> Result<(), CliError> {
    write(format_args!("{text}\n"))
}

/// Prints text on standard output.
///
/// # Errors
/// Standard output is closed.
pub(super) fn write(text: impl Display) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|source| CliError::Io {
            op: "write the output",
            source,
        })
}

/// Prints a line on standard error; nobody is left to be told if that fails.
pub(crate) fn warn(text: impl Display) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Reports a failure after which the command goes on.
pub(super) fn failure(error: &CliError) {
    warn(format_args!("hawser: {error}"));
}

/// Lists what a prune removed, if it was anything, under a title.
///
/// # Errors
/// Standard output is closed.
pub(super) fn pruned(title: &str, lines: &[String]) -> Result<(), CliError> {
    if lines.is_empty() {
        return Ok(());
    }
    line(title)?;
    lines.iter().try_for_each(line)?;
    line("")
}

/// Asks whether to go on, in Docker's words; anything but yes means no.
///
/// # Errors
/// Standard output is closed.
pub(super) fn confirm(warning: &str) -> Result<bool, CliError> {
    write(format_args!(
        "WARNING! {warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_err() || !answer.ends_with('\n') {
        line("")?;
    }
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}
