//! Members of a layer's archive become directory entries, in the form overlayfs stacks.
//!
//! * `.wh.NAME` becomes a character device 0:0 called `NAME`, `.wh..wh..opq` the attribute
//!   `trusted.overlay.opaque` of its directory (OCI image specification, "Whiteouts"); both only
//!   hide what lower layers have, never what this layer brings.
//! * A parent that the archive leaves out gets the mode and owner it has below: overlayfs shows
//!   those of the topmost directory.
//! * Attributes: `user.*`, `security.capability` and access control lists are kept, all others are
//!   dropped; those of overlayfs itself would let a layer reach beside the stack.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, makedev};
use rustix::io::Errno;

use super::archive::Archive;
use super::contents::{self, Contents};
use super::entry::{self, Replaced};
use super::lower::Lowers;
use super::member::{Kind, Member};
use super::place::{self, Place, Placed, c_string, io_problem, leaves};
use super::whole::Own;
use super::{EntryError, LimitExceeded, Problem, Stacking, excerpt};
use crate::config::{DeviceNodes, Limits};
use crate::{tree, xattr};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Other names of aufs that mean nothing to a layer, such as `.wh..wh.plnk`.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

pub(super) struct Unpacker<'a> {
    root: OwnedFd,
    lowers: Lowers<'a>,
    /// The archive says what the root of the layer is.
    root_is_set: bool,
    /// In a whole tree: what the archive brought.
    own: Option<Own>,
    /// There may be directories that give access control lists to what is made in them.
    inherits: bool,
    limits: &'a Limits,
    device_nodes: DeviceNodes,
    /// The directory of the member before: archives list a directory's entries in a row.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Where the content of files is; none where names mean nothing but themselves.
    contents: Option<Contents>,
    /// Set last: making entries changes them.
    directory_times: BTreeMap<Vec<u8>, Timespec>,
    entries: u64,
    bytes: u64,
    skipped_devices: u64,
    buffer: Vec<u8>,
}

/// What was unpacked.
pub(super) struct Summary {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(
        diff: &Path,
        replaced: PathBuf,
        stacking: Stacking<'a>,
        limits: &'a Limits,
        device_nodes: DeviceNodes,
    ) -> Result<Self, EntryError> {
        let (lowers, own) = match stacking {
            Stacking::Differences(find) => (Lowers::new(find), None),
            Stacking::Whole => (Lowers::none(), Some(Own::default())),
        };
        let root = tree::open_root(diff)
            .map_err(io_problem("prepare the layer"))
            .map_err(|problem| EntryError::entry(b"/", problem))?;
        let base = Self::verbatim(root, limits, device_nodes);
        Ok(Self {
            lowers,
            // What was copied from below may have lists.
            inherits: own.is_some() || base.inherits,
            own,
            contents: Some(Contents::new(replaced)),
            ..base
        })
    }

    /// Into an empty directory, where no name tells of a deletion and links lead anywhere.
    pub(super) fn verbatim(root: OwnedFd, limits: &'a Limits, device_nodes: DeviceNodes) -> Self {
        // From the directory of the state, if its owner wants that.
        let inherits = rustix::fs::fgetxattr(&root, xattr::DEFAULT_ACL, &mut [0_u8; 0]).is_ok();
        Self {
            root,
            lowers: Lowers::none(),
            root_is_set: false,
            own: None,
            inherits,
            limits,
            device_nodes,
            parent: None,
            contents: None,
            directory_times: BTreeMap::new(),
            entries: 0,
            bytes: 0,
            skipped_devices: 0,
            buffer: vec![0; 64 << 10],
        }
    }

