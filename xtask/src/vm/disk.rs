//! Disk images for guests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A file system needs more than its files do.
const OVERHEAD_PERCENT: u64 = 20;
const LEAST: u64 = 16 << 20;

/// Writes an ext4 file system with what is in `tree`, and `spare` bytes free, to `image`. Guests
/// write to a throwaway copy, so that it needs no journal.
pub(super) fn write(tree: &Path, image: &Path, spare: u64) -> Result<()> {
    let size = used(tree)? * (100 + OVERHEAD_PERCENT) / 100 + LEAST + spare;
    let part = image.with_extension("part");
    let file = File::create(&part).with_context(|| part.display().to_string())?;
    file.set_len(size)
        .with_context(|| part.display().to_string())?;
    process::output(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-d"])
            .args([tree, &part]),
    )?;
    std::fs::rename(&part, image).with_context(|| image.display().to_string())
}

/// A file of `bytes` in `dir` that takes no room until it is written to.
pub(super) fn empty(dir: &Path, name: &str, bytes: u64) -> Result<PathBuf> {
    let path = dir.join(name);
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.set_len(bytes)
        .with_context(|| path.display().to_string())?;
    Ok(path)
}

fn used(tree: &Path) -> Result<u64> {
    let text = process::output(
        Command::new("du")
            .args(["--summarize", "--block-size=1"])
            .arg(tree),
    )?;
    let number = text.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("du says {text:?}"))
}
