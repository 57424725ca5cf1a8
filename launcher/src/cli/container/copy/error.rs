//! Why nothing, or not everything, was copied.

use std::io;

use api::client::ClientError;
use rustix::io::Errno;

use crate::store::StoreError;
use crate::volume::VolumeError;

/// Paths are as they were typed, those of a container after its name and a colon.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("must specify at least one container source: CONTAINER:PATH")]
    NoContainer,
    #[error("copying between containers is not supported")]
    TwoContainers,
    #[error("the path in container {0} is empty")]
    EmptyPath(String),
    #[error("an archive is nothing for a terminal: redirect standard output")]
    Terminal,
    #[error("could not find the file {path} in container {container}")]
    NotInContainer { path: String, container: String },
    #[error("cannot copy: {path}: {source}")]
    Path { path: String, source: Errno },
    #[error("no such directory: {0}: leave out the slash to copy to a file of that name")]
    NoDirectory(String),
    #[error("cannot copy directory {from} to {to}: that is a file")]
    DirectoryToFile { from: String, to: String },
    #[error("destination {0:?} must be a directory, to unpack an archive in")]
    ArchiveToFile(String),
    #[error("cannot copy {path}: {source}")]
    Pack { path: String, source: io::Error },
    #[error("the container has no root: nobody in its user namespace could own a copy")]
    NoRoot,
    #[error("cannot read the archive: {0}")]
    Archive(io::Error),
    #[error("{path}: {problem}")]
    Entry { path: String, problem: Problem },
    #[error("cannot show the files of container {container}: {what}: {source}")]
    Show {
        container: String,
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Daemon(#[from] ClientError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// What is wrong with one member of an archive, or with its place.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("it is outside of the destination")]
    Outside,
    #[error("it has no valid name")]
    Name,
    #[error("cannot overwrite directory with non-directory")]
    DirectoryInTheWay,
    #[error("cannot overwrite non-directory with directory")]
    FileInTheWay,
    #[error("member type {0:?} is unknown")]
    Kind(char),
    #[error("its place is marked read-only")]
    ReadOnly,
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}
