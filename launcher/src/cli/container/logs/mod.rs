//! `hawser logs`: reads a log in files, rotated ones first, and follows it.

mod reader;
mod watch;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;

use api::work::OutputRequest;
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::moment;
use crate::container::Status;
use crate::log::decoder::Decoder;
use crate::log::option::Settings;
use crate::log::{Entry, Format, Stream};
use crate::store::{ContainerDir, StoreError};
use reader::{Follower, files};
use watch::Watch;

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
    /// Show the labels and variables that the log was told to keep
    #[arg(long)]
    pub details: bool,
    /// Container whose log to show
    pub container: String,
}

impl LogsFlags {
    /// As they are asked for of a task, whose container this is.
    pub(crate) fn of_task(asked: OutputRequest, container: String) -> Self {
        Self {
            follow: asked.follow,
            tail: asked.tail,
            since: asked.since,
            until: None,
            timestamps: asked.timestamps,
            details: asked.details,
            container,
        }
    }
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
pub(crate) fn write(
    container: &ContainerDir,
    flags: &LogsFlags,
    (stdout, stderr): (impl Write, impl Write),
) -> Result<(), CliError> {
    let (selection, format) = select(container, flags)?;
    let mut output = Output::new(flags, stdout, stderr);
    run(container, format, &selection, flags.follow, &mut output)
}

/// Whether [`write`] has what is asked for.
///
/// # Errors
/// The log is not kept, or `flags` ask for what cannot be.
pub(crate) fn check(container: &ContainerDir, flags: &LogsFlags) -> Result<(), CliError> {
    select(container, flags).map(drop)
}

fn select(container: &ContainerDir, flags: &LogsFlags) -> Result<(Selection, Format), CliError> {
    let selection = Selection::parse(flags, Timestamp::now())?;
    let config = container.record()?.host_config.log_config;
    let settings = Settings::parse(&config).map_err(ContainerError::from)?;
    match settings.files() {
        Some(files) => Ok((selection, files.format)),
        None => {
            let (name, driver) = (flags.container.clone(), config.driver);
            Err(ContainerError::NoLog { name, driver }.into())
        }
    }
}

fn run(
    container: &ContainerDir,
    format: Format,
    selection: &Selection,
    follow: bool,
    output: &mut Output<impl Write, impl Write>,
) -> Result<(), CliError> {
    // Watched before the first read, so that no change is missed in between.
    let watch = follow.then(|| Watch::new(container.path())).transpose()?;
    let mut follower = show(&container.log_path(format), format, selection, output)?;
    let Some(mut watch) = watch else {
        return Ok(());
    };
    loop {
        // Asked before the read: what a container wrote before it ended is read then.
        let runs = is_running(container)?;
        follower.read(|entry| selection.pass(&entry, output))?;
        if !runs || selection.is_over() {
            return Ok(());
        }
        output.flush()?;
        watch.wait()?;
    }
}

/// What is there by now. What comes after it is read by what is returned.
fn show(
    path: &Path,
    format: Format,
    selection: &Selection,
    output: &mut Output<impl Write, impl Write>,
) -> Result<Follower, CliError> {
    let mut files = files(path)?;
    let mut follower = Follower::new(path.to_owned(), format, files.pop());
    let Some(tail) = selection.tail else {
        for mut file in files {
            file.read(&mut Decoder::new(format), |entry| {
                selection.pass(&entry, output)
            })?;
        }
        follower.read(|entry| selection.pass(&entry, output))?;
        return Ok(follower);
    };
    let mut last = Last::new(tail);
    follower.read(|entry| last.push(entry, selection))?;
    // Older files only as far as they are needed.
    while last.has_room()
        && let Some(mut file) = files.pop()
    {
        let mut older = Last::new(last.room());
        file.read(&mut Decoder::new(format), |entry| {
            older.push(entry, selection)
        })?;
        last.put_before(older);
    }
    for entry in last.entries {
        output.write(&entry)?;
    }
    Ok(follower)
}

/// The last entries of those that were asked for.
struct Last {
    entries: VecDeque<Entry>,
    count: usize,
}

impl Last {
    fn new(count: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            count,
        }
    }

    fn push(&mut self, entry: Entry, selection: &Selection) -> Result<(), CliError> {
        if selection.has(&entry) {
            self.entries.push_back(entry);
        }
        if self.entries.len() > self.count {
            self.entries.pop_front();
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.count.saturating_sub(self.entries.len())
    }

    fn has_room(&self) -> bool {
        self.room() > 0
    }

    fn put_before(&mut self, older: Self) {
        let newer = std::mem::replace(&mut self.entries, older.entries);
        self.entries.extend(newer);
    }
}

fn is_running(container: &ContainerDir) -> Result<bool, CliError> {
    match container.state() {
        Ok(state) => Ok(state.status == Status::Running),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What of the log was asked for.
#[derive(Debug, Clone, Copy)]
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

    fn has(&self, entry: &Entry) -> bool {
        self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time <= until)
    }

    fn pass(
        &self,
        entry: &Entry,
        output: &mut Output<impl Write, impl Write>,
    ) -> Result<(), CliError> {
        match self.has(entry) {
            true => output.write(entry),
            false => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Timestamp::now() >= until)
    }
}

struct Output<O, E> {
    timestamps: bool,
    details: bool,
    /// Of each stream: the entry before was a part of a line that is not at its end.
    is_within: [bool; 2],
    stdout: O,
    stderr: E,
}

impl<O: Write, E: Write> Output<O, E> {
    fn new(flags: &LogsFlags, stdout: O, stderr: E) -> Self {
        Self {
            timestamps: flags.timestamps,
            details: flags.details,
            is_within: [false; 2],
            stdout,
            stderr,
        }
    }

    fn write(&mut self, entry: &Entry) -> Result<(), CliError> {
        let head = match self.is_within[entry.stream as usize] {
            true => String::new(),
            false => self.head(entry),
        };
        self.is_within[entry.stream as usize] = !entry.line.ends_with(b"\n");
        let stream: &mut dyn Write = match entry.stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdout => &mut self.stdout,
        };
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&entry.line))
            .and_then(|()| stream.flush())
            .map_err(|source| CliError::Io {
                op: "write the log",
                source,
            })
    }

    /// A writer that knows says here that nobody reads any more.
    fn flush(&mut self) -> Result<(), CliError> {
        let flushed = self.stdout.flush().and_then(|()| self.stderr.flush());
        flushed.map_err(|source| CliError::Io {
            op: "write the log",
            source,
        })
    }

    fn head(&self, entry: &Entry) -> String {
        let mut head = String::new();
        if self.timestamps {
            head += &format!("{:.9} ", entry.time);
        }
        if self.details {
            let pairs = entry.attributes.iter();
            let pairs = pairs.map(|(name, value)| format!("{}={}", query(name), query(value)));
            head += &format!("{} ", pairs.collect::<Vec<_>>().join(","));
        }
        head
    }
}

/// As Go escapes a part of a query.
fn query(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
