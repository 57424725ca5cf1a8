//! From the bytes of a growing file to entries.

use super::local::{self, Found};
use super::{Entry, Format, MAX_ENTRY, json};

/// Escapes make six bytes of one, and labels come on top: no line that was written is longer.
const MAX_LINE: usize = 64 * MAX_ENTRY;

/// Takes bytes as they come, and gives whole entries.
#[derive(Debug)]
pub(crate) struct Decoder {
    format: Format,
    buffer: Vec<u8>,
    /// What of the buffer was decoded.
    start: usize,
}

impl Decoder {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            buffer: Vec::new(),
            start: 0,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next entry, past whatever is damaged. `at_end` no more bytes come for now.
    pub(crate) fn next(&mut self, at_end: bool) -> Option<Entry> {
        match self.format {
            Format::Json => self.next_line(),
            Format::Local => match local::find(&self.buffer[self.start..], at_end) {
                Found::Entry(entry, length) => {
                    self.start += length;
                    Some(entry)
                }
                Found::Nothing(damage) => {
                    self.start += damage;
                    None
                }
            },
        }
    }

    fn next_line(&mut self) -> Option<Entry> {
        loop {
            let rest = &self.buffer[self.start..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                if rest.len() > MAX_LINE {
                    self.start = self.buffer.len();
                }
                return None;
            };
            let line = &rest[..length];
            self.start += length + 1;
            // A power cut may leave a torn line; what is after it is still good.
            if let Some(entry) = json::decode(line) {
                return Some(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::log::Stream;

    #[test]
    fn bytes_may_come_one_by_one() {
        let mut bytes = Vec::new();
        for line in [&b"one\n"[..], b"", b"two"] {
            local::encode(&mut bytes, Stream::Stdout, line, Timestamp::UNIX_EPOCH);
        }
        let mut decoder = Decoder::new(Format::Local);
        let mut lines = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            lines.extend(decoder.next(false).map(|entry| entry.line));
        }
        assert_eq!(lines, [&b"one\n"[..], b"", b"two"]);
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let good = "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}\n";
        let mut decoder = Decoder::new(Format::Json);
        decoder.push(format!("torn\n\n{good}{{\"log\"").as_bytes());
        assert_eq!(decoder.next(true).unwrap().line, b"x\n");
        assert_eq!(decoder.next(true), None);
        decoder.push(&vec![b'x'; MAX_LINE]);
        assert_eq!(decoder.next(true), None);
        decoder.push(format!("\n{good}").as_bytes());
        assert_eq!(decoder.next(true).unwrap().line, b"x\n");
    }
}
