//! What is known here of the volumes of plugins: a plugin is told no label, and need not repeat the
//! options that it was given.
//!
//! `STATE/plugin-volumes/NAME.json`; the plugin alone knows whether the volume is there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::id::VolumeName;
use serde::{Deserialize, Serialize};

use crate::store::{Durability, StoreError, io_error, read_json, remove_if_there, write_json};

/// A plugin's volume that was made here and has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeptVolume {
    pub name: VolumeName,
    pub driver: String,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// RFC 3339.
    pub created_at: String,
}

/// `STATE/plugin-volumes`.
#[derive(Debug, Clone)]
pub struct Kept {
    dir: PathBuf,
}

impl Kept {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("plugin-volumes"),
        }
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// # Errors
    /// [`StoreError::Damaged`] names the file.
    pub fn find(&self, name: &VolumeName) -> Result<Option<KeptVolume>, StoreError> {
        read_json(&self.path(name))
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn list(&self) -> Result<Vec<KeptVolume>, StoreError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error("list", &self.dir)(source)),
        };
        let mut kept = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("list", &self.dir))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if let Some(Ok(name)) = name.map(VolumeName::parse) {
                kept.extend(self.find(&name)?);
            }
        }
        kept.sort_by(|a: &KeptVolume, b| a.name.cmp(&b.name));
        Ok(kept)
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep(&self, volume: &KeptVolume) -> Result<(), StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io_error("create", &self.dir))?;
        write_json(&self.path(&volume.name), volume, Durability::Synced)
    }

    /// # Errors
    /// [`StoreError::Io`].
    pub fn forget(&self, name: &VolumeName) -> Result<(), StoreError> {
        remove_if_there(&self.path(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_until_it_is_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let kept = Kept::new(state.path());
        assert_eq!(kept.list().unwrap(), []);
        let volume = |name: &str| KeptVolume {
            name: VolumeName::parse(name).unwrap(),
            driver: "vieux/sshfs".to_owned(),
            options: [("sshcmd".to_owned(), "u@h:/d".to_owned())].into(),
            labels: BTreeMap::new(),
            created_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        for name in ["v2", "v1"] {
            kept.keep(&volume(name)).unwrap();
        }
        assert_eq!(kept.list().unwrap(), [volume("v1"), volume("v2")]);
        let name = volume("v1").name;
        assert_eq!(kept.find(&name).unwrap(), Some(volume("v1")));
        for _ in 0..2 {
            kept.forget(&name).unwrap();
            assert_eq!(kept.find(&name).unwrap(), None);
        }
        assert_eq!(kept.list().unwrap(), [volume("v2")]);
    }
}
