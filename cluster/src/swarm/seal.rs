//! Texts that are read with a key alone.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use super::SwarmError;

const LENGTH: usize = 32;

/// A key of ChaCha20-Poly1305, in base 64 where it is written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Seal([u8; LENGTH]);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl From<Seal> for String {
    fn from(seal: Seal) -> Self {
        STANDARD_NO_PAD.encode(seal.0)
    }
}

impl TryFrom<String> for Seal {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let bytes = STANDARD_NO_PAD.decode(text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        Ok(Self(bytes.ok_or("not 32 bytes in base 64")?))
    }
}

impl Seal {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_with_the_key_alone() {
        let key = Seal::random().unwrap();
        let sealed = key.seal("a key", "the text").unwrap();
        assert!(!sealed.contains("text"));
        assert_eq!(key.open("a key", &sealed).as_deref(), Some("the text"));
        assert_eq!(key.open("another", &sealed), None);
        assert_eq!(Seal::random().unwrap().open("a key", &sealed), None);
        for at in [0, sealed.len() / 2] {
            let mut other = sealed.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(key.open("a key", &other), None, "{at}");
        }
        assert_eq!(key.open("a key", ""), None);
        assert_ne!(key.seal("a key", "the text").unwrap(), sealed);
    }
}
