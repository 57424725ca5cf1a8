//! One daemon a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

const FILE_NAME: &str = "hawserd.lock";

#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error(
        "another hawserd{holder} uses {what} {}: stop it, or choose another --{what}",
        directory.display()
    )]
    Held {
        what: &'static str,
        directory: PathBuf,
        /// ` (pid 123)`, when the file says so.
        holder: String,
    },
    #[error("cannot lock {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A directory that is ours until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// `what` is the flag that chose the directory, which exists.
    ///
    /// # Errors
    /// [`LockError::Held`] names who has it.
    pub(crate) fn acquire(what: &'static str, directory: &Path) -> Result<Self, LockError> {
        let path = directory.join(FILE_NAME);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        // Not truncated on opening: until the lock is ours the content is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Without the number the refusal is still true.
                let read = file.read_to_string(&mut pid).unwrap_or(0);
                let holder = match pid.trim() {
                    "" => String::new(),
                    pid if read > 0 => format!(" (pid {pid})"),
                    _ => String::new(),
                };
                return Err(LockError::Held {
                    what,
                    directory: directory.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_was_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::acquire("state-dir", directory.path()).unwrap();
        let error = Lock::acquire("state-dir", directory.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "another hawserd (pid {}) uses state-dir {}: stop it, or choose another --state-dir",
                process::id(),
                directory.path().display()
            )
        );
        drop(first);
        Lock::acquire("state-dir", directory.path()).unwrap();
    }
}
