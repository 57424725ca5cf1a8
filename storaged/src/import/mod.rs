//! From a stream to a directory: what a layer's archive becomes on disk.
//!
//! ```text
//! bytes ─ decompress ─ hash, count (stream) ─ members (archive) ─ directory entries (unpack)
//! ```
//! The input is hostile. Every refusal names the member it is about, and a refused stream leaves a
//! staging directory that its intent throws away.

mod acl;
mod ahead;
mod archive;
mod contents;
mod entry;
mod lower;
mod member;
mod place;
mod stream;
mod tape;
mod unpack;
mod volume;
mod whole;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use api::id::Digest;

use crate::config::{DeviceNodes, Limits};
use crate::reason::{in_own_filesystem, way_out};
use crate::recipe::RecipeWriter;
use ahead::Ahead;
use archive::Archive;
use lower::Find;
use stream::{Hashed, LayerStream};
use tape::{RecordFailed, Tape};
use unpack::{Summary, Unpacker};
pub(crate) use volume::{CHECKSUM, Checksum, DATA, MANIFEST, VolumeArchive};

/// Why a stream is not a layer.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("cannot read the archive: {0}")]
    Stream(io::Error),
    #[error("cannot write the record of the layer's archive: {0}{way}", way = way_out(.0))]
    Record(io::Error),
    #[error("the archive exceeds a limit: {0}; raise [storage.limits] if it is trusted")]
    Limit(#[from] LimitExceeded),
    #[error("the archive is damaged: {0}")]
    Archive(&'static str),
    #[error("archive entry {entry:?}: {problem}")]
    Entry { entry: String, problem: Problem },
}

/// Which limit of the configuration a stream exceeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    #[error("more than {0} entries (storage.limits.max-entries)")]
    Entries(u64),
    #[error("more than {0} bytes unpacked (storage.limits.max-bytes)")]
    Bytes(u64),
    #[error("more than {0} bytes for one compressed byte (storage.limits.max-ratio)")]
    Ratio(u64),
}

/// What is wrong with one member.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("its path is absolute")]
    Absolute,
    #[error("its path contains \"..\"")]
    DotDot,
    #[error("its path contains a NUL byte")]
    Nul,
    #[error("its path is longer than a path can be")]
    TooLong,
    #[error("it has no name")]
    NoName,
    #[error("it does not belong to the volume's data")]
    NotContent,
    #[error("its path leads out of the layer through a symbolic link")]
    LeavesLayer,
    #[error("its path goes through something that is not a directory")]
    NotADirectory,
    #[error("its symbolic link target {0:?} leads out of the layer")]
    SymlinkEscapes(String),
    #[error("its hard link target {target:?} is refused: {problem}")]
    HardLink {
        target: String,
        problem: Box<Problem>,
    },
    #[error("there is no such file in this layer")]
    MissingTarget,
    #[error("a hard link to a directory is not possible")]
    DirectoryTarget,
    #[error("device nodes are refused; set device-nodes in [storage] to skip or create them")]
    Device,
    #[error("character device 0:0 would be taken for a deletion")]
    Whiteout,
    #[error("{0:?} is no name of a deletion")]
    WhiteoutName(String),
    #[error("member type {0:?} is unknown")]
    Kind(char),
    #[error("a member of this type cannot have content")]
    Content,
    #[error("the headers disagree about its {0}")]
    Disagreement(&'static str),
    #[error("its {0} is not valid")]
    Field(&'static str),
    #[error(
        "its access control list names {0:?} without a number; make the archive with \
         --numeric-owner"
    )]
    AclName(String),
    #[error("sparse files in PAX format are not supported; make the archive without --sparse")]
    PaxSparse,
    #[error("cannot {what}: {source}{}", way_out(source))]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

impl EntryError {
    fn entry(path: &[u8], problem: Problem) -> Self {
        Self::Entry {
            entry: excerpt(path),
            problem,
        }
    }

    /// A failed read: of the stream itself, or because it exceeds a limit.
    fn read(error: io::Error) -> Self {
        let error = match error.downcast::<LimitExceeded>() {
            Ok(limit) => return Self::Limit(limit),
            Err(error) => error,
        };
        match error.downcast::<RecordFailed>() {
            Ok(RecordFailed(error)) => Self::Record(error),
            Err(error) => Self::Stream(error),
        }
    }

