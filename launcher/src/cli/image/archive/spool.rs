//! Files of an archive, spooled to numbered files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::ArchiveError;

/// More entries than any image has layers and metadata.
const MAX_ENTRIES: usize = 100_000;
/// Longest chain of links from one entry to another.
const MAX_LINKS: usize = 8;
/// Largest manifest, index or configuration that is read into memory.
const MAX_METADATA: u64 = 16 << 20;
const BLOBS: &str = "blobs/sha256/";

/// A directory of spooled files, removed when this is dropped.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File(PathBuf),
    /// To the name of another entry.
    Link(String),
}

impl Spool {
    /// Reads the archive to its end into a new directory `dir`.
    ///
    /// # Errors
    /// [`ArchiveError`]: it is no archive, hostile, damaged or cut short.
    pub fn read(dir: PathBuf, archive: impl Read) -> Result<Self, ArchiveError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(file_error("create", &dir))?;
        let mut spool = Self {
            dir,
            entries: BTreeMap::new(),
        };
        let mut archive = tar::Archive::new(decompressed(archive).map_err(ArchiveError::Read)?);
        for (number, entry) in archive.entries().map_err(ArchiveError::Read)?.enumerate() {
            if number >= MAX_ENTRIES {
                return Err(ArchiveError::TooMany(MAX_ENTRIES));
            }
            spool.add(number, &mut entry.map_err(ArchiveError::Read)?)?;
        }
        Ok(spool)
    }

    fn add(
        &mut self,
        number: usize,
        entry: &mut tar::Entry<impl Read>,
    ) -> Result<(), ArchiveError> {
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |reason| ArchiveError::Entry {
            name: shown.clone(),
            reason,
        };
        let path = entry.path().map_err(ArchiveError::Read)?;
        let name = inside(Path::new(""), &path).ok_or_else(|| refused("it leaves the archive"))?;
        let kind = entry.header().entry_type();
        let spooled = match kind {
            EntryType::Directory | EntryType::XGlobalHeader => return Ok(()),
            EntryType::Regular | EntryType::Continuous => {
                Entry::File(self.store(number, &name, entry)?)
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name().map_err(ArchiveError::Read)?;
                let target = target.ok_or_else(|| refused("a link to nothing"))?;
                let base = match kind {
                    EntryType::Symlink => Path::new(&name).parent().unwrap_or(Path::new("")),
                    _ => Path::new(""),
                };
                Entry::Link(inside(base, &target).ok_or_else(|| refused("it leaves the archive"))?)
            }
            _ => {
                return Err(refused(
                    "an image archive has files, directories and links only",
                ));
            }
        };
        match self.entries.insert(name, spooled) {
            None => Ok(()),
            Some(_) => Err(refused("it is there twice")),
        }
    }

    fn store(
        &self,
        number: usize,
        name: &str,
        entry: &mut tar::Entry<impl Read>,
    ) -> Result<PathBuf, ArchiveError> {
        let path = self.dir.join(number.to_string());
        let mut file = File::create_new(&path).map_err(file_error("create", &path))?;
        let expected = entry.header().size().map_err(ArchiveError::Read)?;
        let wanted = name.strip_prefix(BLOBS);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut length = 0;
        loop {
            let read = match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ArchiveError::Truncated {
                        name: name.to_owned(),
                    });
                }
                Err(error) => return Err(ArchiveError::Read(error)),
            };
            if wanted.is_some() {
                hash.update(&buffer[..read]);
            }
            file.write_all(&buffer[..read])
                .map_err(file_error("write", &path))?;
            length += read as u64;
        }
        // A PAX header may give another size than the old one; then the entry's own end decides.
        if length < expected {
            return Err(ArchiveError::Truncated {
                name: name.to_owned(),
            });
        }
        let actual = hex::encode(hash.finalize());
        match wanted {
            Some(wanted) if wanted != actual => Err(ArchiveError::Digest {
                name: name.to_owned(),
                actual: format!("sha256:{actual}"),
            }),
            _ => Ok(path),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Opens a file of the archive, through links.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`].
    pub fn open(&self, name: &str) -> Result<File, ArchiveError> {
        let path = self.find(name)?;
        File::open(path).map_err(file_error("read", path))
    }

    /// Reads a manifest, an index or a configuration.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`], [`ArchiveError::TooLarge`].
    pub fn metadata(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut content = Vec::new();
        self.open(name)?
            .take(MAX_METADATA + 1)
            .read_to_end(&mut content)
            .map_err(ArchiveError::Read)?;
        if content.len() as u64 > MAX_METADATA {
            return Err(ArchiveError::TooLarge {
                name: name.to_owned(),
                limit: MAX_METADATA,
            });
        }
        Ok(content)
    }

    fn find(&self, name: &str) -> Result<&Path, ArchiveError> {
        let missing = || ArchiveError::Missing {
            name: name.to_owned(),
        };
        let mut at = inside(Path::new(""), Path::new(name)).ok_or_else(missing)?;
        for _ in 0..MAX_LINKS {
            match self.entries.get(&at).ok_or_else(missing)? {
                Entry::File(path) => return Ok(path),
                Entry::Link(target) => at.clone_from(target),
            }
        }
        Err(missing())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("hawser: remove {}: {error}", self.dir.display());
        }
    }
}

fn file_error<'p>(op: &'static str, path: &'p Path) -> impl Fn(io::Error) -> ArchiveError + 'p {
    move |source| ArchiveError::File {
        op,
        path: path.to_owned(),
        source,
    }
}

/// `path` seen from `base`, without `.` and `..`; nothing if it is absolute, leaves the archive or
/// is not UTF-8.
fn inside(base: &Path, path: &Path) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for component in base.components().chain(path.components()) {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str()?),
            Component::ParentDir => {
                names.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names.join("/"))
}

/// The stream as it was before gzip or zstd, which its first bytes tell.
///
/// # Errors
/// The stream cannot be read.
pub fn decompressed<'r>(stream: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let mut magic = Vec::with_capacity(4);
    stream.by_ref().take(4).read_to_end(&mut magic)?;
    let stream = io::Cursor::new(magic.clone()).chain(stream);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(stream)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(stream)?),
        _ => Box::new(stream),
    })
}
