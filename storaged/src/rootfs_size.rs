//! Limits of what containers write: the quota of the directory that a writable layer lies in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::storage::Rootfs;

use crate::Storaged;
use crate::disk::{Step, StepError};
use crate::model::record::{Change, Intent, RootfsRow};
use crate::model::size;
use crate::model::volume_spec::{Limit, Owner};
use crate::rootfs::RootfsError;
use crate::volume::directory::LimitFailure;

/// What the options of a writable layer ask for.
pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Option<u64>, RootfsError> {
    let mut bytes = None;
    for (key, value) in options {
        let invalid = |problem| RootfsError::Option {
            option: format!("{key}={value}").chars().take(64).collect(),
            problem,
        };
        if key != "size" {
            return Err(invalid("the one option is size=BYTES"));
        }
        let size = size::parse(value).filter(|size| *size > 0);
        bytes = Some(size.ok_or_else(|| invalid("a size is a number such as 10g"))?);
    }
    Ok(bytes)
}

/// A limit, and the project that counts for it where there are projects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota {
    pub(crate) bytes: u64,
    pub(crate) project: Option<u32>,
}

impl Storaged {
    /// The quota of a new writable layer.
    pub(crate) fn new_quota(&self, bytes: u64) -> Result<Quota, StepError> {
        let project = self.new_project_below(&self.layout.store())?;
        Ok(Quota { bytes, project })
    }

    /// Makes the directory of a writable layer, and limits it while nothing is in it: what is made
    /// inside belongs to it then.
    pub(crate) fn make_limited(&self, path: PathBuf, quota: Quota) -> Result<(), RootfsError> {
        self.apply(Step::MakeVolumeDir { path: path.clone() })?;
        self.limit(path.clone(), quota)?;
        let owner = Owner {
            uid: None,
            gid: None,
            mode: Some(0o710),
        };
        Ok(self.apply(Step::SetOwner { path, owner })?)
    }

    fn limit(&self, path: PathBuf, quota: Quota) -> Result<(), RootfsError> {
        let limited = self.apply(Step::LimitDir {
            path,
            project: quota.project,
            limit: Limit {
                bytes: Some(quota.bytes),
                inodes: None,
            },
        });
        limited.map_err(|error| match error {
            StepError::Limit {
                source: LimitFailure::NoQuota { filesystem, source },
                ..
            } => RootfsError::NoQuota { filesystem, source },
            error => error.into(),
        })
    }

    /// Lets a container write more, whether or not it runs. Again for the same size is fine.
    ///
    /// # Errors
    /// [`RootfsError::Shrinks`], [`RootfsError::NoSize`]; it may write as much as before.
    pub fn resize_rootfs(
        &self,
        container: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<Rootfs, RootfsError> {
        let Some(bytes) = parse(options)? else {
            return self.rootfs(container);
        };
        let _guard = self.rootfs_locks.lock(container);
        let row = self.existing_rootfs(container)?;
        let directory = self.layout.layer(&row.key);
        // What is larger than its row says does no harm; what is smaller would.
        let more = if self.driver.limits_size() {
            self.driver
                .grow_rootfs(&directory, bytes, &|step| self.apply(step))?
        } else {
            let has = row.size.ok_or_else(|| RootfsError::NoSize(row.container))?;
            if has <= bytes {
                let project = row.project;
                self.limit(directory.path().to_owned(), Quota { bytes, project })?;
            }
            (bytes < has).then_some(has)
        };
        if let Some(bytes) = more {
            return Err(RootfsError::Shrinks {
                container: container.to_owned(),
                bytes,
            });
        }
        let key = self.begin(Intent::ResizeRootfs {
            container: container.to_owned(),
            bytes,
        })?;
        if let Err(error) = self.settle(&key) {
            self.abandon(&key);
            return Err(error.into());
        }
        self.rootfs(container)
    }

    /// The change that makes a new size known, once the sidecar has it.
    pub(crate) fn settle_rootfs_size(
        &self,
        container: &str,
        bytes: u64,
    ) -> Result<Option<Change>, StepError> {
        let Some(row) = self.store.rows().rootfs.get(container).cloned() else {
            return Ok(None);
        };
        let size = Some(bytes);
        let row = RootfsRow { size, ..row };
        let directory = self.layout.layer(&row.key);
        if !row.ephemeral {
            let sidecar = directory.rootfs_sidecar();
            self.apply(Step::replace_sidecar(sidecar, &row.at_rest())?)?;
            let path = directory.path().to_owned();
            self.apply(Step::SyncDir { path })?;
        }
        Ok(Some(Change::PutRootfs(row)))
    }
}
