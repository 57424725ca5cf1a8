//! A second copy of the durable records, in a file of its own: for a database that was lost.
//!
//! ```text
//! <state-dir>/networks.json   {"schema": 1, "tables": {"net_networks": {ID: Network}, …}}
//! ```
//! The database is the truth while it can be read. The file is written after each commit, whole, so
//! that it is at most one commit behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use redb::Database;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NETWORKS, SCHEMA, SERVICES, StoreError, Table, decode, read_rows};
use crate::model::network::Network;
use crate::model::service::Service;

const FILE: &str = "networks.json";
const TABLES: [Table; 2] = [NETWORKS, SERVICES];

#[derive(Serialize, Deserialize)]
struct Copy {
    schema: u32,
    /// By table, then by key; values as in the database.
    tables: BTreeMap<String, BTreeMap<String, Value>>,
}

/// Puts networks and services on record again as their copy tells, for a database that is new or an
/// older one, and returns how many networks there are. Without a copy nothing changes.
///
/// # Errors
/// [`StoreError`]: the copy cannot be understood, or the database cannot be written.
pub fn adopt(database: &Database, state_dir: &Path) -> Result<usize, StoreError> {
    let path = state_dir.join(FILE);
    let copy = match std::fs::read(&path) {
        Ok(text) => read(&path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let rows = |table: Table| copy.tables.get(table.0).into_iter().flatten();
    // What no later start could read must not come into the database.
    for (key, value) in rows(NETWORKS) {
        decode::<Network>(key.clone(), NETWORKS.0, &value.to_string())?;
    }
    for (key, value) in rows(SERVICES) {
        decode::<Service>(key.clone(), SERVICES.0, &value.to_string())?;
    }
    let run = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        for table in TABLES {
            transaction.delete_table(table.definition())?;
            let mut opened = transaction.open_table(table.definition())?;
            for (key, value) in rows(table) {
                opened.insert(key.as_str(), value.to_string().as_str())?;
            }
        }
        transaction.commit()?;
        Ok(())
    };
    run().map_err(|source| StoreError::Access {
        action: "write",
        key: "*".to_owned(),
        table: NETWORKS.0,
        source: Box::new(source),
    })?;
    Ok(rows(NETWORKS).count())
}

fn read(path: &Path, text: &[u8]) -> Result<Copy, StoreError> {
    let copy: Copy =
        serde_json::from_slice(text).map_err(|error| failed("read", path)(error.into()))?;
    if copy.schema > SCHEMA {
        return Err(StoreError::Schema {
            key: "*".to_owned(),
            table: NETWORKS.0,
            found: copy.schema,
        });
    }
    Ok(copy)
}

pub(super) fn exists(directory: &Path) -> bool {
    directory.join(FILE).exists()
}

/// Writes the copy anew.
pub(super) fn keep(database: &Database, directory: &Path) -> Result<(), StoreError> {
    let mut tables = BTreeMap::new();
    for table in TABLES {
        let rows = read_rows(database, table).map_err(|source| StoreError::Access {
            action: "read",
            key: "*".to_owned(),
            table: table.0,
            source: Box::new(source),
        })?;
        let mut values = BTreeMap::new();
        for (key, text) in rows {
            let value = serde_json::from_str(&text).map_err(|source| StoreError::Decode {
                key: key.clone(),
                table: table.0,
                source,
            })?;
            values.insert(key, value);
        }
        tables.insert(table.0.to_owned(), values);
    }
    let copy = Copy {
        schema: SCHEMA,
        tables,
    };
    let path = directory.join(FILE);
    let text = serde_json::to_vec_pretty(&copy).expect("maps with text keys serialise");
    replace(&path, &text).map_err(failed("write", &path))
}

/// Replaces the file by one that is on disk before it has the name.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path: PathBuf = path.to_owned();
    move |source| StoreError::Copy {
        action,
        path,
        source,
    }
}
