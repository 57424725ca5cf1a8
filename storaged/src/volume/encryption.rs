//! Volumes that are encrypted, directories by the filesystem and thin devices by dm-crypt. The key comes
//! with a request and goes to the kernel; what is kept is its identifier, which tells nothing of it. After a reboot a volume is locked until the key
//! comes again.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::id::VolumeName;
use api::storage::Volume;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use sys::fscrypt::{self, Identifier, KEY_BYTES};

use super::VolumeError;
use crate::disk::{Step, StepError};
use crate::model::record::VolumeRow;
use crate::model::volume_spec::{Content, Encryption, Spec};
use crate::thin::name_of_key;
use crate::{Storaged, tree};

impl Storaged {
    /// Gives the kernel the key of a volume that is to be made. Returns its identifier.
    pub(super) fn take_key(
        &self,
        name: &VolumeName,
        spec: &Spec,
        given: &str,
    ) -> Result<Option<String>, VolumeError> {
        let Some(encryption) = &spec.encryption else {
            return match given {
                "" => Ok(None),
                _ => Err(option(name, "a key is for a volume with encrypt=on")),
            };
        };
        let key = read_key(name, encryption, given)?;
        let identifier = match spec.content {
            Content::Thin(_) => keep(name, &key)?,
            _ => self.add_key(name, &key)?,
        };
        Ok(Some(hex::encode(identifier)))
    }

    fn add_key(&self, name: &VolumeName, key: &[u8]) -> Result<Identifier, VolumeError> {
        let volumes = self.layout.volumes();
        let root = tree::open_root(&volumes).map_err(StepError::io("open", &volumes))?;
        fscrypt::add_key(root.as_fd(), key).map_err(|source| {
            match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOTTY | Errno::OPNOTSUPP) => option(
                    name,
                    "the state directory's filesystem does not encrypt: an ext4 needs its feature \
                     \"encrypt\" (tune2fs -O encrypt DEVICE), other filesystems an encrypted disk below",
                ),
                _ => StepError::io("give a key to the filesystem of", &volumes)(source).into(),
            }
        })
    }

    /// Gives the key of a volume again. One that is unlocked stays so.
    ///
    /// # Errors
    /// [`VolumeError::WrongKey`]; the volume stays locked.
    pub fn unlock_volume(&self, name: &str, key: &str) -> Result<Volume, VolumeError> {
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        let (identifier, encryption) = self.encrypted(&name)?;
        let key = read_key(&name, &encryption, key)?;
        if self.existing_volume(&name)?.device.is_some() {
            if identifier_of_key(&key) != identifier {
                return Err(VolumeError::WrongKey(name));
            }
            keep(&name, &key)?;
            return self.volume(name.as_str());
        }
        let found = self.add_key(&name, &key)?;
        if found == identifier {
            return self.volume(name.as_str());
        }
        if self.users_of_key(found).is_empty() {
            self.remove_key(found)?;
        }
        Err(VolumeError::WrongKey(name))
    }

    /// Takes the key of a volume away that nobody has mounted.
    ///
    /// # Errors
    /// [`VolumeError::Mounted`], [`VolumeError::SharedKey`]; the volume stays unlocked.
    pub fn lock_volume(&self, name: &str) -> Result<(), VolumeError> {
        let name = self.known(name)?;
        let _guard = self.volume_locks.lock(name.as_str());
        let (identifier, _) = self.encrypted(&name)?;
        self.check_unmounted(&name, "stop it first")?;
        let others: Vec<String> = self
            .users_of_key(identifier)
            .into_iter()
            .filter(|other| *other != name && !self.store.rows().mounts_of(other).is_empty())
            .map(|other| other.to_string())
            .collect();
        if !others.is_empty() {
            return Err(VolumeError::SharedKey {
                volume: name,
                others,
            });
        }
        if self.existing_volume(&name)?.device.is_some() {
            let kept = name_of_key(&hex::encode(identifier));
            let forgotten = sys::keyring::forget(&kept);
            return Ok(forgotten.map_err(StepError::io("forget the key", Path::new(&kept)))?);
        }
        Ok(self.remove_key(identifier)?)
    }

    fn remove_key(&self, identifier: Identifier) -> Result<(), StepError> {
        let volumes = self.layout.volumes();
        let removed = tree::open_root(&volumes)
            .map_err(io::Error::from)
            .and_then(|root| fscrypt::remove_key(root.as_fd(), identifier));
        match removed {
            Err(error) if error.raw_os_error() == Some(Errno::NOKEY.raw_os_error()) => Ok(()),
            Ok(()) => Ok(()),
            Err(error) => Err(StepError::io("take a key from the filesystem of", &volumes)(error)),
        }
    }

    fn users_of_key(&self, identifier: Identifier) -> Vec<VolumeName> {
        let identifier = hex::encode(identifier);
        let rows = self.store.rows();
        let users = rows.volumes.values();
        let users = users.filter(|row| row.key_id.as_deref() == Some(identifier.as_str()));
        users.map(|row| row.name.clone()).collect()
    }

    fn encrypted(&self, name: &VolumeName) -> Result<(Identifier, Encryption), VolumeError> {
        let row = self.existing_volume(name)?;
        let spec = super::content::spec_of(&row)?;
        match (identifier_of(&row), spec.encryption) {
            (Some(identifier), Some(encryption)) => Ok((identifier, encryption)),
            _ => Err(VolumeError::NotEncrypted(name.clone())),
        }
    }

    /// Whether the volume's content can be read: it is not encrypted, or its key is there.
    pub(super) fn check_unlocked(&self, row: &VolumeRow) -> Result<(), VolumeError> {
        if self.is_locked(row) {
            return Err(VolumeError::Locked(row.name.clone()));
        }
        Ok(())
    }

    pub(super) fn is_locked(&self, row: &VolumeRow) -> bool {
        let Some(identifier) = identifier_of(row) else {
            return row.key_id.is_some();
        };
        if row.device.is_some() {
            let kept = sys::keyring::get(&name_of_key(&hex::encode(identifier)));
            return !matches!(kept, Ok(Some(_)));
        }
        let has_key = tree::open_root(&self.layout.volumes())
            .map_err(io::Error::from)
            .and_then(|root| fscrypt::has_key(root.as_fd(), identifier));
        !has_key.unwrap_or(false)
    }

    /// Encrypts an empty directory like the volume's.
    pub(super) fn encrypt_content(&self, row: &VolumeRow, path: PathBuf) -> Result<(), StepError> {
        match identifier_of(row) {
            Some(identifier) => self.apply(Step::EncryptDir { path, identifier }),
            None => Ok(()),
        }
    }
}

