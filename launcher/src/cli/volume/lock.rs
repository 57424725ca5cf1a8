//! `hawser volume unlock`, `hawser volume lock`, and the keys of volumes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use api::client::escape;
use api::path::{VOLUME_LOCK, VOLUME_UNLOCK, VOLUMES};
use api::storage::{Secret, Volume, VolumeUnlock};
use clap::Args;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::output;

/// `hawser volume unlock`.
#[derive(Debug, Clone, Args)]
pub struct UnlockFlags {
    /// File with the key, - for standard input; otherwise the one its option encrypt= names
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Volume to unlock
    pub volume: String,
}

/// `hawser volume lock`.
#[derive(Debug, Clone, Args)]
pub struct LockFlags {
    /// Volume to lock
    pub volume: String,
}

/// Longer than any key.
const MOST: u64 = 4096;

/// The key in a file, or none.
pub(super) fn key(file: Option<&Path>) -> Result<Secret, CliError> {
    let Some(path) = file else {
        return Ok(Secret::default());
    };
    let failed = |source| CliError::File {
        op: "read",
        path: path.to_owned(),
        source,
    };
    let mut key = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MOST).read_to_end(&mut key)
    } else {
        File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut key))
    };
    read.map_err(failed)?;
    let digits = key.iter().map(|byte| format!("{byte:02x}"));
    Ok(Secret::new(digits.collect::<String>()))
}

pub(super) fn unlock(context: &Context, flags: &UnlockFlags) -> Result<i32, CliError> {
    let path = format!("{VOLUMES}/{}/{VOLUME_UNLOCK}", escape(&flags.volume));
    let request = VolumeUnlock {
        key: key(flags.key_file.as_deref())?,
    };
    let volume: Volume = context.client().post(&path, &request)?;
    output::line(volume.name)?;
    Ok(0)
}

pub(super) fn lock(context: &Context, flags: &LockFlags) -> Result<i32, CliError> {
    let path = format!("{VOLUMES}/{}/{VOLUME_LOCK}", escape(&flags.volume));
    context.client().act(&path)?;
    output::line(&flags.volume)?;
    Ok(0)
}
