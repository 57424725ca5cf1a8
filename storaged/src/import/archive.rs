//! The members of a tar stream, one after the other (POSIX ustar and pax, GNU).
//!
//! The crate `tar` decodes the fields of headers. The sequence of members is read here, because a
//! layer comes from strangers: extension records are bounded, and an archive must have an end.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::member::{self, Extensions, Member, Pax};
use super::tape::Tape;
use super::{EntryError, Problem};
use crate::recipe::Extent;

const BLOCK: u64 = 512;
/// Longest extension record block: room for a path, a link and several attributes of 64 KiB.
const MAX_EXTENSION: u64 = 1 << 20;

const TRUNCATED: EntryError = EntryError::Archive("it ends before its end-of-archive blocks");

pub(super) struct Archive<R> {
    source: Tape<R>,
    /// Unread bytes of the current member's data.
    data: u64,
    /// Padding behind them.
    padding: u64,
    may_lack_end: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(source: Tape<R>) -> Self {
        Self {
            source,
            data: 0,
            padding: 0,
            may_lack_end: false,
        }
    }

    /// Also takes the end of the stream after a whole member for the archive's: some tools write no
    /// end-of-archive blocks. Only for archives whose digest is known, for it tells whether one
    /// was cut short.
    pub(super) fn which_may_lack_its_end(self, may_lack_end: bool) -> Self {
        Self {
            may_lack_end,
            ..self
        }
    }

    pub(super) fn source(&self) -> &R {
        self.source.source()
    }

    pub(super) fn into_inner(self) -> Tape<R> {
        self.source
    }

    /// The next member, or the end of the archive: two blocks of zeros.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, EntryError> {
        let mut extensions = Extensions::default();
        loop {
            let skipped = self.data + self.padding;
            self.skip(skipped)?;
            let Some(header) = self.header()? else {
                return if extensions.is_empty() {
                    Ok(None)
                } else {
                    Err(EntryError::Archive("it ends behind an extension header"))
                };
            };
            match header.as_bytes()[156] {
                b'L' => self.set_name(
                    &header,
                    |extensions| &mut extensions.long_path,
                    &mut extensions,
                )?,
                b'K' => self.set_name(
                    &header,
                    |extensions| &mut extensions.long_link,
                    &mut extensions,
                )?,
                b'x' => {
                    let pax = self.pax(&header)?;
                    if extensions.pax.replace(pax).is_some() {
                        return Err(EntryError::Archive("two PAX headers describe one member"));
                    }
                }
                b'g' => {
                    if !self.pax(&header)?.is_comment() {
                        return Err(EntryError::Archive("a global PAX header describes members"));
                    }
                }
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// The data of the current member goes into the file at `path`, which then holds it for the
    /// layer's record. Returns the number of this content.
    pub(super) fn begin_content(
        &mut self,
        path: &[u8],
        extents: &[Extent],
    ) -> Result<u32, EntryError> {
        self.source
            .begin_content(path, extents)
            .map_err(EntryError::read)
    }

    pub(super) fn end_content(&mut self) -> Result<(), EntryError> {
        self.source.end_content().map_err(EntryError::read)
    }

    /// Reads content of the current member.
    pub(super) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, EntryError> {
        let wanted = usize::try_from(self.data).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.source
            .read_content(&mut buffer[..wanted])
            .map_err(cut_short)?;
        self.data -= wanted as u64;
        Ok(wanted)
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, EntryError> {
        let path = member::path(header, &extensions)
            .map_err(|problem| EntryError::entry(&header.path_bytes(), problem))?;
        let parsed = member::parse(header, extensions, path.clone())
            .map_err(|problem| EntryError::entry(&path, problem))?;
        let mut member = parsed.member;
        if parsed.gnu_sparse {
            self.sparse_map(header, &mut member, parsed.stored)?;
        }
        self.expect(parsed.stored);
        Ok(member)
    }

    /// The map of an old GNU sparse file: four extents in the header, more in blocks behind it.
    fn sparse_map(
        &mut self,
        header: &Header,
        member: &mut Member,
        stored: u64,
    ) -> Result<(), EntryError> {
        let invalid = || EntryError::entry(&member.path, Problem::Field("sparse map"));
        let gnu = header.as_gnu().ok_or_else(invalid)?;
        let mut map: Vec<Extent> = Vec::new();
        extend(&mut map, &gnu.sparse).ok_or_else(invalid)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            extend(&mut map, block.sparse()).ok_or_else(invalid)?;
            more = block.is_extended();
            // 24 bytes an extent of at least one byte of data.
            if map.len() as u64 > MAX_EXTENSION {
                return Err(invalid());
            }
        }
        let size = gnu.real_size().map_err(|_why| invalid())?;
        if !is_sparse_map(&map, stored, size) {
            return Err(invalid());
        }
        member.size = size;
        member.extents = map;
        Ok(())
    }

    fn set_name(
        &mut self,
        header: &Header,
        slot: fn(&mut Extensions) -> &mut Option<Vec<u8>>,
        extensions: &mut Extensions,
    ) -> Result<(), EntryError> {
        let mut name = self.extension(header)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        match slot(extensions).replace(name) {
            None => Ok(()),
            Some(_) => Err(EntryError::Archive("two long names describe one member")),
        }
    }

    fn pax(&mut self, header: &Header) -> Result<Pax, EntryError> {
        let text = self.extension(header)?;
        Pax::parse(&text).map_err(|problem| EntryError::entry(&header.path_bytes(), problem))
    }

    /// The data of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, EntryError> {
        let size = header
            .entry_size()
            .ok()
            .filter(|size| *size <= MAX_EXTENSION)
            .ok_or_else(|| {
                EntryError::entry(
                    &header.path_bytes(),
                    Problem::Field("extension header's size"),
                )
            })?;
        self.expect(size);
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut text)?;
        self.data = 0;
        Ok(text)
    }

