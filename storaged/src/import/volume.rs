//! A volume's archive: `hawser-volume.json`, the content below `data/`, and last of all
//! `hawser-checksum.json` with the digest of everything before it.
//!
//! It is a tar that any tool unpacks, and as hostile as one: members elsewhere are refused, paths stay
//! inside the root, and what the digest does not cover is no volume. Names and link targets are taken
//! as they are: a volume has no deletions to tell of.

use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;

use api::id::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::archive::Archive;
use super::member::{Kind, Member};
use super::stream::LayerStream;
use super::tape::Tape;
use super::unpack::Unpacker;
use super::{EntryError, Problem, drain};
use crate::config::{DeviceNodes, Limits};

pub(crate) const MANIFEST: &[u8] = b"hawser-volume.json";
pub(crate) const CHECKSUM: &[u8] = b"hawser-checksum.json";
pub(crate) const DATA: &[u8] = b"data";
const MAX_TEXT: u64 = 1 << 20;
const BLOCK: usize = 512;

const NO_MANIFEST: EntryError =
    EntryError::Archive("it does not begin as an export of a volume does");
const CUT_SHORT: EntryError = EntryError::Archive("its checksum is missing: it was cut short");

/// The last member.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checksum {
    /// Of all bytes before this member.
    pub(crate) digest: Digest,
}

/// An archive whose first member was read.
pub(crate) struct VolumeArchive<'a> {
    archive: Archive<Summed<BufReader<LayerStream<'a>>>>,
    limits: &'a Limits,
}

impl<'a> VolumeArchive<'a> {
    /// Reads the manifest.
    pub(crate) fn open(
        stream: &'a mut dyn Read,
        limits: &'a Limits,
    ) -> Result<(Self, Vec<u8>), EntryError> {
        let source = LayerStream::open(stream, limits).map_err(EntryError::read)?;
        let source = Summed::new(BufReader::with_capacity(64 << 10, source));
        let mut archive = Archive::new(Tape::unrecorded(source));
        let first = archive.next_member()?.ok_or(NO_MANIFEST)?;
        if first.path != MANIFEST || first.kind != Kind::File {
            return Err(NO_MANIFEST);
        }
        let manifest = text(&first, &mut archive)?;
        Ok((Self { archive, limits }, manifest))
    }

    /// Unpacks the content into an empty directory. It is whole only when this succeeds.
    pub(crate) fn unpack(self, root: OwnedFd, device_nodes: DeviceNodes) -> Result<(), EntryError> {
        let Self {
            mut archive,
            limits,
        } = self;
        let mut unpacker = Unpacker::verbatim(root, limits, device_nodes);
        loop {
            let member = archive.next_member()?.ok_or(CUT_SHORT)?;
            if member.path == CHECKSUM {
                verify(&member, &mut archive)?;
                break;
            }
            unpacker.add(&inside(member)?, &mut archive)?;
        }
        if archive.next_member()?.is_some() {
            return Err(EntryError::Archive("it goes on behind its checksum"));
        }
        unpacker.finish()?;
        drain(&mut archive.into_inner())
    }
}

fn verify<R: Read>(member: &Member, archive: &mut Archive<Summed<R>>) -> Result<(), EntryError> {
    let found = archive.source().digest();
    let text = text(member, archive)?;
    let Ok(Checksum { digest }) = serde_json::from_slice(&text) else {
        return Err(EntryError::Archive("its checksum cannot be read"));
    };
    if digest != found {
        return Err(EntryError::Archive("its checksum differs: it was changed"));
    }
    Ok(())
}

/// A member as it is named below the volume's directory.
fn inside(mut member: Member) -> Result<Member, EntryError> {
    let below = |path: &[u8]| match path.strip_prefix(DATA) {
        Some(b"" | b"/") => Some(b"./".to_vec()),
        Some(rest) => rest.strip_prefix(b"/").map(<[u8]>::to_vec),
        None => None,
    };
    let (path, link) = (below(&member.path), below(&member.link));
    let elsewhere = |path: &[u8]| EntryError::entry(path, Problem::NotContent);
    member.path = path.ok_or_else(|| elsewhere(&member.path))?;
    if member.kind == Kind::HardLink {
        member.link = link.ok_or_else(|| elsewhere(&member.link))?;
    }
    Ok(member)
}

fn text<R: Read>(member: &Member, archive: &mut Archive<R>) -> Result<Vec<u8>, EntryError> {
    if member.kind != Kind::File || member.size > MAX_TEXT {
        return Err(EntryError::Archive("its description is too long"));
    }
    let mut text = vec![0; usize::try_from(member.size).unwrap_or_default()];
    let mut filled = 0;
    while filled < text.len() {
        match archive.read_data(&mut text[filled..])? {
            // A sparse file: its length costs nothing in the stream.
            0 => return Err(EntryError::Archive("its description has holes")),
            read => filled += read,
        }
    }
    Ok(text)
}

/// Sums what passes, one block late: when a header was read, the sum is that of all before it.
pub(super) struct Summed<R> {
    source: R,
    hasher: Sha256,
    last: Vec<u8>,
}

impl<R> Summed<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            hasher: Sha256::new(),
            last: Vec::with_capacity(2 * BLOCK),
        }
    }

    fn digest(&self) -> Digest {
        Digest::from_sha256(self.hasher.clone().finalize().into())
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        let read = &buffer[..length];
        if length >= BLOCK {
            self.hasher.update(&self.last);
            self.last.clear();
            let (passed, last) = read.split_at(length - BLOCK);
            self.hasher.update(passed);
            self.last.extend_from_slice(last);
        } else {
            self.last.extend_from_slice(read);
            let passed = self.last.len().saturating_sub(BLOCK);
            self.hasher.update(&self.last[..passed]);
            self.last.drain(..passed);
        }
        Ok(length)
    }
}
