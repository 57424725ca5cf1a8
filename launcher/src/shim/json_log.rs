//! Docker's json-file log, byte for byte: one JSON object a line of output, rotated by size.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
//! ```
//!
//! A line longer than 16 KiB becomes several entries without a newline. The log is bounded even if
//! nobody asks for it (3 files of 16 MiB), and never synced: a power cut may cost its tail.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::container::LogConfig;

/// Docker's longest entry.
const MAX_ENTRY: usize = 16 << 10;
const DEFAULT_MAX_SIZE: u64 = 16 << 20;
const DEFAULT_MAX_FILES: u32 = 3;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LogConfigError {
    #[error("logger: no log driver named {driver:?} is registered; known are json-file and none")]
    Driver { driver: String },
    #[error("unknown log opt {key:?} for json-file log driver; known are max-size and max-file")]
    Option { key: String },
    #[error("invalid log opt {key}={value:?}: expected {expected}")]
    Value {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How large the log may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    max_size: u64,
    max_files: u32,
}

impl Bounds {
    /// `None` for the driver `none`.
    pub(crate) fn parse(config: &LogConfig) -> Result<Option<Self>, LogConfigError> {
        match config.driver.as_str() {
            "none" => Ok(None),
            "json-file" | "" => Self::of(&config.config).map(Some),
            driver => Err(LogConfigError::Driver {
                driver: driver.to_owned(),
            }),
        }
    }

    fn of(options: &BTreeMap<String, String>) -> Result<Self, LogConfigError> {
        let mut bounds = Self {
            max_size: DEFAULT_MAX_SIZE,
            max_files: DEFAULT_MAX_FILES,
        };
        for (key, value) in options {
            match key.as_str() {
                "max-size" => {
                    bounds.max_size = parse_size(value).ok_or_else(|| LogConfigError::Value {
                        key: "max-size",
                        value: value.clone(),
                        expected: "a number with k, m or g, or -1 for no bound",
                    })?;
                }
                "max-file" => {
                    let number = value.parse().ok().filter(|files| *files > 0);
                    bounds.max_files = number.ok_or_else(|| LogConfigError::Value {
                        key: "max-file",
                        value: value.clone(),
                        expected: "a number above 0",
                    })?;
                }
                _ => return Err(LogConfigError::Option { key: key.clone() }),
            }
        }
        Ok(bounds)
    }
}

fn parse_size(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(u64::MAX);
    }
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (digits, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let size = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (size > 0).then_some(size)
}

/// An open log.
#[derive(Debug)]
pub(crate) struct JsonLog {
    path: PathBuf,
    file: File,
    size: u64,
    bounds: Bounds,
    /// The unfinished line of each stream.
    partial: [Vec<u8>; 2],
}

impl JsonLog {
    /// Continues the log at `path`.
    pub(crate) fn open(path: &Path, bounds: Bounds) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            bounds,
            partial: Default::default(),
        })
    }

    /// Appends output that was read at `time`.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], time: &str) -> io::Result<()> {
        let mut entries = Vec::new();
        let partial = &mut self.partial[stream as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = piece;
            while !rest.is_empty() {
                let room = MAX_ENTRY - partial.len();
                let (taken, left) = rest.split_at(room.min(rest.len()));
                partial.extend_from_slice(taken);
                rest = left;
                if partial.len() == MAX_ENTRY || partial.ends_with(b"\n") {
                    entries.push(entry(stream, partial, time));
                    partial.clear();
                }
            }
        }
        self.append(&entries)
    }

    /// Writes what is left without a newline, at the end of the output.
    pub(crate) fn finish(&mut self, time: &str) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                self.append(&[entry(stream, &partial, time)])?;
            }
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Vec<u8>]) -> io::Result<()> {
        let mut batch: Vec<u8> = Vec::new();
        for entry in entries {
            let grown = self.size + (batch.len() + entry.len()) as u64;
            if grown > self.bounds.max_size && self.size + batch.len() as u64 > 0 {
                self.flush(&mut batch)?;
                self.rotate()?;
            }
            batch.extend_from_slice(entry);
        }
        self.flush(&mut batch)
    }

    fn flush(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        self.file.write_all(batch)?;
        self.size += batch.len() as u64;
        batch.clear();
        Ok(())
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2`; the oldest is overwritten.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                name.into()
            }
        };
        if self.bounds.max_files == 1 {
            self.file.set_len(0)?;
        }
        for number in (1..self.bounds.max_files).rev() {
            match fs::rename(numbered(number - 1), numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

fn entry(stream: Stream, line: &[u8], time: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(line.len() + 96);
    text.extend_from_slice(b"{\"log\":\"");
    escape(&mut text, line);
    text.extend_from_slice(b"\",\"stream\":\"");
    text.extend_from_slice(stream.name().as_bytes());
    text.extend_from_slice(b"\",\"time\":\"");
    text.extend_from_slice(time.as_bytes());
    text.extend_from_slice(b"\"}\n");
    text
}

/// Go's escapes, which Docker's readers and tests know: `<`, `>` and `&` too, and bytes that are
/// not UTF-8 as U+FFFD, one for each.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
                }
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.6Z";

    fn log(max_size: u64, max_files: u32) -> (tempfile::TempDir, PathBuf, JsonLog) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        let log = JsonLog::open(
            &path,
            Bounds {
                max_size,
                max_files,
            },
        )
        .unwrap();
        (dir, path, log)
    }

    fn logs(path: &Path) -> Vec<(String, String)> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| entry[key].as_str().unwrap().to_owned();
                (text("stream"), text("log"))
            })
            .collect()
    }

    #[test]
    fn an_entry_is_dockers_byte_for_byte() {
        let (_dir, path, mut log) = log(u64::MAX, 1);
        log.write(Stream::Stdout, b"a\t\"<b>\"\\\xff\xc3\xa9\r\n", TIME)
            .unwrap();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            "{\"log\":\"a\\u0009\\\"\\u003cb\\u003e\\\"\\\\\\ufffdé\\r\\n\",\"stream\":\"stdout\",\
             \"time\":\"2026-01-02T03:04:05.6Z\"}\n"
        );
    }

    #[test]
    fn streams_keep_their_own_unfinished_lines() {
        let (_dir, path, mut log) = log(u64::MAX, 1);
        log.write(Stream::Stdout, b"one\ntw", TIME).unwrap();
        log.write(Stream::Stderr, b"oops\n", TIME).unwrap();
        log.write(Stream::Stdout, b"o\nend", TIME).unwrap();
        log.finish(TIME).unwrap();
        let expected = [
            ("stdout", "one\n"),
            ("stderr", "oops\n"),
            ("stdout", "two\n"),
            ("stdout", "end"),
        ];
        assert_eq!(
            logs(&path),
            expected.map(|(s, l)| (s.to_owned(), l.to_owned()))
        );
    }

    #[test]
    fn long_lines_are_cut_at_16_kib() {
        let (_dir, path, mut log) = log(u64::MAX, 1);
        log.write(Stream::Stdout, &[b'x'; 40_000], TIME).unwrap();
        log.write(Stream::Stdout, b"\n", TIME).unwrap();
        let lengths: Vec<usize> = logs(&path).iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [16384, 16384, 40_000 - 2 * 16384 + 1]);
    }

    #[test]
    fn rotation_bounds_size_and_number_of_files() {
        let (dir, path, mut log) = log(200, 3);
        for number in 0..20 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), TIME)
                .unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["c-json.log", "c-json.log.1", "c-json.log.2"]);
        let all: Vec<String> = ["c-json.log.2", "c-json.log.1", "c-json.log"]
            .iter()
            .flat_map(|name| logs(&dir.path().join(name)))
            .map(|(_, line)| line)
            .collect();
        assert_eq!(all.last().unwrap(), "line 19\n");
        assert!(all.len() >= 5, "{all:?}");
        assert!(fs::metadata(&path).unwrap().len() <= 200);
    }

    #[test]
    fn options_are_checked_by_name_and_value() {
        let parse = |driver: &str, options: &[(&str, &str)]| {
            let config = options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            Bounds::parse(&LogConfig {
                driver: driver.to_owned(),
                config,
            })
        };
        assert_eq!(parse("none", &[]), Ok(None));
        assert_eq!(
            parse("json-file", &[("max-size", "10m"), ("max-file", "2")]),
            Ok(Some(Bounds {
                max_size: 10 << 20,
                max_files: 2
            }))
        );
        for (driver, options) in [
            ("syslog", &[][..]),
            ("json-file", &[("max-size", "lots")][..]),
            ("json-file", &[("max-file", "0")][..]),
            ("json-file", &[("colour", "red")][..]),
        ] {
            assert!(parse(driver, options).is_err(), "{driver} {options:?}");
        }
    }
}
