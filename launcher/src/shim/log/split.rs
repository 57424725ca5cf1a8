//! From pieces of output to lines.

use std::borrow::Cow;
use std::io::BufRead;

use crate::log::{MAX_ENTRY, Stream};

/// A line with its newline, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) stream: Stream,
    /// Borrowed where the output has all of it, as it has of nearly every line.
    pub(super) line: Cow<'a, [u8]>,
    pub(super) part: Option<Part>,
}

impl Piece<'_> {
    pub(super) fn into_owned(self) -> Piece<'static> {
        Piece {
            stream: self.stream,
            line: self.line.into_owned().into(),
            part: self.part,
        }
    }
}

/// Which part of a line that is longer than an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Of the line.
    pub(super) id: u64,
    /// From 1.
    pub(super) ordinal: u32,
    pub(super) is_last: bool,
}

#[derive(Debug, Default)]
pub(super) struct Splitter {
    unfinished: [Unfinished; 2],
    long_lines: u64,
}

#[derive(Debug, Default)]
struct Unfinished {
    bytes: Vec<u8>,
    /// Of a line of which parts are out already.
    part: Option<Part>,
}

impl Splitter {
    pub(super) fn split<'a>(&mut self, stream: Stream, bytes: &'a [u8]) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let begun = &mut self.unfinished[stream as usize].bytes;
            let room = rest.len().min(MAX_ENTRY - begun.len());
            // `skip_until` is the standard library's search for a byte, several at a time.
            let length = (&rest[..room]).skip_until(b'\n').unwrap_or(room);
            let (taken, left) = rest.split_at(length);
            rest = left;
            let is_line = taken.ends_with(b"\n");
            if !is_line && begun.len() + length < MAX_ENTRY {
                begun.extend_from_slice(taken);
                continue;
            }
            let line = match begun.is_empty() {
                true => Cow::Borrowed(taken),
                false => {
                    begun.extend_from_slice(taken);
                    Cow::Owned(std::mem::take(begun))
                }
            };
            pieces.push(self.piece(stream, line, is_line));
        }
        pieces
    }

    /// What is left without a newline, at the end of the output.
    pub(super) fn finish(&mut self) -> Vec<Piece<'static>> {
        let mut pieces = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let left = std::mem::take(&mut self.unfinished[stream as usize].bytes);
            if !left.is_empty() {
                pieces.push(self.piece(stream, left.into(), true));
            }
        }
        pieces
    }

    fn piece<'a>(&mut self, stream: Stream, line: Cow<'a, [u8]>, is_last: bool) -> Piece<'a> {
        let unfinished = &mut self.unfinished[stream as usize];
        let part = match unfinished.part {
            Some(part) => Some(Part {
                ordinal: part.ordinal + 1,
                is_last,
                ..part
            }),
            None if is_last => None,
            None => {
                self.long_lines += 1;
                Some(Part {
                    id: self.long_lines,
                    ordinal: 1,
                    is_last,
                })
            }
        };
        unfinished.part = part.filter(|part| !part.is_last);
        Piece { stream, line, part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(pieces: &'a [Piece<'_>]) -> Vec<(Stream, &'a str)> {
        let pieces = pieces.iter();
        pieces
            .map(|piece| (piece.stream, str::from_utf8(&piece.line).unwrap()))
            .collect()
    }

    #[test]
    fn streams_keep_their_own_unfinished_lines() {
        let mut splitter = Splitter::default();
        let mut pieces = splitter.split(Stream::Stdout, b"one\ntw");
        pieces.extend(splitter.split(Stream::Stderr, b"oops\n"));
        pieces.extend(splitter.split(Stream::Stdout, b"o\nend"));
        pieces.extend(splitter.finish());
        assert_eq!(
            texts(&pieces),
            [
                (Stream::Stdout, "one\n"),
                (Stream::Stderr, "oops\n"),
                (Stream::Stdout, "two\n"),
                (Stream::Stdout, "end"),
            ]
        );
        assert!(pieces.iter().all(|piece| piece.part.is_none()));
    }

    #[test]
    fn long_lines_are_cut_at_16_kib_and_their_parts_are_numbered() {
        let mut splitter = Splitter::default();
        let mut pieces = splitter.split(Stream::Stdout, &[b'x'; 40_000]);
        pieces.extend(splitter.split(Stream::Stdout, b"\nnext\n"));
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.line.len()).collect();
        assert_eq!(lengths, [16384, 16384, 40_000 - 2 * 16384 + 1, 5]);
        let parts: Vec<_> = pieces.iter().map(|piece| piece.part).collect();
        let part = |ordinal, is_last| {
            Some(Part {
                id: 1,
                ordinal,
                is_last,
            })
        };
        assert_eq!(parts, [part(1, false), part(2, false), part(3, true), None]);
    }
}
