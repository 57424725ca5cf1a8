//! Sidecars: rows written a second time, beside what they describe.
//!
//! `meta.redb` is the truth while it can be read. A sidecar is written once, when its subject is made
//! (before its row is committed), so that a lost database can be made anew from the directories: [`crate::adopt`].

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::record::SCHEMA;

/// A row beside the number of its schema, as in the database.
#[derive(Serialize, Deserialize)]
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

/// The row of the sidecar at `path`.
///
/// # Errors
/// `NotFound`, or `InvalidData` for one that cannot be understood.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let text = std::fs::read(path)?;
    let Sidecar { schema, row } = serde_json::from_slice(&text).map_err(io::Error::from)?;
    if schema == SCHEMA {
        Ok(row)
    } else {
        let message = format!("its schema is {schema}, this version knows {SCHEMA}");
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

/// Writes the file into a directory that is being made, and that nobody looks for before it has its
/// name. It is on disk then, and all that was made before it on most filesystems; its directory is not
/// flushed.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Replaces the file at `path` by one that is on disk before it has the name. Its directory is not
/// flushed.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    write(&new, text)?;
    std::fs::rename(&new, path)
}
