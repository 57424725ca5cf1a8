//! The stream of a layer as its members are read: what is not file content goes into the layer's
//! record ([`crate::recipe`]) as it passes.

use std::fs::File;
use std::io::{self, Read};

use crate::recipe::{Extent, RecipeWriter};

pub(super) struct Tape<R> {
    source: R,
    /// None for an archive that nobody will put together again.
    recording: Option<Recording>,
}

struct Recording {
    recipe: RecipeWriter<File>,
    /// Of the content that is being read.
    crc: crc32fast::Hasher,
    /// Contents so far.
    contents: u32,
}

/// The record cannot be written, other than the stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct RecordFailed(pub(super) io::Error);

fn record(result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| io::Error::other(RecordFailed(error)))
}

impl<R: Read> Tape<R> {
    pub(super) fn new(source: R, recipe: RecipeWriter<File>) -> Self {
        let recording = Recording {
            recipe,
            crc: crc32fast::Hasher::new(),
            contents: 0,
        };
        Self {
            source,
            recording: Some(recording),
        }
    }

    pub(super) fn unrecorded(source: R) -> Self {
        Self {
            source,
            recording: None,
        }
    }

    pub(super) fn source(&self) -> &R {
        &self.source
    }

    /// What is read by [`Self::read_content`] from here on is the data of the file at `path`.
    /// Returns the number of this content.
    pub(super) fn begin_content(&mut self, path: &[u8], extents: &[Extent]) -> io::Result<u32> {
        let Some(recording) = &mut self.recording else {
            return Ok(0);
        };
        record(recording.recipe.content(path, extents))?;
        recording.crc = crc32fast::Hasher::new();
        let number = recording.contents;
        recording.contents += 1;
        Ok(number)
    }

    pub(super) fn end_content(&mut self) -> io::Result<()> {
        let Some(recording) = &mut self.recording else {
            return Ok(());
        };
        let crc = recording.crc.clone().finalize();
        record(recording.recipe.sum(crc))
    }

    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.source.read_exact(buffer)?;
        if let Some(recording) = &mut self.recording {
            recording.crc.update(buffer);
        }
        Ok(())
    }

    /// Ends the record; the stream has been read to its end.
    pub(super) fn finish(self) -> io::Result<R> {
        if let Some(recording) = self.recording {
            record(recording.recipe.finish())?;
        }
        Ok(self.source)
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        if let Some(recording) = &mut self.recording {
            record(recording.recipe.raw(&buffer[..length]))?;
        }
        Ok(length)
    }
}
