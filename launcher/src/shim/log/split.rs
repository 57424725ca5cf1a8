//! From pieces of output to lines.

use crate::log::{MAX_ENTRY, Stream};

/// A line with its newline, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) stream: Stream,
    pub(super) line: Vec<u8>,
    pub(super) part: Option<Part>,
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
    pub(super) fn split(&mut self, stream: Stream, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = line;
            while !rest.is_empty() {
                let unfinished = &mut self.unfinished[stream as usize].bytes;
                let room = MAX_ENTRY - unfinished.len();
                let (taken, left) = rest.split_at(room.min(rest.len()));
                unfinished.extend_from_slice(taken);
                rest = left;
                if unfinished.ends_with(b"\n") {
                    pieces.push(self.piece(stream, true));
                } else if unfinished.len() == MAX_ENTRY {
                    pieces.push(self.piece(stream, false));
                }
            }
        }
        pieces
    }

    /// What is left without a newline, at the end of the output.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let streams = [Stream::Stdout, Stream::Stderr].into_iter();
        let left: Vec<Stream> = streams
            .filter(|stream| !self.unfinished[*stream as usize].bytes.is_empty())
            .collect();
        left.into_iter()
            .map(|stream| self.piece(stream, true))
            .collect()
    }

    fn piece(&mut self, stream: Stream, is_last: bool) -> Piece {
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
        Piece {
            stream,
            line: std::mem::take(&mut unfinished.bytes),
            part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pieces: &[Piece]) -> Vec<(Stream, &str)> {
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
