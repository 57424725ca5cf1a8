//! The keys that detach a terminal: a sequence of which the last key decides.

/// Docker's: control and P, control and Q.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid --detach-keys {text:?}: expected characters or ctrl-X parted by commas")]
pub struct DetachKeysError {
    text: String,
}

/// # Errors
/// [`DetachKeysError`].
pub fn parse(text: &str) -> Result<Vec<u8>, DetachKeysError> {
    let invalid = || DetachKeysError {
        text: text.to_owned(),
    };
    text.split(',')
        .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
            (Some(letter), _) => control(letter).ok_or_else(invalid),
            (None, [byte]) if byte.is_ascii() => Ok(*byte),
            _ => Err(invalid()),
        })
        .collect()
}

fn control(letter: &str) -> Option<u8> {
    match letter.as_bytes() {
        [b'@'] => Some(0),
        [letter @ (b'a'..=b'z')] => Some(letter - b'a' + 1),
        [letter @ (b'[' | b'\\' | b']' | b'^' | b'_')] => Some(letter - b'[' + 27),
        _ => None,
    }
}

/// Watches input for the keys. Keys that may be the start of the sequence are held back.
#[derive(Debug)]
pub struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

impl Detector {
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What of `input` goes on to the container, and whether the sequence is complete.
    pub fn pass(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut output = Vec::with_capacity(input.len());
        for byte in input {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (output, true);
                }
                continue;
            }
            output.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(byte));
            if self.matched == 0 {
                output.push(*byte);
            }
        }
        (output, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_characters_and_controls() {
        assert_eq!(parse(DEFAULT).unwrap(), [16, 17]);
        assert_eq!(parse("x").unwrap(), [b'x']);
        assert_eq!(parse("ctrl-@,ctrl-_,a").unwrap(), [0, 31, b'a']);
        for bad in ["", "ctrl-", "ctrl-A", "ab", "a,", "é"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_broken_sequence_reaches_the_container() {
        let mut detector = Detector::new(vec![16, 17]);
        assert_eq!(detector.pass(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(detector.pass(b"\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(detector.pass(b"\x10"), (b"".to_vec(), false));
        assert_eq!(detector.pass(b"\x11rest"), (b"".to_vec(), true));
    }
}
