//! A layer's archive, put together again from its record and its files.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use api::id::Digest;
use rustix::fs::{FileType, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::model::layout::LayerDir;
use crate::reason::way_out;
use crate::recipe::{Extent, Part, RecipeReader};
use crate::tree;

const BUFFER: usize = 256 << 10;

/// What is wrong with one file of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    Missing,
    /// Not the regular file it was.
    Kind,
    Content,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    #[error("cannot read its record: {0}")]
    Record(io::Error),
    #[error("cannot read {path:?}: {source}{}", way_out(source))]
    Read { path: String, source: io::Error },
    #[error("file {path:?} {}", match damage {
        Damage::Missing => "is missing",
        Damage::Kind => "is something else now",
        Damage::Content => "has other content now",
    })]
    Damaged { path: String, damage: Damage },
    #[error("cannot pass it on: {0}")]
    Write(io::Error),
}

/// Writes the archive of the layer in `directory` to `out` and returns its digest.
///
/// `damaged` hears of files that are not as they were and says whether to go on, with zeros in
/// their place.
pub(crate) fn assemble(
    directory: &LayerDir,
    out: &mut dyn Write,
    damaged: &mut dyn FnMut(AssembleError) -> Result<(), AssembleError>,
) -> Result<Digest, AssembleError> {
    let record = File::open(directory.record()).map_err(AssembleError::Record)?;
    let mut record = RecipeReader::new(record).map_err(AssembleError::Record)?;
    let mut assembly = Assembly::open(directory, out)?;
    let mut last: Option<(Vec<u8>, u32)> = None;
    while let Some(part) = record.next_part().map_err(AssembleError::Record)? {
        match part {
            Part::Raw(bytes) => assembly.put(&bytes)?,
            Part::Content { path, extents } => {
                last = match assembly.content(&path, &extents) {
                    Ok(crc) => Some((path, crc)),
                    Err(error @ AssembleError::Damaged { .. }) => {
                        damaged(error)?;
                        None
                    }
                    Err(error) => return Err(error),
                };
            }
            Part::Sum(expected) => {
                if let Some((path, found)) = last.take()
                    && found != expected
                {
                    damaged(error(&path, Damage::Content))?;
                }
            }
        }
    }
    Ok(Digest::from_sha256(assembly.hasher.finalize().into()))
}

struct Assembly<'a> {
    diff: OwnedFd,
    /// Files that the archive itself replaced.
    replaced: Option<OwnedFd>,
    out: &'a mut dyn Write,
    hasher: Sha256,
    contents: u32,
    buffer: Vec<u8>,
}

impl<'a> Assembly<'a> {
    fn open(directory: &LayerDir, out: &'a mut dyn Write) -> Result<Self, AssembleError> {
        let read = |path: &str, source: Errno| AssembleError::Read {
            path: path.to_owned(),
            source: source.into(),
        };
        Ok(Self {
            diff: tree::open_root(&directory.diff()).map_err(|error| read("/", error))?,
            replaced: match tree::open_root(&directory.replaced()) {
                Ok(replaced) => Some(replaced),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(read("replaced", error)),
            },
            out,
            hasher: Sha256::new(),
            contents: 0,
            buffer: vec![0; BUFFER],
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), AssembleError> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(AssembleError::Write)
    }

    /// Copies data of a file; returns its CRC-32.
    fn content(&mut self, path: &[u8], extents: &[Extent]) -> Result<u32, AssembleError> {
        let number = self.contents;
        self.contents += 1;
        let file = match self.open_content(number, path)? {
            Ok(file) => file,
            Err(damage) => {
                let length = extents.iter().map(|extent| extent.length).sum();
                self.zeros(length)?;
                return Err(error(path, damage));
            }
        };
        let mut crc = crc32fast::Hasher::new();
        for Extent { offset, length } in extents {
            let (mut at, end) = (*offset, offset.saturating_add(*length));
            while at < end {
                let wanted = usize::try_from(end - at).map_or(BUFFER, |left| left.min(BUFFER));
                let mut buffer = std::mem::take(&mut self.buffer);
                let filled = fill(&file, &mut buffer[..wanted], at)
                    .map_err(|source| AssembleError::Read {
                        path: String::from_utf8_lossy(path).into_owned(),
                        source,
                    })
                    .and_then(|()| self.put(&buffer[..wanted]));
                crc.update(&buffer[..wanted]);
                self.buffer = buffer;
                filled?;
                at += wanted as u64;
            }
        }
        Ok(crc.finalize())
    }

    fn open_content(
        &self,
        number: u32,
        path: &[u8],
    ) -> Result<Result<File, Damage>, AssembleError> {
        let replaced = self.replaced.as_ref().map(|replaced| {
            let name = number.to_string();
            open_file(replaced, name.as_bytes())
        });
        let opened = match replaced {
            Some(Err(Errno::NOENT)) | None => open_file(&self.diff, path),
            Some(opened) => opened,
        };
        match opened {
            Ok(Some(file)) => Ok(Ok(file)),
            Ok(None) | Err(Errno::NOTDIR | Errno::LOOP) => Ok(Err(Damage::Kind)),
            Err(Errno::NOENT) => Ok(Err(Damage::Missing)),
            Err(error) => Err(AssembleError::Read {
                path: String::from_utf8_lossy(path).into_owned(),
                source: error.into(),
            }),
        }
    }

    fn zeros(&mut self, mut length: u64) -> Result<(), AssembleError> {
        let zeros = vec![0; BUFFER];
        while length > 0 {
            let part = usize::try_from(length).map_or(BUFFER, |left| left.min(BUFFER));
            self.put(&zeros[..part])?;
            length -= part as u64;
        }
        Ok(())
    }
}

/// A regular file below `root`; nothing if it is none.
fn open_file(root: &OwnedFd, path: &[u8]) -> Result<Option<File>, Errno> {
    // A fifo in place of the file must not make this wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = tree::resolve(root.as_fd(), path, flags, within)?;
    let stat = rustix::fs::fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| File::from(file)))
}

/// Reads a range; beyond the end of a file that was cut short there are zeros.
fn fill(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(read) => {
                buffer = &mut buffer[read..];
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn error(path: &[u8], damage: Damage) -> AssembleError {
    AssembleError::Damaged {
        path: String::from_utf8_lossy(path).into_owned(),
        damage,
    }
}