    fn expect(&mut self, stored: u64) {
        self.data = stored;
        self.padding = (BLOCK - stored % BLOCK) % BLOCK;
    }

    /// The next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, EntryError> {
        let mut header = Header::new_old();
        if !self.fill_unless_over(header.as_mut_bytes())? {
            return Ok(None);
        }
        if is_zero(header.as_bytes()) {
            self.fill(header.as_mut_bytes())?;
            return if is_zero(header.as_bytes()) {
                Ok(None)
            } else {
                Err(EntryError::Archive(
                    "a block of zeros lies between its members",
                ))
            };
        }
        if header.cksum().ok() != Some(checksum(header.as_bytes())) {
            return Err(EntryError::Archive(
                "the checksum of a header does not match; is it a tar archive?",
            ));
        }
        Ok(Some(header))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), EntryError> {
        let skipped = io::copy(&mut (&mut self.source).take(bytes), &mut io::sink())
            .map_err(EntryError::read)?;
        let missing = bytes - skipped;
        // Who writes no end writes no padding before it either.
        let is_over = self.may_lack_end && missing <= self.padding;
        (self.data, self.padding) = (0, 0);
        if missing == 0 || is_over {
            Ok(())
        } else {
            Err(TRUNCATED)
        }
    }

    /// False if the stream ends here, and may.
    fn fill_unless_over(&mut self, block: &mut [u8]) -> Result<bool, EntryError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 && self.may_lack_end => return Ok(false),
                Ok(0) => return Err(TRUNCATED),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(EntryError::read(error)),
            }
        }
        Ok(true)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), EntryError> {
        self.source.read_exact(buffer).map_err(cut_short)
    }
}

fn cut_short(error: io::Error) -> EntryError {
    match error.kind() {
        // Said by `read_exact` itself, not by a decoder that was cut off.
        io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => TRUNCATED,
        _ => EntryError::read(error),
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// The sum of a header's bytes, those of the checksum itself counted as spaces.
fn checksum(header: &[u8; 512]) -> u32 {
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = header[148..156].iter().map(|byte| u32::from(*byte)).sum();
    sum - own + 8 * u32::from(b' ')
}

fn extend(map: &mut Vec<Extent>, headers: &[GnuSparseHeader]) -> Option<()> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let (offset, length) = (header.offset().ok()?, header.length().ok()?);
        map.push(Extent { offset, length });
    }
    Some(())
}

/// Whether extents ascend without overlap, hold all the data and stay within the file.
fn is_sparse_map(map: &[Extent], stored: u64, size: u64) -> bool {
    let mut end = 0;
    let mut total: u64 = 0;
    for Extent { offset, length } in map {
        let Some(next) = offset.checked_add(*length) else {
            return false;
        };
        if *offset < end || next > size {
            return false;
        }
        end = next;
        // Bounded by `size`, as the extents do not overlap.
        total += length;
    }
    total == stored
}
