//! What waits for a receiver.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::Piece;

/// What an entry costs beyond its line, about.
const OVERHEAD: u64 = 96;

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) piece: Piece<'static>,
    pub(super) time: Timestamp,
    /// Of the entry among all of this start, from 1.
    pub(super) number: u64,
}

impl Waiting {
    fn size(&self) -> u64 {
        self.piece.line.len() as u64 + OVERHEAD
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Waiting>,
    bytes: u64,
    numbered: u64,
}

impl Queue {
    pub(super) fn push(&mut self, piece: Piece<'_>, time: Timestamp) {
        self.numbered += 1;
        let waiting = Waiting {
            piece: piece.into_owned(),
            time,
            number: self.numbered,
        };
        self.bytes += waiting.size();
        self.entries.push_back(waiting);
    }

    pub(super) fn front(&self) -> Option<&Waiting> {
        self.entries.front()
    }

    /// The first one is delivered, or given up.
    pub(super) fn pop(&mut self) {
        if let Some(first) = self.entries.pop_front() {
            self.bytes -= first.size();
        }
        if self.entries.is_empty() {
            // A burst must not be paid for during the container's whole life.
            self.entries.shrink_to(64);
        }
    }

    /// Gives up the oldest until `limit` holds, but never the last one. Returns how many.
    pub(super) fn shed(&mut self, limit: u64) -> u64 {
        let before = self.entries.len();
        while self.bytes > limit && self.entries.len() > 1 {
            self.pop();
        }
        (before - self.entries.len()) as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Stream;

    #[test]
    fn the_oldest_go_first_and_are_counted() {
        let mut queue = Queue::default();
        for number in 0..10 {
            let piece = Piece {
                stream: Stream::Stdout,
                line: format!("{number}\n").into_bytes().into(),
                part: None,
            };
            queue.push(piece, Timestamp::UNIX_EPOCH);
        }
        let each = OVERHEAD + 2;
        assert_eq!(queue.bytes(), 10 * each);
        assert_eq!(queue.shed(4 * each), 6);
        let first = queue.front().unwrap();
        assert_eq!((first.number, first.piece.line.as_ref()), (7, &b"6\n"[..]));
        assert_eq!(queue.shed(0), 3);
        assert_eq!(queue.len(), 1);
        queue.pop();
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }
}
