//! The `local` log: small, binary, and whole again after whatever was torn.
//!
//! ```text
//! 0   4   mark: ff 48 4c 31
//! 4   4   length of the body, little-endian
//! 8   4   CRC-32 (IEEE) of the body, little-endian
//! 12  1   body: bit 0 is set for standard error
//! 13  8         nanoseconds since 1970, signed, little-endian
//! 21            the line with its newline, byte for byte
//! ```
//!
//! A reader that finds no entry where one should begin looks for the next mark, so that a write cut
//! short by a power cut costs one entry.

use jiff::Timestamp;

use super::{Entry, MAX_ENTRY, Stream};

const MARK: [u8; 4] = [0xff, b'H', b'L', b'1'];
const HEADER: usize = 12;
/// Of a body: flags and time.
const FIXED: usize = 9;
const STDERR: u8 = 1;

/// Appends an entry.
pub(crate) fn encode(out: &mut Vec<u8>, stream: Stream, line: &[u8], time: Timestamp) {
    let flags = match stream {
        Stream::Stdout => 0,
        Stream::Stderr => STDERR,
    };
    // Years 1677 to 2262; a clock beyond them is broken.
    let nanoseconds = i64::try_from(time.as_nanosecond()).unwrap_or_default();
    out.extend_from_slice(&MARK);
    let header = out.len();
    out.extend_from_slice(&[0; HEADER - MARK.len()]);
    let body = out.len();
    out.push(flags);
    out.extend_from_slice(&nanoseconds.to_le_bytes());
    out.extend_from_slice(line);
    let length = u32::try_from(out.len() - body).unwrap_or(u32::MAX);
    let sum = crc32fast::hash(&out[body..]);
    out[header..header + 4].copy_from_slice(&length.to_le_bytes());
    out[header + 4..body].copy_from_slice(&sum.to_le_bytes());
}

/// What bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An entry, and how many bytes it and the damage before it are.
    Entry(Entry, usize),
    /// No whole entry. So many bytes are no part of one; the rest may be its beginning.
    Nothing(usize),
}

/// Looks for the first entry. `at_end` no more bytes come, and what seems to be cut short is damage.
pub(super) fn find(bytes: &[u8], at_end: bool) -> Found {
    let mut from = 0;
    loop {
        let Some(at) = next_mark(bytes, from) else {
            // The start of a mark may be at the end.
            let kept = bytes.len().min(MARK.len() - 1);
            return Found::Nothing((bytes.len() - kept).max(from));
        };
        match decode(&bytes[at..]) {
            Decoded::Entry(entry, length) => return Found::Entry(entry, at + length),
            Decoded::Short if !at_end => return Found::Nothing(at),
            Decoded::Short | Decoded::Damaged => from = at + 1,
        }
    }
}

fn next_mark(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let at = rest.windows(MARK.len()).position(|window| window == MARK)?;
    Some(from + at)
}

enum Decoded {
    Entry(Entry, usize),
    Short,
    Damaged,
}

/// `bytes` begin with a mark.
fn decode(bytes: &[u8]) -> Decoded {
    let number = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let (Some(length), Some(sum)) = (number(4), number(8)) else {
        return Decoded::Short;
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(FIXED..=FIXED + MAX_ENTRY).contains(&length) {
        return Decoded::Damaged;
    }
    let Some(body) = bytes.get(HEADER..HEADER + length) else {
        return Decoded::Short;
    };
    let ([flags, rest @ ..], true) = (body, crc32fast::hash(body) == sum) else {
        return Decoded::Damaged;
    };
    let Some((nanoseconds, line)) = rest.split_first_chunk() else {
        return Decoded::Damaged;
    };
    match Timestamp::from_nanosecond(i64::from_le_bytes(*nanoseconds).into()) {
        Ok(time) => Decoded::Entry(
            Entry {
                stream: match flags & STDERR {
                    0 => Stream::Stdout,
                    _ => Stream::Stderr,
                },
                time,
                line: line.to_vec(),
                attributes: Vec::new(),
            },
            HEADER + length,
        ),
        Err(_out_of_range) => Decoded::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(line: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let time = "2026-01-02T03:04:05.6Z".parse().unwrap();
        encode(&mut out, Stream::Stderr, line, time);
        out
    }

    fn lines(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while let Found::Entry(entry, length) = find(bytes, true) {
            lines.push(entry.line);
            bytes = &bytes[length..];
        }
        lines
    }

    #[test]
    fn an_entry_is_what_the_layout_says() {
        let bytes = encoded(b"hi\n");
        assert_eq!(bytes[..8], [0xff, b'H', b'L', b'1', 12, 0, 0, 0]);
        assert_eq!(bytes[12], 1);
        assert_eq!(&bytes[21..], b"hi\n");
        let Found::Entry(entry, length) = find(&bytes, false) else {
            panic!("no entry");
        };
        assert_eq!((length, entry.stream), (bytes.len(), Stream::Stderr));
        assert_eq!(entry.time.to_string(), "2026-01-02T03:04:05.6Z");
        assert_eq!(entry.line, b"hi\n");
    }

    #[test]
    fn a_torn_entry_costs_only_itself() {
        let (torn, whole) = (encoded(b"first\n"), encoded(b"second\xff\n"));
        for cut in 0..torn.len() {
            let bytes = [&torn[..cut], &whole, &whole].concat();
            assert_eq!(lines(&bytes), [b"second\xff\n"; 2], "cut at {cut}");
        }
        for at in 0..torn.len() {
            let mut bytes = [torn.as_slice(), &whole].concat();
            bytes[at] ^= 0x40;
            assert_eq!(
                lines(&bytes).last().unwrap(),
                b"second\xff\n",
                "flip at {at}"
            );
        }
    }

    #[test]
    fn an_entry_still_being_written_is_waited_for() {
        let bytes = encoded(b"line\n");
        for cut in 0..bytes.len() {
            let Found::Nothing(damage) = find(&bytes[..cut], false) else {
                panic!("an entry of {cut} bytes");
            };
            assert_eq!(damage, 0, "cut at {cut}");
        }
    }
}
