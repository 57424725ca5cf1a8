//! The key that a manager is unlocked with, and what is sealed by it.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::SwarmError;
use super::record::Secrets;
use super::seal::Seal;

/// Docker's form: `SWMKEY-1-` and 32 bytes in base 64.
const PREFIX: &str = "SWMKEY-1-";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no unlock key: it begins with {PREFIX} and has 52 characters")]
pub struct InvalidUnlockKey;

/// A key that is nowhere on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnlockKey(Seal);

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", String::from(self.0.clone()))
    }
}

impl FromStr for UnlockKey {
    type Err = InvalidUnlockKey;

    fn from_str(text: &str) -> Result<Self, InvalidUnlockKey> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(InvalidUnlockKey)?;
        let seal = digits.to_owned().try_into();
        Ok(Self(seal.map_err(|_other: &str| InvalidUnlockKey)?))
    }
}

impl TryFrom<String> for UnlockKey {
    type Error = InvalidUnlockKey;

    fn try_from(text: String) -> Result<Self, InvalidUnlockKey> {
        text.parse()
    }
}

impl From<UnlockKey> for String {
    fn from(key: UnlockKey) -> Self {
        key.to_string()
    }
}

impl UnlockKey {
    pub(super) fn random() -> Result<Self, SwarmError> {
        Ok(Self(Seal::random()?))
    }

    pub(super) fn seal(&self, what: &str, text: &str) -> Result<String, SwarmError> {
        self.0.seal(what, text)
    }

    pub(super) fn open(&self, what: &str, sealed: &str) -> Option<String> {
        self.0.open(what, sealed)
    }
}

/// What this node's keys are locked with, if they are: known to all that keep or read them.
#[derive(Debug, Clone, Default)]
pub(super) struct Lock(Arc<Mutex<Option<UnlockKey>>>);

impl Lock {
    fn held(&self) -> MutexGuard<'_, Option<UnlockKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self) -> Option<UnlockKey> {
        self.held().clone()
    }

    pub(super) fn set(&self, key: Option<UnlockKey>) {
        *self.held() = key;
    }
}

/// [`Secrets`] as they are in the store.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Stored {
    Sealed { sealed: String },
    Plain(Secrets),
}

impl Stored {
    const WHAT: &str = "secrets";

    pub(super) fn seal(secrets: Secrets, key: Option<&UnlockKey>) -> Result<Self, SwarmError> {
        let Some(key) = key else {
            return Ok(Self::Plain(secrets));
        };
        let text = super::record::write(&secrets);
        let sealed = key.seal(Self::WHAT, &text)?;
        Ok(Self::Sealed { sealed })
    }

    pub(super) fn open(&self, key: Option<&UnlockKey>) -> Result<Secrets, SwarmError> {
        let sealed = match self {
            Self::Plain(secrets) => return Ok(secrets.clone()),
            Self::Sealed { sealed } => sealed,
        };
        let text = key.and_then(|key| key.open(Self::WHAT, sealed));
        let secrets = text.and_then(|text| serde_json::from_str(&text).ok());
        secrets.ok_or(SwarmError::OtherLock)
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_printed() {
        let key = UnlockKey::random().unwrap();
        let text = key.to_string();
        assert_eq!((&text[..9], text.len()), ("SWMKEY-1-", 52));
        assert_eq!(format!(" {text}\n").parse(), Ok(key.clone()));
        for bad in [
            "",
            "SWMKEY-1-",
            &text[1..],
            &text[..51],
            &format!("{text}A"),
        ] {
            assert_eq!(bad.parse::<UnlockKey>(), Err(InvalidUnlockKey), "{bad}");
        }
        assert_eq!(format!("{key:?}"), "UnlockKey(Seal { .. })");
    }
}