    pub(super) fn add<R: Read>(
        &mut self,
        member: &Member,
        archive: &mut Archive<R>,
    ) -> Result<(), EntryError> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(LimitExceeded::Entries(self.limits.max_entries).into());
        }
        // The length of a sparse file costs nothing in the stream.
        self.bytes = self.bytes.saturating_add(member.size);
        if self.bytes > self.limits.max_bytes {
            return Err(LimitExceeded::Bytes(self.limits.max_bytes).into());
        }
        self.inherits |= member.has_acl();
        let named = |problem| EntryError::entry(&member.path, problem);
        let Some(place) = place::parse(&member.path).map_err(named)? else {
            return self.set_root(member).map_err(named);
        };
        match place.name.as_bytes() {
            _ if self.contents.is_none() => self.create(member, &place, archive),
            OPAQUE_MARK => self.make_opaque(&place.parent).map_err(named),
            name if name.starts_with(AUFS_PREFIX) => Ok(()),
            name => match name.strip_prefix(WHITEOUT_PREFIX) {
                Some(hidden) => self.hide(&place.parent, hidden).map_err(named),
                None => self.create(member, &place, archive),
            },
        }
    }

    pub(super) fn finish(mut self) -> Result<Summary, EntryError> {
        self.inherit_root()
            .map_err(|problem| EntryError::entry(b"/", problem))?;
        for (path, time) in &self.directory_times {
            match tree::open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(directory) => entry::set_times(&directory, *time)
                    .map_err(|error| EntryError::entry(path, io_problem("set its time")(error)))?,
                // Replaced by a later member.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => {
                    return Err(EntryError::entry(path, io_problem("open it again")(error)));
                }
            }
        }
        if self.skipped_devices > 0 {
            tracing::info!(
                skipped = self.skipped_devices,
                "device nodes left out of a layer"
            );
        }
        Ok(Summary {
            bytes: self.bytes,
            entries: self.entries,
        })
    }

    /// A layer whose archive does not tell shows the root that is below. Looked at last: until then
    /// the layers below may still be on their way.
    fn inherit_root(&mut self) -> Placed<()> {
        if self.root_is_set || self.own.is_some() {
            return Ok(());
        }
        let below = self
            .lowers
            .find(b"")
            .map_err(io_problem("look at the layers below"))?;
        below.map_or(Ok(()), |below| {
            entry::inherit(self.root.as_fd(), &below).map_err(io_problem("prepare the layer"))
        })
    }

    /// `./`: the root of the layer.
    fn set_root(&mut self, member: &Member) -> Placed<()> {
        if member.kind != Kind::Directory {
            return Err(Problem::NoName);
        }
        self.directory_times.insert(Vec::new(), member.mtime);
        self.root_is_set = true;
        entry::set_owner_and_mode(&self.root, member)?;
        entry::set_attributes(self.root.as_fd(), c".", member, self.inherits)
    }

    fn create<R: Read>(
        &mut self,
        member: &Member,
        place: &Place,
        archive: &mut Archive<R>,
    ) -> Result<(), EntryError> {
        let named = |problem| EntryError::entry(&member.path, problem);
        self.enter(&place.parent).map_err(named)?;
        if let Some(own) = &mut self.own {
            own.add(place.path());
        }
        let source = self.link_source(member, place).map_err(named)?;
        let replaced = self.clear(member, place, source.as_ref()).map_err(named)?;
        let Some((_, parent)) = &self.parent else {
            return Err(named(Problem::NotADirectory));
        };
        let (parent, name) = (parent.as_fd(), place.name.as_c_str());
        match (member.kind, source) {
            (Kind::File, _) => {
                let file = entry::create_file(parent, name).map_err(named)?;
                match &mut self.contents {
                    _ if !member.has_content() => entry::set_length(&file, member)?,
                    None => entry::write_extents(&file, member, archive, &mut self.buffer)?,
                    Some(contents) => {
                        let path = contents::real_path(&self.root, &file).map_err(named)?;
                        let number = archive.begin_content(&path, &member.extents)?;
                        entry::write_extents(&file, member, archive, &mut self.buffer)?;
                        archive.end_content()?;
                        contents.add(&file, number).map_err(named)?;
                    }
                }
                entry::set_owner_and_mode(&file, member)
                    .and_then(|()| entry::set_attributes(parent, name, member, self.inherits))
                    .and_then(|()| entry::set_time(&file, member))
                    .map_err(named)
            }
            (Kind::Directory, _) => {
                self.directory_times.insert(place.path(), member.mtime);
                entry::make_directory(parent, name, member, replaced)
                    .and_then(|()| entry::set_attributes(parent, name, member, self.inherits))
                    .map_err(named)
            }
            (Kind::HardLink, Some(Source::Itself)) => Ok(()),
            (Kind::HardLink, Some(Source::Other(from, target))) => {
                rustix::fs::linkat(from, target, parent, name, AtFlags::empty())
                    .map_err(|error| named(io_problem("link it")(error)))
            }
            // `link_source` gives every hard link a source or an error.
            (Kind::HardLink, None) => Err(named(Problem::MissingTarget)),
            (Kind::Symlink, _) => {
                let stays = self.contents.is_some().then_some(place.parent.as_slice());
                entry::make_symlink(parent, name, member, stays).map_err(named)
            }
            (Kind::CharDevice | Kind::BlockDevice, _) => self.device(member, place).map_err(named),
            (Kind::Fifo, _) => entry::make_node(parent, name, member, FileType::Fifo, 0)
                .and_then(|()| entry::set_attributes(parent, name, member, self.inherits))
                .map_err(named),
        }
    }

    /// Makes `path` the current parent.
    fn enter(&mut self, path: &[u8]) -> Placed<()> {
        if self
            .parent
            .as_ref()
            .is_some_and(|(current, _)| current == path)
        {
            return Ok(());
        }
        self.parent = None;
        if let Some(own) = &self.own {
            own.clear_way(&self.root, path)
                .map_err(io_problem("replace what is in its way"))?;
        }
        let directory = match self.open_directory(path) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path)?,
            Err(error) => return Err(leaves(error)),
        };
        if self.own.is_some() && !self.directory_times.contains_key(path) {
            // What is made inside does not change the time that was copied.
            let stat = rustix::fs::fstat(&directory).map_err(io_problem("look at a parent"))?;
            self.directory_times
                .insert(path.to_vec(), entry::mtime(&stat));
        }
        self.parent = Some((path.to_vec(), directory));
        Ok(())
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        tree::open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Makes the missing directories of `path`, each like the one the layers below have there.
    fn make_parents(&mut self, path: &[u8]) -> Placed<OwnedFd> {
        let mut current = self
            .open_directory(b"")
            .map_err(io_problem("open the layer"))?;
        let mut walked = Vec::new();
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            walked = tree::join(&walked, part);
            current = match self.open_directory(&walked) {
                Ok(next) => next,
                Err(Errno::NOENT) => self.make_parent(current.as_fd(), part, &walked)?,
                Err(Errno::NOTDIR) => self.replace_whiteout(current.as_fd(), part)?,
                Err(error) => return Err(leaves(error)),
            };
        }
        Ok(current)
    }

    fn make_parent(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Placed<OwnedFd> {
        let below = self
            .lowers
            .find(path)
            .map_err(io_problem("look at the layers below"))?;
        let made = entry::new_directory(dir, name, 0o755)?;
        if let Some(own) = &mut self.own {
            own.add(path.to_vec());
        }
        if let Some(below) = below.filter(tree::is_dir) {
            entry::inherit(made.as_fd(), &below)
                .map_err(io_problem("set the owner of a parent"))?;
            self.directory_times
                .insert(path.to_vec(), entry::mtime(&below));
        }
        Ok(made)
    }

    /// A deletion of the directory, and then a member inside: nothing from below shows through.
    fn replace_whiteout(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Placed<OwnedFd> {
        let c_name = c_string(name)?;
        let stat = tree::stat_at(dir, &c_name).map_err(io_problem("look at a parent"))?;
        if !stat.is_some_and(|stat| tree::is_whiteout(&stat)) {
            return Err(Problem::NotADirectory);
        }
        tree::remove_at(dir, &c_name).map_err(io_problem("replace a deletion"))?;
        let made = entry::new_directory(dir, name, 0o755)?;
        entry::set_opaque(&made)?;
        Ok(made)
    }

    /// What a hard link refers to. It must be in this layer, and is looked at before anything is
    /// removed to make room.
    fn link_source(&self, member: &Member, place: &Place) -> Placed<Option<Source>> {
        if member.kind != Kind::HardLink {
            return Ok(None);
        }
        self.find_link_source(member, place)
            .map(Some)
            .map_err(|problem| Problem::HardLink {
                target: excerpt(&member.link),
                problem: Box::new(problem),
            })
    }

    fn find_link_source(&self, member: &Member, place: &Place) -> Placed<Source> {
        let target = place::parse(&member.link)?.ok_or(Problem::DirectoryTarget)?;
        let from = match self.open_directory(&target.parent) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Problem::MissingTarget),
            Err(error) => return Err(leaves(error)),
        };
        let look = |dir: BorrowedFd<'_>, name: &CStr| {
            tree::stat_at(dir, name).map_err(io_problem("look at it"))
        };
        let stat = look(from.as_fd(), &target.name)?
            .filter(|stat| !tree::is_whiteout(stat))
            .ok_or(Problem::MissingTarget)?;
        if tree::is_dir(&stat) {
            return Err(Problem::DirectoryTarget);
        }
        let present = match &self.parent {
            Some((_, parent)) => look(parent.as_fd(), &place.name)?,
            None => None,
        };
        // Removing the old entry might remove the last link to the target.
        if present
            .is_some_and(|present| (present.st_dev, present.st_ino) == (stat.st_dev, stat.st_ino))
        {
            return Ok(Source::Itself);
        }
        Ok(Source::Other(from, target.name))
    }

    /// Makes room for a member: the last one of a name wins. Says whether a deletion was there.
    fn clear(
        &mut self,
        member: &Member,
        place: &Place,
        source: Option<&Source>,
    ) -> Placed<Replaced> {
        let Some((_, parent)) = &self.parent else {
            return Ok(Replaced::Nothing);
        };
        let stat =
            tree::stat_at(parent.as_fd(), &place.name).map_err(io_problem("look at its place"))?;
        let Some(stat) = stat else {
            return Ok(Replaced::Nothing);
        };
        if tree::is_dir(&stat) && member.kind == Kind::Directory {
            return Ok(Replaced::Directory);
        }
        if matches!(source, Some(Source::Itself)) {
            return Ok(Replaced::Nothing);
        }
        let kept = match &mut self.contents {
            Some(contents) => contents.keep(parent.as_fd(), &place.name, &stat),
            None => Ok(()),
        };
        kept.and_then(|()| tree::remove_at(parent.as_fd(), &place.name))
            .map_err(io_problem("replace what has its name"))?;
        Ok(if tree::is_whiteout(&stat) {
            Replaced::Whiteout
        } else {
            Replaced::Nothing
        })
    }

    /// `.wh..wh..opq`: nothing from below shows in `path`.
    fn make_opaque(&mut self, path: &[u8]) -> Placed<()> {
        self.enter(path)?;
        match (&self.parent, &self.own) {
            (Some((_, parent)), Some(own)) => own
                .hide_content(parent.as_fd(), path)
                .map_err(io_problem("hide what is below")),
            (Some((_, parent)), None) => entry::set_opaque(parent),
            (None, _) => Ok(()),
        }
    }

    /// `.wh.NAME`: what the layers below have at NAME is gone.
    fn hide(&mut self, parent_path: &[u8], name: &[u8]) -> Placed<()> {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Problem::WhiteoutName(excerpt(
                &[WHITEOUT_PREFIX, name].concat(),
            )));
        }
        let path = tree::join(parent_path, name);
        if self.own.is_some() {
            return self.remove_from_below(parent_path, name, &path);
        }
        let below = self
            .lowers
            .find(&path)
            .map_err(io_problem("look at the layers below"))?;
        // A device 0:0 that hides nothing would show up in listings: overlayfs filters them only
        // in directories it merges.
        if below.is_none() {
            return Ok(());
        }
        self.enter(parent_path)?;
        let Some((_, parent)) = &self.parent else {
            return Ok(());
        };
        let c_name = c_string(name)?;
        match tree::stat_at(parent.as_fd(), &c_name).map_err(io_problem("look at its place"))? {
            None => {
                rustix::fs::mknodat(parent, &c_name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(io_problem("record the deletion"))
            }
            // This layer brings a directory of the name: it replaces instead of merging.
            Some(stat) if tree::is_dir(&stat) => entry::set_opaque(
                &tree::open_dir_at(parent.as_fd(), &c_name).map_err(io_problem("open it"))?,
            ),
            Some(_) => Ok(()),
        }
    }

    /// A deletion in a whole tree. One in a directory that is not there deletes nothing.
    fn remove_from_below(&mut self, parent: &[u8], name: &[u8], path: &[u8]) -> Placed<()> {
        match self.open_directory(parent) {
            Ok(_) => self.enter(parent)?,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(leaves(error)),
        }
        match (&self.parent, &self.own) {
            (Some((_, parent)), Some(own)) => own
                .hide(parent.as_fd(), name, path)
                .map_err(io_problem("delete what is below")),
            _ => Ok(()),
        }
    }

    fn device(&mut self, member: &Member, place: &Place) -> Placed<()> {
        let (major, minor) = member.device;
        let kind = match member.kind {
            Kind::BlockDevice => FileType::BlockDevice,
            _ if member.device == (0, 0) => return Err(Problem::Whiteout),
            _ => FileType::CharacterDevice,
        };
        match (self.device_nodes, &self.parent) {
            (DeviceNodes::Refuse, _) => Err(Problem::Device),
            (DeviceNodes::Create, Some((_, parent))) => {
                let (parent, name) = (parent.as_fd(), place.name.as_c_str());
                entry::make_node(parent, name, member, kind, makedev(major, minor))?;
                entry::set_attributes(parent, name, member, self.inherits)
            }
            (DeviceNodes::Skip | DeviceNodes::Create, _) => {
                self.skipped_devices += 1;
                Ok(())
            }
        }
    }
}

enum Source {
    /// The link's own name is one of the target's names already.
    Itself,
    Other(OwnedFd, CString),
}
