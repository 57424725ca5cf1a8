//! Why an operation of the data plane did not work.

use std::io;
use std::path::PathBuf;

use api::id::IfName;
use api::net::Protocol;
use aya::maps::MapError;
use aya::programs::ProgramError;

use super::frontend::Frontend;

/// The sources are boxed: aya's errors are large, and none of this is on a hot path.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("this build has no eBPF programs: build it without HAWSER_SKIP_EBPF")]
    NoObject,
    #[error("{} is not on a bpffs: choose a directory below /sys/fs/bpf", path.display())]
    NotBpffs { path: PathBuf },
    #[error("{what} {}: {source}", path.display())]
    Pin {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("load the eBPF object: {source}")]
    Object { source: Box<aya::EbpfError> },
    #[error("eBPF map {name}: {source}")]
    Map { name: String, source: Box<MapError> },
    #[error(
        "{} was pinned by a newer hawserd: run that one, or hawserd --uninstall", path.display()
    )]
    Newer { path: PathBuf },
    #[error(
        "map {map} in {} has a layout that this version cannot carry over: stop the containers and \
         run hawserd --uninstall", path.display()
    )]
    Misfit { path: PathBuf, map: String },
    #[error("upgrade eBPF map {map}: {source}")]
    Upgrade { map: String, source: io::Error },
    #[error("read eBPF map {table}: {source}")]
    Table {
        table: &'static str,
        source: io::Error,
    },
    #[error("the eBPF object has no {name}: it was built from other sources")]
    Missing { name: String },
    #[error("load eBPF program {name}: {source}")]
    Load {
        name: String,
        source: Box<ProgramError>,
    },
    #[error("attach {name} to {target}: {source}")]
    Attach {
        name: String,
        target: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("interface {ifname} does not have index {ifindex} any more")]
    InterfaceChanged { ifname: IfName, ifindex: u32 },
    #[error("{subject} cannot be published: {limit} backends are in use")]
    Exhausted { subject: String, limit: u32 },
    #[error("{frontend} cannot be published: it leads elsewhere already")]
    Taken { frontend: Frontend },
    #[error("end {protocol} sockets: {source}")]
    Sockets {
        protocol: Protocol,
        source: io::Error,
    },
    #[error("ask for the cookie of a network namespace: {source}")]
    Cookie { source: io::Error },
    #[error("somebody else is tracing: one can at a time")]
    Busy,
    #[error("replay a frame of {length} bytes: {source}")]
    Replay {
        length: usize,
        source: Box<ProgramError>,
    },
}

impl BpfError {
    pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map {
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    pub(super) fn load(name: &str) -> impl Fn(ProgramError) -> Self {
        move |source| Self::Load {
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    pub(super) fn attach<E: std::error::Error + Send + Sync + 'static>(
        name: &str,
        target: &str,
    ) -> impl Fn(E) -> Self {
        move |source| Self::Attach {
            name: name.to_owned(),
            target: target.to_owned(),
            source: Box::new(source),
        }
    }
}

/// `None` where the key is not in the map.
pub(super) fn optional<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
