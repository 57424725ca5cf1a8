//! Where things are in the checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The directory of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds; `CARGO_TARGET_DIR` is honoured as cargo does.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// `cargo`, the one that runs us, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What `cargo run` tells of this crate is not what it was without: build scripts that look at it
    // (ring's) would run again, and all that stands on them.
    for (name, _) in std::env::vars_os() {
        let of_crate = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_crate
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Options of cargo for all crates but the BPF programs, which do not build for the host: netd's build
/// script compiles them.
pub(crate) const EVERY_CRATE: [&str; 3] = ["--workspace", "--exclude", "programs"];

/// Every file of the tree that is ours, relative to the root: no build output, nothing laid out for
/// Vagrant, no inputs of fuzz targets, which are any bytes, no hidden directories but the ones that hold configuration.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(root(), &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    const HIDDEN: [&str; 4] = [".cargo", ".ci", ".config", ".github"];
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry.with_context(|| dir.display().to_string())?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry
            .file_type()
            .with_context(|| path.display().to_string())?;
        if kind.is_dir() {
            let skipped = ["target", "corpus", "stage"].contains(&name.as_str())
                || (name.starts_with('.') && !HIDDEN.contains(&name.as_str()));
            if !skipped {
                collect(&path, files)?;
            }
        } else if kind.is_file() {
            files.push(path.strip_prefix(root()).unwrap_or(&path).to_owned());
        }
    }
    Ok(())
}
