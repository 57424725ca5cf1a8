//! The key that a manager is unlocked with, and what is sealed by it.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use super::SwarmError;
use super::record::Secrets;

/// Docker's form: `SWMKEY-1-` and 32 bytes in base 64.
const PREFIX: &str = "SWMKEY-1-";
const LENGTH: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no unlock key: it begins with {PREFIX} and has 52 characters")]
pub struct InvalidUnlockKey;

/// A key that is nowhere on a disk.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnlockKey([u8; LENGTH]);

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnlockKey").finish_non_exhaustive()
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl FromStr for UnlockKey {
    type Err = InvalidUnlockKey;

    fn from_str(text: &str) -> Result<Self, InvalidUnlockKey> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(InvalidUnlockKey)?;
        let bytes = STANDARD_NO_PAD.decode(digits);
        let bytes = bytes.map_err(|_other| InvalidUnlockKey)?;
        let bytes = bytes.try_into().map_err(|_length| InvalidUnlockKey)?;
        Ok(Self(bytes))
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
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0);
        LessSafeKey::new(key.expect("a key of the cipher's length"))
    }

    /// `text` as nobody reads it without this key; `what` it is goes with it.
    pub(super) fn seal(&self, what: &str, text: &str) -> Result<String, SwarmError> {
        // Few texts are sealed by one key: two nonces are never the same.
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut body = text.as_bytes().to_vec();
        let number = Nonce::assume_unique_for_key(nonce);
        let cipher = self.cipher();
        let sealed = cipher.seal_in_place_append_tag(number, Aad::from(what.as_bytes()), &mut body);
        sealed.expect("a text that is short enough for the cipher");
        Ok(STANDARD_NO_PAD.encode([&nonce[..], &body].concat()))
    }

    /// The text, if it is `what` and was sealed by this key.
    pub(super) fn open(&self, what: &str, sealed: &str) -> Option<String> {
        let mut bytes = STANDARD_NO_PAD.decode(sealed.trim()).ok()?;
        let (nonce, body) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let number = Nonce::assume_unique_for_key(*nonce);
        let opened = self.cipher();
        let opened = opened.open_in_place(number, Aad::from(what.as_bytes()), body);
        String::from_utf8(opened.ok()?.to_vec()).ok()
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
    fn what_is_sealed_is_read_with_the_key_alone() {
        let key = UnlockKey::random().unwrap();
        let sealed = key.seal("a key", "the text").unwrap();
        assert!(!sealed.contains("text"));
        assert_eq!(key.open("a key", &sealed).as_deref(), Some("the text"));
        assert_eq!(key.open("another", &sealed), None);
        assert_eq!(UnlockKey::random().unwrap().open("a key", &sealed), None);
        for at in [0, sealed.len() / 2] {
            let mut other = sealed.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(key.open("a key", &other), None, "{at}");
        }
        assert_eq!(key.open("a key", ""), None);
        assert_ne!(key.seal("a key", "the text").unwrap(), sealed);
    }

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
        assert_eq!(format!("{key:?}"), "UnlockKey { .. }");
    }
}
