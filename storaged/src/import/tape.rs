//! The stream of a layer as its members are read: what is not file content goes into the layer's
//! record ([`crate::recipe`]) as it passes.

use std::fs::File;
use std::io::{self, Read};

use crate::recipe::{Extent, RecipeWriter};

pub(super) struct Tape<R> {
    source: R,
    /// None for an archive that nobody will put together again.
    recipe: Option<RecipeWriter<File>>,
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
        Self {
            source,
            recipe: Some(recipe),
            crc: crc32fast::Hasher::new(),
            contents: 0,
        }
    }

    pub(super) fn unrecorded(source: R) -> Self {
        Self {
            source,
            recipe: None,
            crc: crc32fast::Hasher::new(),
            contents: 0,
        }
    }

    pub(super) fn source(&self) -> &R {
        &self.source
    }

    /// Does it if there is a record.
    fn note(
        &mut self,
        write: impl FnOnce(&mut RecipeWriter<File>) -> io::Result<()>,
    ) -> io::Result<()> {
        record(self.recipe.as_mut().map_or(Ok(()), write))
    }

    /// What is read by [`Self::read_content`] from here on is the data of the file at `path`.
    /// Returns the number of this content.
    pub(super) fn begin_content(&mut self, path: &[u8], extents: &[Extent]) -> io::Result<u32> {
        self.note(|recipe| recipe.content(path, extents))?;
        self.crc = crc32fast::Hasher::new();
        let number = self.contents;
        self.contents += 1;
        Ok(number)
    }

    pub(super) fn end_content(&mut self) -> io::Result<()> {
        let crc = self.crc.clone().finalize();
        self.note(|recipe| recipe.sum(crc))
    }

    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.source.read_exact(buffer)?;
        self.crc.update(buffer);
        Ok(())
    }

    /// Ends the record; the stream has been read to its end.
    pub(super) fn finish(self) -> io::Result<R> {
        record(self.recipe.map_or(Ok(()), RecipeWriter::finish))?;
        Ok(self.source)
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.note(|recipe| recipe.raw(&buffer[..length]))?;
        Ok(length)
    }
}
