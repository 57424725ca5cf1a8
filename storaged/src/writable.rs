//! What is in a container's root filesystem: changes to its image, all of it as an archive, and the
//! changes as a new layer.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use api::storage::{Layer, RootfsChange};
use sys::mount::MAX_LOWER_LAYERS;

use crate::changes::{self, Change, Kind, Trees};
use crate::disk::{Step, StepError};
use crate::model::record::{Intent, RootfsRow};
use crate::reason::named;
use crate::rootfs::RootfsError;
use crate::shown::Shown;
use crate::tar_writer::{TarWriter, open};
use crate::{Storaged, tree};

impl Storaged {
    /// What differs from the image, in the order of paths.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn rootfs_changes(&self, container: &str) -> Result<Vec<RootfsChange>, RootfsError> {
        let (_, changes, _) = self.find_changes(container)?;
        Ok(changes.iter().map(described).collect())
    }

    /// Writes the whole root filesystem as an archive.
    ///
    /// # Errors
    /// [`RootfsError`]; `out` has not seen an end of the archive then.
    pub fn export_rootfs(&self, container: &str, out: &mut dyn Write) -> Result<(), RootfsError> {
        let (_, root, shown) = self.open_shown(container)?;
        export(&root, shown, out).map_err(unreadable(container))
    }

    /// Makes the changes a layer on top of the image's. A container that runs goes on meanwhile:
    /// what it writes just now may be in the layer or not.
    ///
    /// # Errors
    /// [`RootfsError`]; no layer is left.
    pub fn commit_rootfs(&self, container: &str) -> Result<Layer, RootfsError> {
        let (row, changes, trees) = self.find_changes(container)?;
        let (reader, writer) = io::pipe().map_err(unreadable(container))?;
        let (written, imported) = std::thread::scope(|scope| {
            let written = scope.spawn(|| write_changes(&changes, &trees, writer));
            // An import that failed, or panicked, reads no further: the writer must not wait for it.
            let mut reader = reader;
            let imported = self.import_layer(row.chain_id.as_ref(), None, &mut reader);
            drop(reader);
            let written = written.join();
            let panicked = |_panic| Err(io::Error::other("the writing thread panicked"));
            (written.unwrap_or_else(panicked), imported)
        });
        match (written, imported) {
            (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(unreadable(container)(error))
            }
            (_, imported) => imported.map_err(|error| RootfsError::Layer(Box::new(error))),
        }
    }

    /// The changes, and the trees that they were found in.
    fn find_changes(
        &self,
        container: &str,
    ) -> Result<(RootfsRow, Vec<Change>, Trees), RootfsError> {
        let (row, root, shown) = self.open_shown(container)?;
        let lowers = self.lower_paths(&self.store.rows(), row.chain_id.as_ref());
        let diff = self.layout.layer(&row.key).diff();
        let written = self
            .driver
            .keeps_differences()
            .then(|| tree::open_root(&diff));
        let trees = Trees {
            image: self.view(&lowers)?,
            container: root,
            shown,
            written: written.transpose().map_err(StepError::io("open", &diff))?,
        };
        let changes = changes::find(&trees).map_err(unreadable(container))?;
        Ok((row, changes, trees))
    }

    /// The root filesystem as it is shown: what is mounted may show mapped owners.
    ///
    /// Not by a second overlay over the directories of the one that is mounted, whose upper one is
    /// in use: the kernel makes no promises about that (`Documentation/filesystems/overlayfs.rst`,
    /// "Sharing and copying layers"), and it would have one directory more.
    fn open_shown(&self, container: &str) -> Result<(RootfsRow, OwnedFd, Shown), RootfsError> {
        {
            let _guard = self.rootfs_locks.lock(container);
            let row = self.existing_rootfs(container)?;
            if self.driver.keeps_differences()
                && let Some(root) = self.open_mounted(&row)?
            {
                let maps = row.id_maps.clone();
                return Ok((row, root, Shown { maps }));
            }
        }
        let (row, root) = self.open_rootfs(container)?;
        Ok((row, root, Shown::default()))
    }

    /// The root filesystem with the container's ids, mounted or not.
    pub(crate) fn open_rootfs(&self, container: &str) -> Result<(RootfsRow, OwnedFd), RootfsError> {
        let _guard = self.rootfs_locks.lock(container);
        let row = self.existing_rootfs(container)?;
        let directory = self.layout.layer(&row.key);
        let shown = self.driver.root(&directory);
        let open = || tree::open_root(&shown).map_err(StepError::io("open", &shown));
        if !self.driver.keeps_differences() {
            let root = self.driver.open_root(&directory);
            return Ok((row, root.map_err(StepError::io("open", &shown))?));
        }
        // What is mounted shows mapped owners, if any; ids on disk are the container's.
        if row.id_maps.is_none()
            && let Some(root) = self.open_mounted(&row)?
        {
            return Ok((row, root));
        }
        let mut lowers = self.lower_paths(&self.store.rows(), row.chain_id.as_ref());
        lowers.insert(0, directory.diff());
        if lowers.len() <= MAX_LOWER_LAYERS {
            let root = self.view(&lowers)?;
            return Ok((row, root));
        }
        // One directory too many for an overlay without an upper one.
        if self.is_mounted(&row)? || self.user(&row, None)?.is_some() {
            return Err(RootfsError::TooDeep(container.to_owned()));
        }
        self.mount_locked(container, |_row| None)?;
        let root = open();
        self.unmount_locked(container)?;
        Ok((row, root?))
    }

    /// What a stack of directories shows, top first.
    fn view(&self, lowers: &[PathBuf]) -> Result<OwnedFd, StepError> {
        let key = self.begin(Intent::MakeLayer)?;
        let scratch = self.layout.staged_layer(&key).path().to_owned();
        let made = self.apply(Step::CreateDir {
            path: scratch.clone(),
            mode: 0o700,
        });
        let view = made.and_then(|()| {
            self.driver
                .view(lowers, &scratch)
                .map_err(StepError::io("show the layers in", &scratch))
        });
        self.abandon(&key);
        view
    }
}

fn unreadable(container: &str) -> impl Fn(io::Error) -> RootfsError {
    move |source| RootfsError::Read {
        container: container.to_owned(),
        source,
    }
}

fn described(change: &Change) -> RootfsChange {
    RootfsChange {
        path: format!("/{}", String::from_utf8_lossy(&change.path)),
        kind: match change.kind {
            Kind::Modified => 0,
            Kind::Added => 1,
            Kind::Deleted => 2,
        },
    }
}

fn export(root: &OwnedFd, shown: Shown, out: &mut dyn Write) -> io::Result<()> {
    let mut archive = TarWriter::new(out).of(shown);
    archive.tree(root, b"")?;
    archive.finish().map(drop)
}

fn write_changes(changes: &[Change], trees: &Trees, out: impl Write) -> io::Result<()> {
    let root = &trees.container;
    let out = io::BufWriter::with_capacity(64 << 10, out);
    let mut archive = TarWriter::new(out).of(trees.shown.clone());
    let mut parent: Option<(&[u8], OwnedFd)> = None;
    for Change { path, kind } in changes {
        if *kind == Kind::Deleted {
            archive.deletion(path)?;
            continue;
        }
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = match slash {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path.as_slice()),
        };
        if parent.as_ref().is_none_or(|(current, _)| *current != above) {
            parent = open(root, above)?.map(|directory| (above, directory));
        }
        if let Some((_, directory)) = &parent {
            let name = CString::new(name)?;
            let added = archive.entry(directory.as_fd(), &name, path);
            added.map_err(|error| named(path, error))?;
        }
    }
    archive.finish().map(drop)
}
