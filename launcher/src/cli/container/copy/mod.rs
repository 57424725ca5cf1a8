//! `hawser cp`: files into a container and out of it.
//!
//! ```text
//! Source ─ pack ─▶ pipe ─▶ unpack ─▶ Landing
//! ```
//! Either side may be a tar stream instead. One side packs what it finds by descriptor, the other
//! unpacks by descriptor: see [`tree`] for why neither leaves the container.

mod error;
mod pack;
mod place;
mod shown;
mod tree;
mod unpack;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;

use api::owner::IdMaps;
use clap::Args;
use jiff::Timestamp;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use serde::Serialize;

pub use error::CopyError;

use self::place::{Landing, Misfit, Source};
use self::shown::Shown;
use self::tree::{Followed, Tree};
use self::unpack::Owner;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::archive::decompressed;
use crate::cli::output;
use crate::container::Status;
use crate::format::human;
use crate::store::ContainerDir;

/// Who has no id of the container's (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// Standard input or output, as a tar stream.
const STREAM: &str = "-";

/// `hawser cp`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A directory is copied with everything in it; SRC/. stands for its content alone.
Into a directory that exists the copy goes under its own name; a destination that does not exist
becomes the copy.
Copies in a container belong to whom the originals belong, by number; copies on the host to you,
or with -a to whom the originals belong.")]
pub struct CopyFlags {
    /// Copy owners and groups by number
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what a symbolic link SRC leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing on a terminal
    #[arg(short, long)]
    pub quiet: bool,
    /// CONTAINER:PATH, a path of the host, or - for a tar stream on standard input
    #[arg(value_name = "SRC")]
    pub source: OsString,
    /// CONTAINER:PATH, a path of the host, or - for a tar stream on standard output
    #[arg(value_name = "DEST")]
    pub destination: OsString,
}

/// What a path of a container is, as Docker's clients are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathStat {
    name: String,
    size: i64,
    /// As Go has it.
    mode: u32,
    mtime: String,
    link_target: String,
}

/// # Errors
/// There is no such container or path.
pub(crate) fn stat(
    context: &Context,
    container: ContainerDir,
    path: &[u8],
) -> Result<PathStat, CliError> {
    let called = container.record()?.name.to_string();
    let shown = Shown {
        client: context.client(),
        plugins: context.plugins()?,
        container,
        called: &called,
    };
    let missing = |source| match source {
        Errno::NOENT | Errno::NOTDIR => CopyError::NotInContainer {
            path: text(path),
            container: called.clone(),
        },
        _ => CopyError::Path {
            path: text(path),
            source,
        },
    };
    Ok(shown.with_files(|tree, _maps| stat_in(tree, path).map_err(missing))?)
}

fn stat_in(tree: &Tree, path: &[u8]) -> Result<PathStat, Errno> {
    let found = tree.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&found)?;
    let link = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => rustix::fs::readlinkat(&found, c"", Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    let modified = Timestamp::new(stat.st_mtime, 0).unwrap_or_default();
    Ok(PathStat {
        name: text(&place::base(path)),
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        mtime: modified.to_string(),
        link_target: text(&link),
    })
}

/// `os.FileMode`: the permissions, and a bit from above for each other thing to say.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let bits = bits.iter().filter(|(bit, _)| mode & bit != 0);
    bits.fold(kind | (mode & 0o777), |all, (_, bit)| all | bit)
}

/// One side of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side<'a> {
    Host(&'a [u8]),
    Container { name: &'a str, path: &'a [u8] },
}

impl<'a> Side<'a> {
    /// What begins with a dot or a slash is a path of the host, whatever colons it has.
    fn parse(text: &'a OsStr) -> Self {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        match colon.map(|at| (str::from_utf8(&bytes[..at]), &bytes[at + 1..])) {
            Some((Ok(name), path)) if !name.starts_with(['.', '/']) => {
                Self::Container { name, path }
            }
            _ => Self::Host(bytes),
        }
    }
}

