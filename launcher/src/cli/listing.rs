//! What all listings do with the things they have found.

use std::collections::BTreeSet;

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
