//! Reading ahead: a stream is received, decompressed and hashed on one thread while another writes
//! the files that came before.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};

/// Bytes of one piece, and pieces that wait: what an import holds in memory.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;

/// The end that is read.
#[derive(Debug)]
pub(super) struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

/// The end that is fed.
#[derive(Debug)]
pub(super) struct Feed(SyncSender<io::Result<Vec<u8>>>);

pub(super) fn channel() -> (Feed, Ahead) {
    let (sender, pieces) = mpsc::sync_channel(WAITING);
    let ahead = Ahead {
        pieces,
        piece: Vec::new(),
        at: 0,
    };
    (Feed(sender), ahead)
}

impl Feed {
    /// Passes all of `source` on, or its error; less when nobody reads any more.
    pub(super) fn all_of(self, source: &mut impl Read) {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = source.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let last = match read {
                Ok(length) => length < PIECE,
                Err(_) => true,
            };
            // What came before an error is read before it.
            if !piece.is_empty() && self.0.send(Ok(piece)).is_err() {
                return;
            }
            if let Err(error) = read {
                self.fail(error);
                return;
            }
            if last {
                return;
            }
        }
    }

    pub(super) fn fail(&self, error: io::Error) {
        // Nobody may be reading any more.
        drop(self.0.send(Err(error)));
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                // The feed has ended.
                Err(_) => return Ok(0),
            }
        }
        let left = &self.piece[self.at..];
        let length = left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&left[..length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fed_is_read_and_then_the_error() {
        let whole: Vec<u8> = (0..3 * PIECE + 7).map(|n| (n % 251) as u8).collect();
        let (feed, mut ahead) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| feed.all_of(&mut whole.as_slice().chain(Broken)));
            let mut read = Vec::new();
            let error = ahead.read_to_end(&mut read).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(read, whole);
            drop(ahead);
        });
    }

    #[test]
    fn a_reader_that_goes_ends_the_feed() {
        let (feed, ahead) = channel();
        drop(ahead);
        feed.all_of(&mut io::repeat(1));
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}
