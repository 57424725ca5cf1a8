//! Opening `meta.redb`, also when it was cut short or overwritten.
//!
//! A start that went well leaves a copy, `meta.redb.prev`. A database that is damaged is moved aside,
//! never deleted, and the copy takes its place; storaged then takes up from the directories what was
//! made since. Without a good copy the daemon refuses to start until `--rebuild-database` tells it to
//! make all rows from the directories.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, StorageError};
use tracing::{info, warn};

/// Redb would take up to 1 GiB; the rows of a busy host are a few MB.
const CACHE_BYTES: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenDatabaseError {
    #[error("cannot open database {}: {source}", path.display())]
    Open {
        path: PathBuf,
        source: DatabaseError,
    },
    #[error(
        "database {} is damaged ({reason}), and there is no good copy of it: hawserd --rebuild-database makes a new one from the layers, images, volumes and networks on disk",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot {op} {}: {source}", path.display())]
    File {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn file<'p>(op: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> OpenDatabaseError + 'p {
    move |source| OpenDatabaseError::File {
        op,
        path: path.to_owned(),
        source,
    }
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) database: Database,
    /// It is older than the directories: rows must be compared with them.
    pub(crate) is_older: bool,
}

/// Opens the database in `state_dir`, or the copy of the previous start in its place.
pub(crate) fn open(state_dir: &Path) -> Result<Opened, OpenDatabaseError> {
    let path = state_dir.join("meta.redb");
    let copy = copy_of(&path);
    let reason = if is_lost(&path) {
        if !copy.exists() {
            return fresh(&path);
        }
        "it is missing or empty".to_owned()
    } else {
        match try_open(&path)? {
            Ok(database) => {
                return Ok(Opened {
                    database,
                    is_older: false,
                });
            }
            Err(reason) => reason,
        }
    };
    warn!(database = %path.display(), reason, "the database is damaged");
    let damaged = || OpenDatabaseError::Damaged {
        path: path.clone(),
        reason: reason.clone(),
    };
    if !copy.exists() || try_open(&copy)?.is_err() {
        return Err(damaged());
    }
    set_aside(&path)?;
    replace(&copy, &path)?;
    let database = try_open(&path)?.map_err(|_copy_broke| damaged())?;
    warn!(
        copy = %copy.display(),
        "started from the copy of the previous start; what was made since is taken up from the directories, networks that were made since must be created again"
    );
    Ok(Opened {
        database,
        is_older: true,
    })
}

/// Sets aside whatever is there and starts with an empty database.
pub(crate) fn rebuild(state_dir: &Path) -> Result<Opened, OpenDatabaseError> {
    let path = state_dir.join("meta.redb");
    if path.exists() {
        set_aside(&path)?;
    }
    let opened = fresh(&path)?;
    Ok(Opened {
        is_older: true,
        ..opened
    })
}

/// Copies the database as it is now, for the start after the next damage.
///
/// A write transaction keeps everybody else from writing meanwhile; the copy is like that of a crash
/// in it, which redb rolls back.
pub(crate) fn keep_copy(database: &Database, state_dir: &Path) {
    let path = state_dir.join("meta.redb");
    let kept = database
        .begin_write()
        .map_err(|error| error.to_string())
        .and_then(|transaction| {
            let copied = replace(&path, &copy_of(&path)).map_err(|error| error.to_string());
            transaction.abort().map_err(|error| error.to_string())?;
            copied
        });
    if let Err(error) = kept {
        warn!(error, "cannot keep a copy of the database");
    }
}

fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("redb.prev")
}

/// No file, or one without a byte, which redb would make a new database of.
fn is_lost(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) || !path.exists()
}

fn fresh(path: &Path) -> Result<Opened, OpenDatabaseError> {
    let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    let database = opened.map_err(|source| OpenDatabaseError::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(Opened {
        database,
        is_older: false,
    })
}

/// Opens a database and reads all of it. The inner error says how it is damaged; the outer one is
/// about the host.
fn try_open(path: &Path) -> Result<Result<Database, String>, OpenDatabaseError> {
    // Redb trusts the lengths and offsets that it finds, up to panics.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut database = Database::builder().set_cache_size(CACHE_BYTES).open(path)?;
        database.check_integrity()?;
        Ok(database)
    }));
    match opened {
        Ok(Ok(database)) => Ok(Ok(database)),
        Ok(Err(source)) if is_damage(&source) => Ok(Err(source.to_string())),
        Ok(Err(source)) => Err(OpenDatabaseError::Open {
            path: path.to_owned(),
            source,
        }),
        Err(_panic) => Ok(Err("it contradicts itself".to_owned())),
    }
}

fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => true,
        DatabaseError::Storage(StorageError::Corrupted(_)) => true,
        DatabaseError::Storage(StorageError::Io(error)) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// Moves a damaged file aside, under a name that no earlier one has.
fn set_aside(path: &Path) -> Result<(), OpenDatabaseError> {
    if !path.exists() {
        return Ok(());
    }
    let free = (1_u32..)
        .map(|number| path.with_extension(format!("redb.damaged-{number}")))
        .find(|aside| !aside.exists());
    let aside = free.unwrap_or_else(|| path.with_extension("redb.damaged"));
    fs::rename(path, &aside).map_err(file("move aside", path))?;
    info!(file = %aside.display(), "the damaged database is kept");
    Ok(())
}

/// Puts a copy of one file in the place of another, whole and on disk.
fn replace(from: &Path, to: &Path) -> Result<(), OpenDatabaseError> {
    let new = to.with_extension("new");
    let copied = fs::copy(from, &new)
        .and_then(|_bytes| File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, to))
        .and_then(|()| match to.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        });
    copied.map_err(file("copy to", to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use redb::{ReadableDatabase, TableDefinition};

    use super::*;

    const TABLE: TableDefinition<'static, &str, u64> = TableDefinition::new("t");

    fn write(database: &Database, key: &str) {
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(TABLE)
            .unwrap()
            .insert(key, 1)
            .unwrap();
        transaction.commit().unwrap();
    }

    fn has(database: &Database, key: &str) -> bool {
        let transaction = database.begin_read().unwrap();
        let table = transaction.open_table(TABLE).unwrap();
        table.get(key).unwrap().is_some()
    }

    /// A state directory after two starts: one row was there at the second, one came after.
    fn used() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        let opened = open(state.path()).unwrap();
        assert!(!opened.is_older);
        write(&opened.database, "early");
        drop(opened);
        let opened = open(state.path()).unwrap();
        keep_copy(&opened.database, state.path());
        write(&opened.database, "late");
        state
    }

    fn damage(name: &str, file: &Path) {
        let length = fs::metadata(file).unwrap().len();
        let open = || File::options().write(true).open(file).unwrap();
        match name {
            "missing" => fs::remove_file(file).unwrap(),
            "empty" => open().set_len(0).unwrap(),
            "short" => open().set_len(length / 2).unwrap(),
            "cut" => open().set_len(100).unwrap(),
            "header" => open().write_all_at(&[0xff; 320], 0).unwrap(),
            "pages" => {
                let noise = vec![0xa5; usize::try_from(length - 4096).unwrap()];
                open().write_all_at(&noise, 4096).unwrap();
            }
            _ => fs::write(file, "not a database at all").unwrap(),
        }
    }

    const CLASSES: [&str; 7] = [
        "missing", "empty", "short", "cut", "header", "pages", "text",
    ];

    #[test]
    fn a_whole_database_is_opened_as_it_is() {
        let state = used();
        let opened = open(state.path()).unwrap();
        assert!(!opened.is_older && has(&opened.database, "late"));
    }

    #[test]
    fn a_damaged_database_is_replaced_by_the_copy_and_kept() {
        for class in CLASSES {
            let state = used();
            let path = state.path().join("meta.redb");
            damage(class, &path);
            let opened = open(state.path()).unwrap();
            assert!(opened.is_older, "{class}");
            assert!(has(&opened.database, "early"), "{class}");
            drop(opened);
            let aside = state.path().join("meta.redb.damaged-1");
            assert_eq!(aside.exists(), class != "missing", "{class}");
            assert!(
                !open(state.path()).unwrap().is_older,
                "{class}: mended for good"
            );
        }
    }

    #[test]
    fn without_a_good_copy_the_error_names_the_command_that_helps() {
        for class in ["short", "header", "pages", "text"] {
            let state = used();
            damage(class, &state.path().join("meta.redb"));
            damage(class, &state.path().join("meta.redb.prev"));
            let error = open(state.path()).unwrap_err().to_string();
            assert!(
                error.contains("hawserd --rebuild-database"),
                "{class}: {error}"
            );
            let opened = rebuild(state.path()).unwrap();
            assert!(opened.is_older, "{class}");
        }
    }
}
