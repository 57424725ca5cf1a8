//! The uncompressed bytes of a layer: found out by magic, counted and hashed as they pass.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use api::id::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::LimitExceeded;
use crate::config::Limits;

/// The ratio means nothing before this many bytes: small files of zeros compress well.
const RATIO_FROM: u64 = 256 << 20;

pub(super) struct LayerStream<'a> {
    source: Box<dyn Read + 'a>,
    /// Bytes taken from the wire.
    taken: Rc<Cell<u64>>,
    given: u64,
    limits: &'a Limits,
}

impl<'a> LayerStream<'a> {
    /// Looks at the first bytes to find the compression.
    pub(super) fn open(stream: &'a mut dyn Read, limits: &'a Limits) -> io::Result<Self> {
        let taken = Rc::new(Cell::new(0));
        let mut counted = Counted {
            source: stream,
            taken: Rc::clone(&taken),
        };
        let mut magic = Vec::with_capacity(6);
        counted.by_ref().take(6).read_to_end(&mut magic)?;
        let kind = Compression::of(&magic)?;
        let whole = BufReader::with_capacity(64 << 10, Cursor::new(magic).chain(counted));
        let source: Box<dyn Read + 'a> = match kind {
            Compression::None => Box::new(whole),
            Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(whole)?),
        };
        Ok(Self {
            source,
            taken,
            given: 0,
            limits,
        })
    }

    fn check(&self) -> Result<(), LimitExceeded> {
        let Limits {
            max_bytes,
            max_ratio,
            ..
        } = *self.limits;
        if self.given > max_bytes {
            return Err(LimitExceeded::Bytes(max_bytes));
        }
        if self.given > RATIO_FROM && self.given / max_ratio.max(1) > self.taken.get() {
            return Err(LimitExceeded::Ratio(max_ratio));
        }
        Ok(())
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.given += length as u64;
        self.check().map_err(io::Error::other)?;
        Ok(length)
    }
}

/// Takes the SHA-256 of what is read.
pub(super) struct Hashed<'a> {
    stream: LayerStream<'a>,
    hasher: Sha256,
}

impl<'a> Hashed<'a> {
    pub(super) fn new(stream: LayerStream<'a>) -> Self {
        Self {
            stream,
            hasher: Sha256::new(),
        }
    }

    /// The digest, and how many bytes it is of.
    pub(super) fn finish(self) -> (Digest, u64) {
        let digest = Digest::from_sha256(self.hasher.finalize().into());
        (digest, self.stream.given)
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(magic: &[u8]) -> io::Result<Self> {
        let unsupported = |name: &str| {
            let message = format!("{name} compression is not supported; use gzip, zstd or none");
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        };
        match magic {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame (RFC 8878, section 3.1.2), as zstd:chunked layers may start.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
            _ => Ok(Self::None),
        }
    }
}

struct Counted<'a> {
    source: &'a mut dyn Read,
    taken: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.taken.set(self.taken.get() + length as u64);
        Ok(length)
    }
}
