//! Sidecars: rows written a second time, beside what they describe.
//!
//! `meta.redb` is the truth while it can be read. A sidecar is written once, when its subject is made
//! (before its row is committed), so that a lost database can be made anew from the directories.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::model::record::SCHEMA;

/// A row beside the number of its schema, as in the database.
#[derive(Serialize)]
struct Sidecar<T> {
    schema: u32,
    #[serde(flatten)]
    row: T,
}

/// Text of the sidecar of `row`.
pub(crate) fn encode(row: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Sidecar {
        schema: SCHEMA,
        row,
    })?;
    text.push(b'\n');
    Ok(text)
}

/// Replaces the file at `path` by one that is on disk before it has the name. Its directory is not
/// flushed.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