/// # Errors
/// [`CopyError`], or there is no such container. What was copied before a failure stays.
pub fn copy(context: &Context, flags: &CopyFlags) -> Result<i32, CliError> {
    let (from, to) = (Side::parse(&flags.source), Side::parse(&flags.destination));
    let (name, path) = match (from, to) {
        (Side::Host(_), Side::Host(_)) => return Err(CopyError::NoContainer.into()),
        (Side::Container { .. }, Side::Container { .. }) => {
            return Err(CopyError::TwoContainers.into());
        }
        (Side::Container { name, path }, Side::Host(_))
        | (Side::Host(_), Side::Container { name, path }) => (name, path),
    };
    if path.is_empty() {
        return Err(CopyError::EmptyPath(name.to_owned()).into());
    }
    context.require_root()?;
    let container = context.container(name)?;
    if container.state()?.status != Status::Running {
        context.check_driver(&container.record()?)?;
    }
    let shown = Shown {
        client: context.client(),
        plugins: context.plugins()?,
        container,
        called: name,
    };
    let copying = Copying {
        flags,
        name,
        path,
        maps: None,
    };
    let copied = match (from, to) {
        (Side::Host(host), _) if host == STREAM.as_bytes() => {
            shown.with_files(|tree, maps| copying.seen_through(maps).stream_in(tree))?
        }
        (Side::Host(host), _) => {
            shown.with_files(|tree, maps| copying.seen_through(maps).copy_in(host, tree))?
        }
        (_, Side::Host(host)) if host == STREAM.as_bytes() => {
            let streamed =
                shown.with_files(|tree, maps| copying.seen_through(maps).stream_out(tree));
            return streamed.map(|()| 0).map_err(|error| match error {
                CopyError::Pack { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
                    let op = "write the archive";
                    CliError::Io { op, source }
                }
                error => error.into(),
            });
        }
        (_, Side::Host(host)) => {
            shown.with_files(|tree, maps| copying.seen_through(maps).copy_out(tree, host))?
        }
        _ => return Err(CopyError::TwoContainers.into()),
    };
    if !flags.quiet && io::stderr().is_terminal() {
        output::warn(format_args!(
            "Successfully copied {} to {}",
            human::size(copied, 3),
            flags.destination.display()
        ));
    }
    Ok(0)
}

/// A copy whose container side is `NAME:PATH`.
#[derive(Debug, Clone, Copy)]
struct Copying<'a> {
    flags: &'a CopyFlags,
    name: &'a str,
    path: &'a [u8],
    /// Who its users are on the host, if what is seen there belongs to others.
    maps: Option<&'a IdMaps>,
}

