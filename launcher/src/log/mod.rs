//! The logs of containers: what can be asked of them, what an entry is, and how files hold it.
//!
//! Pure: the shim writes ([`crate::shim`]), `hawser logs` reads.

pub(crate) mod attribute;
pub(crate) mod decoder;
pub(crate) mod fluentd;
pub(crate) mod gelf;
pub(crate) mod json;
pub(crate) mod local;
pub(crate) mod option;
pub(crate) mod subject;
pub(crate) mod syslog;

use jiff::Timestamp;

/// Docker's longest entry; a longer line becomes several.
pub(crate) const MAX_ENTRY: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line, or a piece of a long one, as a log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream: Stream,
    pub(crate) time: Timestamp,
    /// With its newline. Without one, the next entry of the stream goes on with the line.
    pub(crate) line: Vec<u8>,
    /// What `--details` shows.
    pub(crate) attributes: Vec<(String, String)>,
}

/// What a packed file says of the one that it was, before: inode and time of the last write.
pub(crate) fn identity(inode: u64, seconds: i64, nanoseconds: i64) -> String {
    format!("{inode} {seconds}.{nanoseconds:09}")
}

/// How a file holds entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Docker's json-file.
    Json,
    Local,
}

/// A log in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) format: Format,
    pub(crate) max_size: u64,
    pub(crate) max_files: u32,
    /// Rotated files are packed with gzip.
    pub(crate) compress: bool,
}
