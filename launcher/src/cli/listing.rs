//! What all listings do with the things they have found.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use super::error::CliError;
use super::output;
use crate::format::table::{self, Columns, Row};

/// Prints ids, each once, or rows as `format` asks.
///
/// # Errors
/// A bad template, or standard output is closed.
pub(super) fn print<T>(
    things: &[T],
    (quiet, format): (bool, &str),
    columns: &Columns,
    id: impl Fn(&T) -> String,
    row: impl Fn(&T) -> Row,
) -> Result<i32, CliError> {
    if quiet {
        let mut shown = BTreeSet::new();
        for id in things.iter().map(id) {
            if shown.insert(id.clone()) {
                output::line(id)?;
            }
        }
    } else {
        let rows: Vec<Row> = things.iter().map(row).collect();
        output::write(table::list(columns, &rows, format)?)?;
    }
    Ok(0)
}

/// How long a listing that is shown again and again stands.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Moves to the first line of a terminal, and erases what is below it.
const HOME: &str = "\x1b[H\x1b[J";

/// Shows rows, and shows them anew after each [`INTERVAL`] unless it is to be `once`.
///
/// # Errors
/// A bad template, standard output is closed, or those of `rows`.
pub(super) fn watch(
    columns: &Columns,
    (once, format): (bool, &str),
    mut rows: impl FnMut() -> Result<Vec<Row>, CliError>,
) -> Result<i32, CliError> {
    let is_screen = io::stdout().is_terminal() && !once;
    loop {
        let listing = table::list(columns, &rows()?, format)?;
        let start = if is_screen { HOME } else { "" };
        output::write(format_args!("{start}{listing}"))?;
        if once {
            return Ok(0);
        }
        thread::sleep(INTERVAL);
    }
}