impl<'a> Copying<'a> {
    fn seen_through<'b>(self, maps: Option<&'b IdMaps>) -> Copying<'b>
    where
        'a: 'b,
    {
        Copying { maps, ..self }
    }

    /// Whose copies in the container are.
    fn owner(self) -> Owner<'a> {
        self.maps.map_or(Owner::Kept, Owner::Mapped)
    }

    fn stream_in(self, tree: &Tree) -> Result<u64, CopyError> {
        let to = self.destination(tree)?;
        if to.kind != Some(FileType::Directory) {
            return Err(CopyError::ArchiveToFile(self.shown(self.path)));
        }
        let archive = decompressed(io::stdin().lock()).map_err(CopyError::Archive)?;
        unpack::unpack(archive, tree, &to.path, self.owner())
    }

    fn stream_out(self, tree: &Tree) -> Result<(), CopyError> {
        let stdout = io::stdout().lock();
        if stdout.is_terminal() {
            return Err(CopyError::Terminal);
        }
        let source = self.source(tree)?;
        pack::pack(&source, &source.called, stdout, self.maps).map_err(|source| CopyError::Pack {
            path: self.shown(self.path),
            source,
        })
    }

    fn copy_in(self, host: &[u8], tree: &Tree) -> Result<u64, CopyError> {
        let source =
            Source::find(&Tree::Host, host, self.flags.follow_link).map_err(on_host(host))?;
        let to = self.destination(tree)?;
        let landing = land(&source, &to, text(host), self.shown(self.path))?;
        // Before anything is read: unpacking would make the directory.
        tree.directory(&landing.directory)
            .map_err(|error| self.in_container(&landing.directory, error))?;
        let packing = Packing {
            source: &source,
            from: text(host),
            maps: None,
        };
        transfer(&packing, tree, &landing, self.owner())
    }

    fn copy_out(self, tree: &Tree, host: &[u8]) -> Result<u64, CopyError> {
        let source = self.source(tree)?;
        let to = Tree::Host.follow(host).map_err(on_host(host))?;
        let landing = land(&source, &to, self.shown(self.path), text(host))?;
        let directory = Tree::Host
            .directory(&landing.directory)
            .map_err(on_host(&landing.directory))?;
        // From here on nothing follows a link: the container says what the archive holds.
        let landing = Landing {
            directory: b".".to_vec(),
            ..landing
        };
        let owner = if self.flags.archive {
            Owner::Kept
        } else {
            Owner::Own
        };
        let packing = Packing {
            source: &source,
            from: self.shown(self.path),
            maps: self.maps,
        };
        transfer(&packing, &Tree::Directory(directory), &landing, owner)
    }

    fn destination(self, tree: &Tree) -> Result<Followed, CopyError> {
        tree.follow(self.path)
            .map_err(|error| self.in_container(self.path, error))
    }

    fn source(self, tree: &Tree) -> Result<Source, CopyError> {
        Source::find(tree, self.path, self.flags.follow_link)
            .map_err(|source| self.in_container(self.path, source))
    }

    /// What is wrong with a path of the container.
    fn in_container(self, path: &[u8], source: Errno) -> CopyError {
        match source {
            Errno::NOENT => CopyError::NotInContainer {
                path: text(path),
                container: self.name.to_owned(),
            },
            _ => CopyError::Path {
                path: self.shown(path),
                source,
            },
        }
    }

    fn shown(self, path: &[u8]) -> String {
        format!("{}:{}", self.name, text(path))
    }
}

fn land(source: &Source, to: &Followed, from: String, at: String) -> Result<Landing, CopyError> {
    place::land(source.is_directory, to).map_err(|misfit| match misfit {
        Misfit::DirectoryToFile => CopyError::DirectoryToFile { from, to: at },
        Misfit::NoDirectory => CopyError::NoDirectory(at),
    })
}

fn on_host(path: &[u8]) -> impl Fn(Errno) -> CopyError {
    move |source| CopyError::Path {
        path: text(path),
        source,
    }
}

/// What is packed.
struct Packing<'a> {
    source: &'a Source,
    /// For messages.
    from: String,
    maps: Option<&'a IdMaps>,
}

/// Packs and unpacks at once.
fn transfer(
    packing: &Packing<'_>,
    tree: &Tree,
    landing: &Landing,
    owner: Owner<'_>,
) -> Result<u64, CopyError> {
    let source = packing.source;
    let read = |source| CopyError::Pack {
        path: packing.from.clone(),
        source,
    };
    let (reader, writer) = io::pipe().map_err(read)?;
    let called = landing.name.as_ref().unwrap_or(&source.called);
    let (packed, unpacked) = std::thread::scope(|scope| {
        let packed = scope.spawn(|| pack::pack(source, called, writer, packing.maps));
        let unpacked = unpack::unpack(reader, tree, &landing.directory, owner);
        let panicked = |_panic| Err(io::Error::other("the reading thread panicked"));
        (packed.join().unwrap_or_else(panicked), unpacked)
    });
    match packed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(read(error)),
        // Whoever unpacks has hung up and says why, or all went well.
        _ => unpacked,
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
