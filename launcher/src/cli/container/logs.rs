//! `hawser logs`: reads the json-file log, rotated files first, and follows it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use inotify::{Inotify, WatchMask};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::moment;
use crate::container::Status;
use crate::store::{ContainerDir, StoreError};

/// `hawser logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsFlags {
    /// Go on as output comes
    #[arg(short, long)]
    pub follow: bool,
    /// Show the last N lines only
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    pub tail: String,
    /// Show output since a time (2026-01-02T15:04:05Z) or for a span (10m)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Show output before a time or for a span
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Show the time of every line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Container whose log to show
    pub container: String,
}

/// # Errors
/// The log is not kept or cannot be read.
pub fn logs(context: &Context, flags: &LogsFlags) -> Result<i32, CliError> {
    let container = context.container(&flags.container)?;
    let streams = (io::stdout().lock(), io::stderr().lock());
    match write(&container, flags, streams) {
        // Whoever reads has seen enough: `hawser logs web | head`.
        Err(CliError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        outcome => outcome.map(|()| 0),
    }
}

/// Writes what `flags` ask for of a container's log, each stream where it belongs and flushed
/// after each piece.
///
/// # Errors
/// As [`logs`].
pub(in crate::cli) fn write(
    container: &ContainerDir,
    flags: &LogsFlags,
    (stdout, stderr): (impl Write, impl Write),
) -> Result<(), CliError> {
    let selection = Selection::parse(flags, Timestamp::now())?;
    if container.record()?.host_config.log_config.driver == "none" {
        return Err(ContainerError::NoLog(flags.container.clone()).into());
    }
    let mut output = Output {
        timestamps: flags.timestamps,
        stdout,
        stderr,
    };
    run(container, &selection, flags.follow, &mut output)
}

fn run(
    container: &ContainerDir,
    selection: &Selection,
    follow: bool,
    output: &mut Output<impl Write, impl Write>,
) -> Result<(), CliError> {
    let path = container.log_path();
    // Watched before the first read, so that no change is missed in between.
    let watch = follow.then(|| Watch::new(container.path())).transpose()?;
    let mut reader = Reader::default();
    let mut last = VecDeque::new();
    for file in rotated(&path) {
        reader.open(&file)?;
        reader.read(|line| selection.take(line, &mut last, output))?;
    }
    reader.open(&path)?;
    reader.read(|line| selection.take(line, &mut last, output))?;
    for line in last.drain(..) {
        output.write(&line)?;
    }
    let Some(mut watch) = watch else {
        return Ok(());
    };
    let selection = Selection {
        tail: None,
        ..*selection
    };
    loop {
        // Asked before the read: what a container wrote before it ended is read then.
        let runs = is_running(container)?;
        reader.read(|line| selection.take(line, &mut last, output))?;
        let rotated = reader.is_stale(&path);
        if rotated {
            reader.open(&path)?;
            continue;
        }
        if !runs || selection.is_over() {
            return Ok(());
        }
        watch.wait()?;
    }
}

fn is_running(container: &ContainerDir) -> Result<bool, CliError> {
    match container.state() {
        Ok(state) => Ok(state.status == Status::Running),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The rotated files of a log, oldest first: `LOG.2`, `LOG.1`.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut files: Vec<PathBuf> = (1..)
        .map(numbered)
        .take_while(|file| file.exists())
        .collect();
    files.reverse();
    files
}

/// One line of the log file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Line {
    log: String,
    #[serde(default)]
    stream: String,
    time: String,
}

/// What of the log was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Selection {
    tail: Option<usize>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Selection {
    fn parse(flags: &LogsFlags, now: Timestamp) -> Result<Self, CliError> {
        let tail = match flags.tail.as_str() {
            "all" | "-1" => None,
            text => Some(text.parse().map_err(|_not_a_number| CliError::Flag {
                flag: "--tail",
                text: text.to_owned(),
                expected: "a number or all",
            })?),
        };
        let at = |flag, text: &Option<String>| {
            text.as_deref()
                .map(|text| moment::parse(flag, text, now))
                .transpose()
        };
        Ok(Self {
            tail,
            since: at("--since", &flags.since)?,
            until: at("--until", &flags.until)?,
        })
    }

    fn has(&self, line: &Line) -> bool {
        let Ok(time) = line.time.parse::<Timestamp>() else {
            return true;
        };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Writes the line, or keeps it while it is among the last ones.
    fn take(
        &self,
        line: Line,
        last: &mut VecDeque<Line>,
        output: &mut Output<impl Write, impl Write>,
    ) -> Result<(), CliError> {
        if !self.has(&line) {
            return Ok(());
        }
        let Some(tail) = self.tail else {
            return output.write(&line);
        };
        last.push_back(line);
        if last.len() > tail {
            last.pop_front();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Timestamp::now() >= until)
    }
}

/// Reads whole lines from a file that grows.
#[derive(Debug, Default)]
struct Reader {
    file: Option<BufReader<File>>,
    /// A line whose end is not written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// Goes on with `path`; a log that was not written yet has no lines.
    fn open(&mut self, path: &Path) -> Result<(), CliError> {
        self.partial.clear();
        self.file = match File::open(path) {
            Ok(file) => Some(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(CliError::File {
                    op: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(())
    }

    fn read(
        &mut self,
        mut action: impl FnMut(Line) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        loop {
            let read = file.read_until(b'\n', &mut self.partial);
            read.map_err(|source| CliError::Io {
                op: "read the log",
                source,
            })?;
            if self.partial.last() != Some(&b'\n') {
                return Ok(());
            }
            // A power cut may leave a torn line; what is after it is still good.
            if let Ok(line) = serde_json::from_slice(&self.partial) {
                action(line)?;
            }
            self.partial.clear();
        }
    }

    /// Whether `path` is another file by now than the one that was read to its end.
    fn is_stale(&self, path: &Path) -> bool {
        let named = path.metadata().ok().map(|metadata| metadata.ino());
        let opened = self
            .file
            .as_ref()
            .and_then(|file| file.get_ref().metadata().ok())
            .map(|metadata| metadata.ino());
        named.is_some() && named != opened
    }
}

struct Output<O, E> {
    timestamps: bool,
    stdout: O,
    stderr: E,
}

impl<O: Write, E: Write> Output<O, E> {
    fn write(&mut self, line: &Line) -> Result<(), CliError> {
        let stream: &mut dyn Write = if line.stream == "stderr" {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        let time = if self.timestamps {
            format!("{} ", line.time)
        } else {
            String::new()
        };
        write!(stream, "{time}{}", line.log)
            .and_then(|()| stream.flush())
            .map_err(|source| CliError::Io {
                op: "write the log",
                source,
            })
    }
}

/// Wakes when something changes in the container's directory.
struct Watch {
    inotify: Inotify,
}

/// A shim that was killed changes no file, so the state is looked at this often anyway.
const RECHECK: Duration = Duration::from_secs(1);

impl Watch {
    fn new(dir: &Path) -> Result<Self, CliError> {
        let failed = |source| CliError::File {
            op: "watch",
            path: dir.to_owned(),
            source,
        };
        let inotify = Inotify::init().map_err(failed)?;
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE_SELF;
        inotify.watches().add(dir, mask).map_err(failed)?;
        Ok(Self { inotify })
    }

    fn wait(&mut self) -> Result<(), CliError> {
        let failed = |source| CliError::Io {
            op: "watch the log",
            source,
        };
        let timeout = Timespec {
            tv_sec: RECHECK.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut buffer = [0; 4096];
        match self.inotify.read_events(&mut buffer) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T10:00:00Z";

    fn selection(
        tail: &str,
        since: Option<&str>,
        until: Option<&str>,
    ) -> Result<Selection, CliError> {
        let flags = LogsFlags {
            follow: false,
            tail: tail.to_owned(),
            since: since.map(str::to_owned),
            until: until.map(str::to_owned),
            timestamps: false,
            container: String::new(),
        };
        Selection::parse(&flags, NOW.parse().unwrap())
    }

    fn shown(files: &[(&str, &str)], selection: Selection, timestamps: bool) -> (String, String) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let path = dir.path().join("log");
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut output = Output {
            timestamps,
            stdout: &mut stdout,
            stderr: &mut stderr,
        };
        let mut last = VecDeque::new();
        let mut reader = Reader::default();
        for file in rotated(&path).into_iter().chain([path]) {
            reader.open(&file).unwrap();
            reader
                .read(|line| selection.take(line, &mut last, &mut output))
                .unwrap();
        }
        for line in last {
            output.write(&line).unwrap();
        }
        (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        )
    }

    const OLD: &str =
        "{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-21T09:00:00.1Z\"}\n";
    const NEW: &str = "{\"log\":\"two\\n\",\"stream\":\"stderr\",\"time\":\"2026-11-21T09:50:00.1Z\"}\n\
                       torn\n\
                       {\"log\":\"three\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-21T09:59:00.1Z\"}\n\
                       {\"log\":\"unfinished";

    #[test]
    fn streams_stay_apart_and_rotated_files_come_first() {
        let files = [("log.1", OLD), ("log", NEW)];
        let all = selection("all", None, None).unwrap();
        assert_eq!(
            shown(&files, all, false),
            ("one\nthree\n".into(), "two\n".into())
        );
        let (stdout, _) = shown(&files, all, true);
        assert!(
            stdout.starts_with("2026-11-21T09:00:00.1Z one\n"),
            "{stdout}"
        );
    }

    #[test]
    fn tail_since_and_until_select() {
        let files = [("log.1", OLD), ("log", NEW)];
        let stdout = |tail, since, until| {
            let selection = selection(tail, since, until).unwrap();
            shown(&files, selection, false).0
        };
        assert_eq!(stdout("1", None, None), "three\n");
        assert_eq!(stdout("0", None, None), "");
        assert_eq!(stdout("all", Some("5m"), None), "three\n");
        assert_eq!(stdout("all", Some("2026-11-21T09:30:00"), None), "three\n");
        assert_eq!(stdout("all", None, Some("30m")), "one\n");
    }

    #[test]
    fn bad_times_are_refused() {
        assert!(selection("x", None, None).is_err());
        assert!(selection("all", Some("yesterday"), None).is_err());
        assert!(selection("all", None, Some("")).is_err());
    }

    #[test]
    fn a_missing_log_is_empty() {
        let all = selection("all", None, None).unwrap();
        assert_eq!(shown(&[], all, false), (String::new(), String::new()));
    }
}
