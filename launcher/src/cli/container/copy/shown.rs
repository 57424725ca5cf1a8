//! The files of a container as it sees them, volumes included, running or not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::Client;
use api::owner::IdMaps;
use api::path::{ROOTFS, ROOTFS_AS_KEPT};
use api::storage::RootfsMount;
use rustix::fs::OFlags;
use rustix::mount::MountFlags;

use super::error::CopyError;
use super::tree::{Tree, magic_path};
use crate::container::{MountKind, ProcessId, Record};
use crate::shim::rootfs::Rootfs;
use crate::store::{ContainerDir, is_alive};
use crate::volume::{Driver, Plugins};

/// A container, with the services that keep its files.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) client: &'a Client,
    pub(super) plugins: Plugins,
    pub(super) container: ContainerDir,
    /// As it was typed.
    pub(super) called: &'a str,
}

/// What is mounted in a container that does not run.
#[derive(Debug)]
struct Bound {
    source: PathBuf,
    destination: String,
    writable: bool,
}

impl Shown<'_> {
    /// Calls `action` with the container's files.
    ///
    /// Those of one that runs are behind the root of its first process. Those of one that does not
    /// run are mounted for the time in a mount namespace of this thread, where nobody else sees
    /// them; meanwhile it can be neither started nor removed.
    pub(super) fn with_files<T: Send>(
        &self,
        action: impl FnOnce(&Tree, Option<&IdMaps>) -> Result<T, CopyError> + Send,
    ) -> Result<T, CopyError> {
        let record = self.container.record()?;
        if let Some(tree) = self.running()? {
            return action(&tree, record.id_maps.as_ref());
        }
        let _lock = self.container.lock()?;
        if let Some(tree) = self.running()? {
            // Started in between; whoever ends it now waits for the lock.
            return action(&tree, record.id_maps.as_ref());
        }
        let route = format!("{ROOTFS}/{}", self.container.id());
        if record.id_maps.is_some() {
            // What a killed shim has left mounted shows others as owners.
            self.client.act(&format!("{route}/unmount"))?;
        }
        let mount = format!("{route}/mount?{ROOTFS_AS_KEPT}");
        let mounted: RootfsMount = self.client.post(&mount, &())?;
        let done = self.with_volumes(&record, |mut bounds| {
            bounds.extend(self.fixed(&record, &bounds));
            // A shallow mount must not cover a deeper one.
            bounds.sort_by_key(|bound| bound.destination.matches('/').count());
            let read_only = record.host_config.readonly_rootfs;
            self.in_own_namespace(|| {
                let tree = self.assemble(Path::new(&mounted.path), &bounds, read_only)?;
                // On disk everything has the container's ids.
                action(&tree, None)
            })
        });
        let unmounted = self.client.act(&format!("{route}/unmount"));
        let done = done?;
        unmounted?;
        Ok(done)
    }

    fn running(&self) -> Result<Option<Tree>, CopyError> {
        let init = self.container.state()?.init;
        Ok(init.and_then(root_of))
    }

    /// Has the drivers mount the container's volumes for the time.
    fn with_volumes<T>(
        &self,
        record: &Record,
        action: impl FnOnce(Vec<Bound>) -> Result<T, CopyError>,
    ) -> Result<T, CopyError> {
        let (mut held, mut bounds) = (Vec::new(), Vec::new());
        let mounted = self.mount_volumes(record, &mut held, &mut bounds);
        let done = mounted.and_then(|()| action(bounds));
        let mut released = Ok(());
        for (driver, volume) in held {
            released = released.and(driver.unmount(&volume, record.id.as_str()));
        }
        let done = done?;
        released?;
        Ok(done)
    }

    fn mount_volumes(
        &self,
        record: &Record,
        held: &mut Vec<(Driver, String)>,
        bounds: &mut Vec<Bound>,
    ) -> Result<(), CopyError> {
        for mount in &record.mounts {
            if mount.kind != MountKind::Volume {
                continue;
            }
            let driver = self.plugins.driver(&mount.driver)?;
            let source = driver.mount(&mount.name, record.id.as_str())?;
            held.push((driver, mount.name.clone()));
            bounds.push(Bound {
                source,
                destination: mount.destination.clone(),
                writable: mount.rw,
            });
        }
        Ok(())
    }

    /// What needs no driver: bound directories, and the files for `/etc`. What was on a tmpfs has
    /// gone with it.
    fn fixed(&self, record: &Record, chosen: &[Bound]) -> Vec<Bound> {
        let binds = record
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Bind)
            .map(|mount| Bound {
                source: mount.source.clone().into(),
                destination: mount.destination.clone(),
                writable: mount.rw,
            });
        let mut fixed: Vec<Bound> = binds.collect();
        for name in ["hosts", "hostname", "resolv.conf"] {
            let source = self.container.path().join(name);
            let destination = format!("/etc/{name}");
            let taken = chosen
                .iter()
                .chain(&fixed)
                .any(|bound| bound.destination == destination);
            if !taken && fs::exists(&source).unwrap_or(false) {
                fixed.push(Bound {
                    source,
                    destination,
                    writable: true,
                });
            }
        }
        fixed
    }

    fn in_own_namespace<T: Send>(
        &self,
        action: impl FnOnce() -> Result<T, CopyError> + Send,
    ) -> Result<T, CopyError> {
        let enter = || {
            sys::mount::enter_private_namespace().map_err(self.cannot("make a mount namespace"))?;
            action()
        };
        // The namespace goes with the thread, and with it every mount that was made there.
        std::thread::scope(|scope| {
            let done = scope.spawn(enter).join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Puts the container's mounts into its root file system.
    fn assemble(&self, path: &Path, bounds: &[Bound], read_only: bool) -> Result<Tree, CopyError> {
        let root = || {
            let opened = Tree::Host.directory(path.as_os_str().as_encoded_bytes());
            opened
                .map(Tree::Container)
                .map_err(|error| self.cannot("open its root")(error.into()))
        };
        let points = Rootfs::open(path).map_err(self.cannot("open its root"))?;
        let tree = root()?;
        for bound in bounds {
            points
                .create_mount_point(&bound.destination, bound.source.is_dir())
                .map_err(self.cannot("make a mount point"))?;
            bind(&tree, bound).map_err(self.cannot("mount a volume"))?;
        }
        if !read_only {
            return Ok(tree);
        }
        sys::mount::bind(path, path, true, MountFlags::RDONLY)
            .map_err(self.cannot("mount its root"))?;
        root()
    }

    fn cannot(&self, what: &'static str) -> impl Fn(io::Error) -> CopyError {
        move |source| CopyError::Show {
            container: self.called.to_owned(),
            what,
            source,
        }
    }
}

/// The root of a process, unless it has ended and its number is another's.
fn root_of(init: ProcessId) -> Option<Tree> {
    let root = Tree::Host
        .directory(format!("/proc/{}/root", init.pid).as_bytes())
        .ok()?;
    is_alive(init).then_some(Tree::Container(root))
}

fn bind(tree: &Tree, bound: &Bound) -> io::Result<()> {
    let open = || tree.open(bound.destination.as_bytes(), OFlags::PATH);
    let below = open()?;
    let target = magic_path(&below);
    sys::mount::bind(&bound.source, Path::new(&target), true, MountFlags::empty())?;
    if bound.writable {
        return Ok(());
    }
    let mounted = open()?;
    sys::mount::make_read_only(Path::new(&magic_path(&mounted)))
}
