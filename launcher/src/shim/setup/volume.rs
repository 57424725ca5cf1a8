//! The volumes and bind mounts of a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Setup, SetupError, failed};
use crate::container::{Mount, MountKind, Recursion};
use crate::shim::daemon::{is_away, patiently};
use crate::volume::{VolumeError, is_local};

impl Setup {
    pub(super) fn check_bind_sources(&self) -> Result<(), SetupError> {
        let absent = self
            .mounts(MountKind::Bind)
            .find(|mount| !Path::new(&mount.source).exists());
        match absent {
            None => Ok(()),
            Some(mount) => Err(SetupError::NoBindSource {
                destination: mount.destination.clone(),
                source_path: mount.source.clone(),
            }),
        }
    }

    /// Whether what is below a read-only mount becomes read-only without being asked for. Other
    /// runtimes may be too old for that, and have to be asked.
    pub(super) fn read_only_below(&self) -> Result<bool, SetupError> {
        let can = sys::owner::sets_attributes();
        let mut mounts = self.record.mounts.iter();
        match mounts.find(|mount| mount.recursion == Recursion::ReadOnly && !can) {
            Some(mount) => Err(SetupError::NotReadOnlyBelow {
                destination: mount.destination.clone(),
            }),
            None => Ok(can && self.runtime.has_stage()),
        }
    }

    pub(super) fn mount_volumes(&self) -> Result<BTreeMap<String, PathBuf>, SetupError> {
        let mut mounted = BTreeMap::new();
        for mount in self.mounts(MountKind::Volume) {
            let driver = self.plugins.driver(&mount.driver)?;
            let path = driver.mount(&mount.name, self.dir.id().as_str())?;
            mounted.insert(mount.destination.clone(), path);
        }
        Ok(mounted)
    }

    /// Tells the daemon whose I/O is that of its volumes. Figures are no reason not to start.
    pub(super) fn have_io_counted(&self, pid: u32) {
        let mut own = self
            .mounts(MountKind::Volume)
            .filter(|mount| is_local(&mount.driver));
        let Some(first) = own.next() else {
            return;
        };
        let group = self.group().and_then(|group| {
            let number = group.id(pid);
            number.map_err(failed(
                "make a control group of version 2 in",
                &group.dir("unified"),
            ))
        });
        match group {
            Ok(Some(group)) => {
                for mount in std::iter::once(first).chain(own) {
                    if let Err(error) = self.daemon.place_volume_user(&mount.name, group) {
                        eprintln!(
                            "hawser: warning: the I/O of volume {} is not counted: {error}",
                            mount.name
                        );
                    }
                }
            }
            Ok(None) => {}
            Err(error) => eprintln!("hawser: warning: the I/O of volumes is not counted: {error}"),
        }
    }

    pub(super) fn unmount_volumes(&self) -> Result<(), SetupError> {
        let is_plugin_away = |error: &VolumeError| matches!(error, VolumeError::Call { source, .. } if is_away(source));
        let mut outcome = Ok(());
        for mount in self.mounts(MountKind::Volume) {
            let driver = self.plugins.driver(&mount.driver);
            let unmounted = driver.and_then(|driver| {
                patiently(is_plugin_away, || {
                    driver.unmount(&mount.name, self.dir.id().as_str())
                })
            });
            outcome = outcome.and(unmounted.map_err(SetupError::from));
        }
        outcome
    }

    /// Gives up every volume for good, and removes those that were made for this container.
    pub(super) fn leave_volumes(&self) -> Result<(), SetupError> {
        for mount in self.mounts(MountKind::Volume) {
            if is_local(&mount.driver) {
                patiently(is_away, || self.daemon.leave_volume(&mount.name))?;
            }
            if mount.anonymous {
                // Another container may use it by `--volumes-from`; then it stays.
                match self.plugins.driver(&mount.driver)?.remove(&mount.name) {
                    Ok(()) | Err(VolumeError::Refused { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn mounts(&self, kind: MountKind) -> impl Iterator<Item = &Mount> {
        let mounts = self.record.mounts.iter();
        mounts.filter(move |mount| mount.kind == kind)
    }
}
