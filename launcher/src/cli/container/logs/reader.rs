//! Reads a log that is written and rotated meanwhile.
//!
//! Files are known by their inode, which a rename keeps and no other file can have while they are
//! open. A packed file says by inode and time of the last write which one it was. So a reader finds
//! its place again after any number of rotations, and no entry is missed or seen twice as long as
//! it is kept.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use crate::cli::error::CliError;
use crate::log::decoder::Decoder;
use crate::log::{self, Entry, Format};

/// One of a log's files.
#[derive(Debug)]
pub(super) enum Opened {
    Plain(File),
    Packed {
        /// Whose content it is.
        was: Option<Identity>,
        content: Box<GzDecoder<BufReader<File>>>,
    },
}

/// A file that is not written any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity(String);

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(log::identity(
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    }
}

impl Read for Opened {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(bytes),
            Self::Packed { content, .. } => content.read(bytes),
        }
    }
}

impl Opened {
    fn plain(path: &Path) -> Result<Option<Self>, CliError> {
        Ok(open(path)?.map(Self::Plain))
    }

    fn packed(path: &Path) -> Result<Option<Self>, CliError> {
        let Some(file) = open(path)? else {
            return Ok(None);
        };
        let content = Box::new(GzDecoder::new(BufReader::new(file)));
        let comment = content.header().and_then(|header| header.comment());
        let was = comment.and_then(|text| Some(Identity(str::from_utf8(text).ok()?.to_owned())));
        Ok(Some(Self::Packed { was, content }))
    }

    /// Whether both have the same content. One that cannot be looked at is no other one.
    fn is(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|metadata| Identity::of(&metadata)).ok();
        match (self, other) {
            (Self::Plain(one), Self::Plain(other)) => inode(one) == inode(other),
            (Self::Plain(plain), Self::Packed { was, .. })
            | (Self::Packed { was, .. }, Self::Plain(plain)) => {
                was.is_some() && identity(plain) == *was
            }
            (Self::Packed { was: one, .. }, Self::Packed { was: other, .. }) => {
                one.is_some() && one == other
            }
        }
    }

    /// Reads what there is for now.
    pub(super) fn read(
        &mut self,
        decoder: &mut Decoder,
        mut action: impl FnMut(Entry) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let length = match Read::read(self, &mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A packed file that is damaged has lost its end.
                Err(_damaged) if matches!(self, Self::Packed { .. }) => 0,
                Err(source) => {
                    return Err(CliError::Io {
                        op: "read the log",
                        source,
                    });
                }
            };
            decoder.push(&bytes[..length]);
            while let Some(entry) = decoder.next(length == 0) {
                action(entry)?;
            }
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// A log of one file begins anew when it is full.
    fn rewind_if_cut(&mut self) -> io::Result<bool> {
        let Self::Plain(file) = self else {
            return Ok(false);
        };
        let is_cut = file.stream_position()? > file.metadata()?.len();
        if is_cut {
            file.seek(SeekFrom::Start(0))?;
        }
        Ok(is_cut)
    }
}

fn open(path: &Path) -> Result<Option<File>, CliError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path)(source)),
    }
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().map(|metadata| metadata.ino()).ok()
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CliError {
    move |source| CliError::File {
        op: "read",
        path: path.to_owned(),
        source,
    }
}

/// All files of the log at `path`, oldest first.
///
/// They are opened newest first, against the way that a rotation moves them: it can only show one
/// twice, and leave one gap.
pub(super) fn files(path: &Path) -> Result<Vec<Opened>, CliError> {
    let mut found: Vec<Opened> = Opened::plain(path)?.into_iter().collect();
    let mut gaps = 0;
    for number in 1.. {
        let numbered = with_suffix(path, &format!(".{number}"));
        let opened = match Opened::plain(&numbered)? {
            None => Opened::packed(&with_suffix(&numbered, ".gz"))?,
            plain => plain,
        };
        match opened {
            Some(file) if found.iter().any(|seen| seen.is(&file)) => {}
            Some(file) => found.push(file),
            None => gaps += 1,
        }
        if gaps > 1 {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The newest file of a log, and those that come after it.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    format: Format,
    /// None before anything was written.
    current: Option<Opened>,
    decoder: Decoder,
}

impl Follower {
    /// Goes on where `current` was read to.
    pub(super) fn new(path: PathBuf, format: Format, current: Option<Opened>) -> Self {
        Self {
            path,
            format,
            current,
            decoder: Decoder::new(format),
        }
    }

    /// Everything that was written until now.
    pub(super) fn read(
        &mut self,
        mut action: impl FnMut(Entry) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        loop {
            let is_rotated = self.is_rotated();
            if let Some(current) = &mut self.current {
                // What was written before it was rotated is there by now.
                current.read(&mut self.decoder, &mut action)?;
                let is_cut = current.rewind_if_cut().map_err(failed(&self.path))?;
                if is_cut {
                    self.decoder = Decoder::new(self.format);
                    continue;
                }
            }
            if !is_rotated {
                return Ok(());
            }
            let mut newer = self.newer()?;
            let last = newer.pop();
            for mut file in newer {
                file.read(&mut Decoder::new(self.format), &mut action)?;
            }
            if last.is_none() {
                return Ok(());
            }
            self.current = last;
            self.decoder = Decoder::new(self.format);
        }
    }

    fn is_rotated(&self) -> bool {
        let named = self.path.metadata().ok().map(|metadata| metadata.ino());
        let held = match &self.current {
            Some(Opened::Plain(file)) => inode(file),
            _ => None,
        };
        named.is_some() && named != held
    }

    /// The files after the one that is held: all, if it is gone.
    fn newer(&self) -> Result<Vec<Opened>, CliError> {
        let mut files = files(&self.path)?;
        let held = self.current.as_ref();
        let place = held.and_then(|held| files.iter().rposition(|file| held.is(file)));
        match place {
            Some(place) => Ok(files.split_off(place + 1)),
            None => Ok(files),
        }
    }
}