/// Gives the kernel the key of a device. Returns its identifier.
fn keep(name: &VolumeName, key: &[u8]) -> Result<Identifier, VolumeError> {
    let identifier = identifier_of_key(key);
    let kept = name_of_key(&hex::encode(identifier));
    sys::keyring::put(&kept, key).map_err(StepError::io(
        "keep the key of volume",
        Path::new(name.as_str()),
    ))?;
    Ok(identifier)
}

/// Tells nothing of a key that is random.
fn identifier_of_key(key: &[u8]) -> Identifier {
    let digest = Sha256::new()
        .chain_update(b"hawser volume key")
        .chain_update(key);
    let digest: [u8; 32] = digest.finalize().into();
    let mut identifier = Identifier::default();
    identifier.copy_from_slice(&digest[..16]);
    identifier
}

fn identifier_of(row: &VolumeRow) -> Option<Identifier> {
    let mut identifier = Identifier::default();
    hex::decode_to_slice(row.key_id.as_deref()?, &mut identifier).ok()?;
    Some(identifier)
}

/// The key of a request, or that of the file that the options name.
fn read_key(
    name: &VolumeName,
    encryption: &Encryption,
    given: &str,
) -> Result<Vec<u8>, VolumeError> {
    let key = match (encryption, given) {
        (Encryption::KeyGiven, "") => {
            return Err(option(name, "its key is missing: name it with --key-file"));
        }
        (Encryption::KeyFile(path), "") => std::fs::read(path).map_err(|source| {
            VolumeError::from(StepError::io("read the key in", Path::new(path))(source))
        })?,
        (_, given) => {
            hex::decode(given).map_err(|_why| option(name, "its key is not in hexadecimal"))?
        }
    };
    if KEY_BYTES.contains(&key.len()) {
        return Ok(key);
    }
    Err(option(
        name,
        "a key has 32 to 64 bytes: make one with \"head -c 64 /dev/urandom >FILE\"",
    ))
}

fn option(volume: &VolumeName, problem: &str) -> VolumeError {
    VolumeError::Option {
        volume: volume.clone(),
        problem: problem.to_owned(),
    }
}
