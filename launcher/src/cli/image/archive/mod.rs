//! Image archives: what `docker save`, `podman save` and `skopeo` write.
//!
//! Two layouts in a tar, plain or compressed: Docker's, described by `manifest.json`, and OCI's,
//! described by `index.json`. Entries may come in any order, so that all are spooled first, to
//! files that are named by number and never by what the archive says.

mod layout;
mod spool;
mod write;

use std::io;
use std::path::PathBuf;

pub use layout::{ArchivedImage, images};
pub use spool::{Spool, decompressed};
pub use write::{SavedImage, write_archive};

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{op} {}: {source}", path.display())]
    File {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
    #[error("this is no image archive: it has neither manifest.json nor index.json")]
    NoManifest,
    #[error("this archive is empty: it describes no image")]
    NoImage,
    #[error("archive entry {name:?}: {reason}")]
    Entry { name: String, reason: &'static str },
    #[error("the archive ends in the middle of {name:?}")]
    Truncated { name: String },
    #[error("the archive has more than {0} entries")]
    TooMany(usize),
    #[error("the archive says it has {name:?} but has not")]
    Missing { name: String },
    #[error("{name} is {actual}: the archive is damaged")]
    Digest { name: String, actual: String },
    #[error("{name} is larger than {limit} bytes, which no such file is")]
    TooLarge { name: String, limit: u64 },
    #[error("{name} cannot be read: {source}")]
    Json {
        name: String,
        source: serde_json::Error,
    },
    #[error("image {config}: {layers} layers but {diff_ids} diff ids")]
    LayerCount {
        config: String,
        layers: usize,
        diff_ids: usize,
    },
    #[error("no image in the archive is for linux/{architecture}")]
    Platform { architecture: &'static str },
    #[error("{0:?} is no digest of the form sha256:…")]
    BadDigest(String),
}

#[cfg(test)]
mod tests;
