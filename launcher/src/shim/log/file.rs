//! A log in files, rotated by size: `LOG`, `LOG.1`, `LOG.2` and so on, the older ones packed if that
//! was asked for (`LOG.2.gz`).
//!
//! Never synced: a power cut may cost the tail. A rotated file is packed piece by piece between
//! other work, for the shim has one thread.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;

use super::Piece;
use crate::log::{Files, Format, identity, json, local};
use crate::shim::streams::remove_stale;

/// What is packed at once.
const STEP: usize = 64 << 10;
/// Of an entry besides its line and attributes, in either format; escapes come on top.
const ENTRY_OVERHEAD: usize = 80;

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    settings: Files,
    /// As the format has them.
    attributes: Vec<u8>,
    packing: Option<Packing>,
    /// There may be a file to pack.
    has_plain: bool,
}

impl LogFile {
    /// Goes on with the log at `path`.
    pub(super) fn open(path: &Path, settings: Files, attributes: Vec<u8>) -> io::Result<Self> {
        let mut file = open(path)?;
        let size = end_torn_line(&mut file, settings.format)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            settings,
            attributes,
            packing: None,
            has_plain: settings.compress,
        })
    }

    /// Appends output that was read at `time`. Returns how many entries are lost: a full disk costs
    /// log lines, never the container.
    pub(super) fn append(&mut self, pieces: &[Piece<'_>], time: Timestamp) -> u64 {
        let text = time.to_string();
        let overhead = ENTRY_OVERHEAD + self.attributes.len();
        let sizes = pieces.iter().map(|piece| piece.line.len() + overhead);
        let mut batch = Vec::with_capacity(sizes.sum());
        let (mut waiting, mut lost) = (0, 0);
        for piece in pieces {
            let before = batch.len();
            match self.settings.format {
                Format::Json => {
                    json::encode(
                        &mut batch,
                        piece.stream,
                        &piece.line,
                        &self.attributes,
                        &text,
                    );
                }
                Format::Local => local::encode(&mut batch, piece.stream, &piece.line, time),
            }
            let is_full = self.size + batch.len() as u64 > self.settings.max_size;
            if is_full && self.size + before as u64 > 0 {
                let entry = batch.split_off(before);
                lost += self.flush(&batch, waiting);
                // A file that cannot be rotated grows; the disk says when that is enough.
                drop(self.rotate());
                batch = entry;
                waiting = 0;
            }
            waiting += 1;
        }
        lost + self.flush(&batch, waiting)
    }

    /// Writes all of the batch or nothing.
    fn flush(&mut self, batch: &[u8], entries: u64) -> u64 {
        match self.file.write_all(batch) {
            Ok(()) => {
                self.size += batch.len() as u64;
                0
            }
            Err(_why) => {
                // If that fails too, a reader passes over what is torn.
                drop(self.file.set_len(self.size));
                entries
            }
        }
    }

    /// `LOG` becomes `LOG.1`, `LOG.1` becomes `LOG.2`; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.finish_packing()?;
        if self.settings.max_files == 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        let oldest = self.settings.max_files - 1;
        for packed in [false, true] {
            remove_stale(&numbered(&self.path, oldest, packed))?;
        }
        for number in (0..oldest).rev() {
            for packed in [false, true] {
                let (from, to) = (
                    numbered(&self.path, number, packed),
                    numbered(&self.path, number + 1, packed),
                );
                match fs::rename(from, to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.file = open(&self.path)?;
        self.size = 0;
        self.has_plain = self.settings.compress;
        Ok(())
    }

    pub(super) fn has_work(&self) -> bool {
        self.has_plain
    }

    /// Packs a piece of a rotated file. What cannot be packed stays as it is.
    pub(super) fn work(&mut self) {
        let worked = match &mut self.packing {
            Some(packing) => packing.step(),
            None => match self.next_plain() {
                Some(path) => Packing::begin(path).map(|packing| {
                    self.packing = Some(packing);
                    false
                }),
                None => {
                    self.has_plain = false;
                    return;
                }
            },
        };
        match worked {
            Ok(false) => {}
            Ok(true) => self.packing = None,
            Err(_why) => {
                self.packing = None;
                self.has_plain = false;
            }
        }
    }

    fn finish_packing(&mut self) -> io::Result<()> {
        if let Some(mut packing) = self.packing.take() {
            while !packing.step()? {}
        }
        Ok(())
    }

    fn next_plain(&self) -> Option<PathBuf> {
        let numbers = (1..self.settings.max_files.min(MAX_LOOK)).rev();
        let mut paths = numbers.map(|number| numbered(&self.path, number, false));
        paths.find(|path| path.exists())
    }
}

/// No more files are looked for to pack; rotation keeps more if asked.
const MAX_LOOK: u32 = 1000;

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

/// A power cut may have left a line without its end; the next entry gets a line of its own. Returns
/// the size.
fn end_torn_line(file: &mut File, format: Format) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if size == 0 || format != Format::Json {
        return Ok(size);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(size - 1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(size);
    }
    // Without room for a byte there is none for an entry either.
    Ok(file
        .write(b"\n")
        .map_or(size, |written| size + written as u64))
}

fn numbered(path: &Path, number: u32, packed: bool) -> PathBuf {
    let mut name = OsString::from(path);
    if number > 0 {
        name.push(format!(".{number}"));
    }
    if packed {
        name.push(".gz");
    }
    name.into()
}

/// A rotated file on its way to `.gz`.
#[derive(Debug)]
struct Packing {
    plain: File,
    path: PathBuf,
    encoder: Option<GzEncoder<File>>,
    unfinished: PathBuf,
}

impl Packing {
    /// The comment in the packed file is the plain one's identity, by which a reader that holds the
    /// plain one knows where to go on.
    fn begin(path: PathBuf) -> io::Result<Self> {
        let plain = File::open(&path)?;
        let mut unfinished = OsString::from(&path);
        unfinished.push(".gz.new");
        let unfinished = PathBuf::from(unfinished);
        let out = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o640)
            .open(&unfinished)?;
        let metadata = plain.metadata()?;
        let was = identity(metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        let encoder = GzBuilder::new()
            .comment(was)
            .write(out, Compression::default());
        Ok(Self {
            plain,
            path,
            encoder: Some(encoder),
            unfinished,
        })
    }

    /// True when it is done.
    fn step(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; STEP];
        let length = self.plain.read(&mut bytes)?;
        if let Some(encoder) = self.encoder.as_mut().filter(|_| length > 0) {
            encoder.write_all(&bytes[..length])?;
            return Ok(false);
        }
        if let Some(encoder) = self.encoder.take() {
            encoder.finish()?;
            fs::rename(&self.unfinished, self.unfinished.with_extension(""))?;
            fs::remove_file(&self.path)?;
        }
        Ok(true)
    }
}

impl Drop for Packing {
    /// What is not finished is begun anew by the next start.
    fn drop(&mut self) {
        drop(remove_stale(&self.unfinished));
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;
    use crate::log::Stream;
    use crate::log::decoder::Decoder;

    fn settings(max_size: u64, max_files: u32, compress: bool) -> Files {
        Files {
            format: Format::Json,
            max_size,
            max_files,
            compress,
        }
    }

    fn write(log: &mut LogFile, line: &str) -> u64 {
        let piece = Piece {
            stream: Stream::Stdout,
            line: line.as_bytes().into(),
            part: None,
        };
        log.append(&[piece], Timestamp::UNIX_EPOCH)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn lines(format: Format, bytes: &[u8]) -> Vec<String> {
        let mut decoder = Decoder::new(format);
        decoder.push(bytes);
        std::iter::from_fn(|| decoder.next(true))
            .map(|entry| String::from_utf8(entry.line).unwrap())
            .collect()
    }

    #[test]
    fn rotation_bounds_size_and_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, settings(200, 3, false), Vec::new()).unwrap();
        for number in 0..20 {
            assert_eq!(write(&mut log, &format!("line {number}\n")), 0);
        }
        assert_eq!(names(dir.path()), ["log", "log.1", "log.2"]);
        let all: Vec<String> = ["log.2", "log.1", "log"]
            .iter()
            .flat_map(|name| lines(Format::Json, &fs::read(dir.path().join(name)).unwrap()))
            .collect();
        assert_eq!(all.last().unwrap(), "line 19\n");
        assert!(all.len() >= 5, "{all:?}");
        assert!(fs::metadata(&path).unwrap().len() <= 200);
    }

    #[test]
    fn one_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, settings(200, 1, false), Vec::new()).unwrap();
        for number in 0..20 {
            write(&mut log, &format!("line {number}\n"));
        }
        assert_eq!(names(dir.path()), ["log"]);
        let left = lines(Format::Json, &fs::read(&path).unwrap());
        assert_eq!(left.last().unwrap(), "line 19\n");
    }

    #[test]
    fn rotated_files_are_packed_and_go_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, settings(200, 4, true), Vec::new()).unwrap();
        for number in 0..30 {
            write(&mut log, &format!("line {number}\n"));
            while log.has_work() && number % 3 == 0 {
                log.work();
            }
        }
        while log.has_work() {
            log.work();
        }
        assert_eq!(
            names(dir.path()),
            ["log", "log.1.gz", "log.2.gz", "log.3.gz"]
        );
        let mut all = Vec::new();
        for name in ["log.3.gz", "log.2.gz", "log.1.gz"] {
            let mut text = Vec::new();
            let packed = File::open(dir.path().join(name)).unwrap();
            GzDecoder::new(packed).read_to_end(&mut text).unwrap();
            all.extend(lines(Format::Json, &text));
        }
        all.extend(lines(Format::Json, &fs::read(&path).unwrap()));
        let last: Vec<String> = (30 - all.len()..30)
            .map(|n| format!("line {n}\n"))
            .collect();
        assert_eq!(all, last);
    }

    #[test]
    fn packing_that_was_cut_short_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(dir.path().join("log.1"), "old\n").unwrap();
        let mut log = LogFile::open(&path, settings(200, 3, true), Vec::new()).unwrap();
        log.work();
        assert_eq!(names(dir.path()), ["log", "log.1", "log.1.gz.new"]);
        drop(log);
        assert_eq!(names(dir.path()), ["log", "log.1"]);
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "{\"log\":\"to").unwrap();
        let mut log = LogFile::open(&path, settings(u64::MAX, 1, false), Vec::new()).unwrap();
        write(&mut log, "next\n");
        assert_eq!(lines(Format::Json, &fs::read(&path).unwrap()), ["next\n"]);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, settings(u64::MAX, 1, false), Vec::new()).unwrap();
        log.file = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write(&mut log, "x\n"), 1);
    }
}
