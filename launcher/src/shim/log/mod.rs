//! Where the output of a container goes besides its clients: into files, or to a receiver that may
//! be slow or away, with files beside it that `hawser logs` reads.
//!
//! **Invariant:** a receiver that is away never holds the container up. One that is there and slow
//! does in blocking mode, and what is lost otherwise is counted.

mod file;
mod journald;
mod queue;
mod receiver;
mod remote;
mod split;
mod tls;
mod wire;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::PollFlags;

use crate::container::Record;
use crate::log::Stream;
use crate::log::option::{Driver, LogOptionError, Settings};
use crate::log::{Files, Format, json};
use crate::store::ContainerDir;
use file::LogFile;
use receiver::Receiver;
use remote::Remote;
use split::{Piece, Splitter};

/// How long a receiver may take to be there when the container starts.
const PATIENCE_AT_START: Duration = Duration::from_secs(10);
/// How long the last lines may take when the container has ended.
const PATIENCE_AT_END: Duration = Duration::from_secs(5);
/// Losses are written down no more often.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Why a container cannot have its log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Option(#[from] LogOptionError),
    #[error("failed to initialize logging driver: open {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("failed to initialize logging driver: {receiver}: {source}")]
    Receiver { receiver: String, source: io::Error },
}

/// The log of a running container.
#[derive(Debug)]
pub(crate) struct Log {
    dir: ContainerDir,
    splitter: Splitter,
    file: Option<LogFile>,
    remote: Option<Remote>,
    lost: Lost,
}

#[derive(Debug)]
struct Lost {
    entries: u64,
    noted: u64,
    noted_at: Instant,
}

impl Log {
    /// None for the driver `none`. `is_first` a receiver must be there; later the container runs on
    /// without it.
    pub(crate) fn open(
        dir: &ContainerDir,
        record: &Record,
        is_first: bool,
    ) -> Result<Option<Self>, LogError> {
        let settings = Settings::parse(&record.host_config.log_config)?;
        let file = match settings.files() {
            Some(files) => Some(open_file(dir, record, &settings, files)?),
            None => None,
        };
        let remote = match &settings.driver {
            Driver::None => return Ok(None),
            Driver::Files(_) => None,
            _ => {
                let failed = |receiver: &Receiver, source| LogError::Receiver {
                    receiver: receiver.to_string(),
                    source,
                };
                let receiver = Receiver::of(&settings, record)?;
                let mut remote = Remote::new(receiver, settings.mode);
                let may_be_away = matches!(&settings.driver, Driver::Fluentd(it) if it.may_be_away);
                if is_first
                    && !may_be_away
                    && let Err(source) = remote.wait_until_up(PATIENCE_AT_START)
                {
                    return Err(failed(remote.receiver(), source));
                }
                Some(remote)
            }
        };
        let before = dir.lost_entries().unwrap_or_default();
        Ok(Some(Self {
            dir: dir.clone(),
            splitter: Splitter::default(),
            file,
            remote,
            lost: Lost {
                entries: before,
                noted: before,
                noted_at: Instant::now(),
            },
        }))
    }

    /// Takes output that was read now.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let pieces = self.splitter.split(stream, bytes);
        self.take(pieces);
    }

    fn take(&mut self, pieces: Vec<Piece<'_>>) {
        let time = Timestamp::now();
        if let Some(file) = &mut self.file {
            self.lost.entries += file.append(&pieces, time);
        }
        if let Some(remote) = &mut self.remote {
            remote.take(pieces, time);
        }
    }

    /// Whether the container's output is to wait.
    pub(crate) fn is_congested(&self) -> bool {
        self.remote.as_ref().is_some_and(Remote::is_congested)
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.remote.as_ref().and_then(Remote::interest)
    }

    /// How long nothing is to be done unless something happens.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let work = self.file.as_ref().is_some_and(LogFile::has_work);
        let note = (self.lost.entries > self.lost.noted)
            .then(|| NOTE_EVERY.saturating_sub(self.lost.noted_at.elapsed()));
        let retry = self.remote.as_ref().and_then(Remote::patience);
        [work.then_some(Duration::ZERO), note, retry]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(crate) fn serve(&mut self) {
        if let Some(remote) = &mut self.remote {
            self.lost.entries += remote.serve();
        }
        if let Some(file) = &mut self.file {
            file.work();
        }
        if self.lost.noted_at.elapsed() >= NOTE_EVERY {
            self.note();
        }
    }

    fn note(&mut self) {
        let lost = &mut self.lost;
        if lost.entries > lost.noted {
            // Where no line can be written, no number can.
            drop(self.dir.write_lost_entries(lost.entries));
            lost.noted = lost.entries;
        }
        lost.noted_at = Instant::now();
    }

    /// Takes what is left without a newline, and gives the receiver time for what it has not got.
    pub(crate) fn finish(&mut self) {
        let pieces = self.splitter.finish();
        self.take(pieces);
        if let Some(remote) = &mut self.remote {
            self.lost.entries += remote.finish(PATIENCE_AT_END);
        }
        self.note();
    }
}

fn open_file(
    dir: &ContainerDir,
    record: &Record,
    settings: &Settings,
    files: Files,
) -> Result<LogFile, LogError> {
    let path = dir.log_path(files.format);
    let attributes = match files.format {
        Format::Json => {
            let mut chosen = settings.chosen.of(&record.config);
            if settings.tag.is_some() {
                chosen.insert("tag".to_owned(), settings.tag(record)?);
            }
            json::attributes(&chosen)
        }
        Format::Local => Vec::new(),
    };
    LogFile::open(&path, files, attributes).map_err(|source| LogError::File {
        path: path.display().to_string(),
        source,
    })
}
