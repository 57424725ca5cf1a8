//! Asking whoever sits at the terminal.

use std::io::{self, BufRead, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::error::CliError;
use super::output;

/// Longer than any password, key or token.
const LONGEST: u64 = 64 << 10;

/// What nobody is to see: typed without echo, or standard input.
pub(super) fn secret(question: &str) -> Result<String, CliError> {
    if io::stdin().is_terminal() {
        prompt(question, false)
    } else {
        from_stdin()
    }
}

/// All of standard input, but the end of its last line.
pub(super) fn from_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A line that is typed.
pub(super) fn prompt(question: &str, echo: bool) -> Result<String, CliError> {
    output::write(question)?;
    let silence = (!echo).then(Silence::begin).transpose().map_err(failed)?;
    let mut line = String::new();
    io::stdin()
        .lock()
        .take(LONGEST)
        .read_line(&mut line)
        .map_err(failed)?;
    if silence.is_some() {
        output::line("")?;
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn failed(source: io::Error) -> CliError {
    CliError::Io {
        op: "read from standard input",
        source,
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).unwrap_or(());
    }
}
