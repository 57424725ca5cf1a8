//! Which blobs registries have a layer by: `STATE/distribution/DIFF-ID.json`.
//!
//! A layer is known here by the digest of its tar, and to registries by that of the packed one. What
//! was pulled or pushed is remembered, so that a push sends nothing that is there, or has the
//! registry take it over from another repository. Losing a file costs that, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use api::id::Digest;
use serde::{Deserialize, Serialize};

use super::manifest::{Descriptor, Packing};

/// The newest are kept.
const MAX_BLOBS: usize = 50;

/// One blob of a layer, and one repository that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub digest: Digest,
    pub size: u64,
    pub packing: Packing,
    /// The registry's host.
    pub host: String,
    /// The repository's path there.
    pub path: String,
}

impl Known {
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.packing.media_type(),
            digest: self.digest.clone(),
            size: self.size,
            platform: None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Memory {
    dir: PathBuf,
}

impl Memory {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("distribution"),
        }
    }

    /// Newest first.
    pub fn of(&self, diff_id: &Digest) -> Vec<Known> {
        fs::read(self.file(diff_id))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub fn remember(&self, diff_id: &Digest, known: Known) {
        let mut all = self.of(diff_id);
        if all.first() == Some(&known) {
            return;
        }
        all.retain(|other| *other != known);
        all.insert(0, known);
        all.truncate(MAX_BLOBS);
        // A file that cannot be written costs a later push some time.
        drop(self.write(diff_id, &all));
    }

    fn write(&self, diff_id: &Digest, all: &[Known]) -> std::io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let part = self
            .dir
            .join(format!(".{}.{}", diff_id.hex(), std::process::id()));
        fs::write(&part, serde_json::to_vec(all)?)?;
        fs::rename(part, self.file(diff_id))
    }

    fn file(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(format!("{}.json", diff_id.hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(path: &str) -> Known {
        Known {
            digest: Digest::from_sha256([7; 32]),
            size: 5,
            packing: Packing::Gzip,
            host: "r.example".to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn the_newest_comes_first_and_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(dir.path());
        let layer = Digest::from_sha256([1; 32]);
        assert_eq!(memory.of(&layer), []);
        for path in ["a", "b", "a"] {
            memory.remember(&layer, known(path));
        }
        assert_eq!(memory.of(&layer), [known("a"), known("b")]);
        fs::write(memory.file(&layer), "torn").unwrap();
        assert_eq!(memory.of(&layer), [], "a torn file is as good as none");
    }
}
