//! How a layer's archive is put together again, byte for byte: its record beside the layer.
//!
//! A record holds every byte of the tar stream that is not file content (headers, extension
//! headers, padding, what follows the end), and for file content the path of the file that holds
//! it. Reading the record and the files in turn gives the stream that the diff id was computed of;
//! whoever reads it checks that.
//!
//! ```text
//! record  = zstd( "hawser layer archive 1\n" part* END )
//! part    = RAW length bytes | CONTENT length path count (offset length)* | SUM crc32
//! ```
//! Numbers are LEB128 but for the checksum, four bytes, little-endian, of the content before it.
//! The n-th content (from 0) is in `replaced/n` beside the layer's tree when that exists: the
//! archive itself replaced the file later on. Otherwise it is in the tree.

use std::io::{self, BufReader, BufWriter, Read, Write};

const MAGIC: &[u8] = b"hawser layer archive 1\n";
const END: u8 = 0;
const RAW: u8 = 1;
const CONTENT: u8 = 2;
const SUM: u8 = 3;

/// Raw bytes are kept in parts of this size.
const RAW_PART: usize = 64 << 10;
/// What a reader believes: a path is at most `PATH_MAX`, a sparse map what an import admits.
const MAX_PATH: u64 = 4096;
const MAX_EXTENTS: u64 = 1 << 20;

/// Where one run of data belongs in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Raw(Vec<u8>),
    /// Data of the file at `path`, relative to the tree, without symbolic links on the way.
    Content {
        path: Vec<u8>,
        extents: Vec<Extent>,
    },
    /// CRC-32 of the content before.
    Sum(u32),
}

pub(crate) struct RecipeWriter<W: Write> {
    out: zstd::Encoder<'static, BufWriter<W>>,
    raw: Vec<u8>,
}

impl<W: Write> RecipeWriter<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        // Headers repeat themselves: the fastest level leaves a twentieth.
        let mut out = zstd::Encoder::new(BufWriter::new(out), 1)?;
        out.include_checksum(true)?;
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            raw: Vec::with_capacity(RAW_PART),
        })
    }

    pub(crate) fn raw(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = (RAW_PART - self.raw.len()).min(bytes.len());
            self.raw.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if self.raw.len() == RAW_PART {
                self.flush_raw()?;
            }
        }
        Ok(())
    }

    pub(crate) fn content(&mut self, path: &[u8], extents: &[Extent]) -> io::Result<()> {
        self.flush_raw()?;
        let mut part = vec![CONTENT];
        put_number(&mut part, path.len() as u64);
        part.extend_from_slice(path);
        put_number(&mut part, extents.len() as u64);
        for Extent { offset, length } in extents {
            put_number(&mut part, *offset);
            put_number(&mut part, *length);
        }
        self.out.write_all(&part)
    }

    pub(crate) fn sum(&mut self, crc: u32) -> io::Result<()> {
        self.out.write_all(&[SUM])?;
        self.out.write_all(&crc.to_le_bytes())
    }

    /// Ends the record; one that was not ended is unreadable.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.out.write_all(&[END])?;
        self.out.finish()?.flush()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let mut head = vec![RAW];
        put_number(&mut head, self.raw.len() as u64);
        self.out.write_all(&head)?;
        self.out.write_all(&self.raw)?;
        self.raw.clear();
        Ok(())
    }
}

pub(crate) struct RecipeReader<R: Read> {
    source: BufReader<zstd::Decoder<'static, BufReader<R>>>,
}

impl<R: Read> RecipeReader<R> {
    pub(crate) fn new(source: R) -> io::Result<Self> {
        let mut source = BufReader::new(zstd::Decoder::new(source)?);
        let mut magic = [0; MAGIC.len()];
        source.read_exact(&mut magic)?;
        if magic == MAGIC {
            Ok(Self { source })
        } else {
            Err(damaged("it does not start like one"))
        }
    }

    /// The next part; `None` at the end of the record.
    pub(crate) fn next_part(&mut self) -> io::Result<Option<Part>> {
        match self.byte()? {
            // Reading on makes the decoder look at the checksum of all it gave.
            END => match self.source.read(&mut [0])? {
                0 => Ok(None),
                _ => Err(damaged("it goes on behind its end")),
            },
            RAW => {
                let length = self.bounded(RAW_PART as u64)?;
                Ok(Some(Part::Raw(self.bytes(length)?)))
            }
            CONTENT => {
                let length = self.bounded(MAX_PATH)?;
                let path = self.bytes(length)?;
                let count = self.bounded(MAX_EXTENTS)?;
                let mut extents = Vec::new();
                for _ in 0..count {
                    extents.push(Extent {
                        offset: self.number()?,
                        length: self.number()?,
                    });
                }
                Ok(Some(Part::Content { path, extents }))
            }
            SUM => {
                let mut crc = [0; 4];
                self.source.read_exact(&mut crc)?;
                Ok(Some(Part::Sum(u32::from_le_bytes(crc))))
            }
            _ => Err(damaged("it has a part of unknown kind")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn bytes(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.source.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn bounded(&mut self, limit: u64) -> io::Result<u64> {
        match self.number()? {
            number if number <= limit => Ok(number),
            _ => Err(damaged("it has a length that none has")),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("it has a number without an end"))
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(parts: &[Part]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = RecipeWriter::new(&mut bytes).unwrap();
        for part in parts {
            match part {
                Part::Raw(raw) => writer.raw(raw),
                Part::Content { path, extents } => writer.content(path, extents),
                Part::Sum(crc) => writer.sum(*crc),
            }
            .unwrap();
        }
        writer.finish().unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Part>> {
        let mut reader = RecipeReader::new(bytes)?;
        let mut parts = Vec::new();
        while let Some(part) = reader.next_part()? {
            parts.push(part);
        }
        Ok(parts)
    }

    fn part() -> impl Strategy<Value = Part> {
        let extent =
            (any::<u64>(), any::<u64>()).prop_map(|(offset, length)| Extent { offset, length });
        prop_oneof![
            (
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(extent, 0..9)
            )
                .prop_map(|(path, extents)| Part::Content { path, extents }),
            any::<u32>().prop_map(Part::Sum),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in prop::collection::vec(part(), 0..20)) {
            prop_assert_eq!(read(&write(&parts)).unwrap(), parts);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = zstd::Encoder::new(Vec::new(), 1).unwrap();
            stream.write_all(MAGIC).unwrap();
            stream.write_all(&bytes).unwrap();
            drop(read(&stream.finish().unwrap()));
        }
    }

    #[test]
    fn long_runs_of_raw_bytes_are_parted_and_whole() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let parts = read(&write(&[Part::Raw(bytes.clone())])).unwrap();
        let joined: Vec<u8> = parts
            .into_iter()
            .flat_map(|part| match part {
                Part::Raw(raw) => raw,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(joined, bytes);
    }

    #[test]
    fn a_record_cut_short_is_refused() {
        let whole = write(&[Part::Raw(b"header".to_vec()), Part::Sum(7)]);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