    /// Of what was to be unpacked into a volume's own filesystem.
    pub(crate) fn in_own_filesystem(self) -> Self {
        match self {
            Self::Entry {
                entry,
                problem: Problem::Io { what, source },
            } => Self::Entry {
                entry,
                problem: Problem::Io {
                    what,
                    source: in_own_filesystem(source),
                },
            },
            Self::Record(source) => Self::Record(in_own_filesystem(source)),
            other => other,
        }
    }

    /// Whether the host rather than the input is to blame.
    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Entry {
                problem: Problem::Io { source, .. },
                ..
            }
            | Self::Record(source) => Some(source),
            _ => None,
        }
    }
}

/// A path as a message shows it.
fn excerpt(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into_owned(),
    }
}

/// What an unpacked stream amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
    /// Bytes of the uncompressed stream.
    pub(crate) archive_size: u64,
    pub(crate) entries: u64,
}

/// What the directory holds before, and what deletions become.
pub(crate) enum Stacking<'a> {
    /// Nothing; deletions are marks. The layers below lie in the directories that this tells, top
    /// first; asked only when something depends on them, it may wait for them.
    Differences(Find<'a>),
    /// The tree of the layers below; deletions are done.
    Whole,
}

/// Where and how to unpack.
pub(crate) struct Target<'a> {
    /// An empty directory, or the tree below.
    pub(crate) diff: PathBuf,
    /// The file to make for the record of the archive ([`crate::recipe`]).
    pub(crate) record: PathBuf,
    /// The directory to make for what the archive itself replaces.
    pub(crate) replaced: PathBuf,
    pub(crate) stacking: Stacking<'a>,
    pub(crate) limits: &'a Limits,
    pub(crate) device_nodes: DeviceNodes,
    /// The caller compares digests, which tell whether the archive was cut short.
    pub(crate) may_lack_end: bool,
}

/// Unpacks `stream` into a directory while hashing it.
pub(crate) fn unpack(
    stream: &mut (dyn Read + Send),
    target: Target<'_>,
) -> Result<Unpacked, EntryError> {
    let limits = target.limits;
    let (feed, ahead) = ahead::channel();
    let (read, written) = std::thread::scope(|scope| {
        let read = scope.spawn(move || match LayerStream::open(stream, limits) {
            Ok(source) => {
                let mut source = Hashed::new(source);
                feed.all_of(&mut source);
                Some(source.finish())
            }
            Err(error) => {
                feed.fail(error);
                None
            }
        });
        let written = write(ahead, target);
        (read.join().ok().flatten(), written)
    });
    let summary = written?;
    let (diff_id, archive_size) =
        read.ok_or_else(|| EntryError::Stream(io::Error::other("the reading thread panicked")))?;
    Ok(Unpacked {
        diff_id,
        size: summary.bytes,
        archive_size,
        entries: summary.entries,
    })
}

/// Unpacks what comes through `source`, and reads it to its end.
fn write(source: Ahead, target: Target<'_>) -> Result<Summary, EntryError> {
    let Target {
        diff,
        record,
        replaced,
        stacking,
        limits,
        device_nodes,
        may_lack_end,
    } = target;
    let recipe = File::create_new(record)
        .and_then(RecipeWriter::new)
        .map_err(EntryError::Record)?;
    let tape = Tape::new(source, recipe);
    let mut archive = Archive::new(tape).which_may_lack_its_end(may_lack_end);
    let mut unpacker = Unpacker::new(&diff, replaced, stacking, limits, device_nodes)?;
    while let Some(member) = archive.next_member()? {
        unpacker.add(&member, &mut archive)?;
    }
    let summary = unpacker.finish()?;
    let mut tape = archive.into_inner();
    drain(&mut tape)?;
    tape.finish().map_err(EntryError::read)?;
    Ok(summary)
}

/// Hashes `stream` as [`unpack`] does, and writes nothing.
pub(crate) fn digest(stream: &mut dyn Read, limits: &Limits) -> Result<Digest, EntryError> {
    let source = LayerStream::open(stream, limits).map_err(EntryError::read)?;
    let mut source = BufReader::with_capacity(64 << 10, Hashed::new(source));
    drain(&mut source)?;
    Ok(source.into_inner().finish().0)
}

/// Reads to the end: the diff id covers what follows the archive's last block, too.
fn drain(source: &mut impl Read) -> Result<(), EntryError> {
    io::copy(source, &mut io::sink())
        .map(drop)
        .map_err(EntryError::read)
}
