//! Limits of what containers write: the quota of the directory that a writable layer lies in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Storaged;
use crate::disk::{Step, StepError};
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
        let limited = self.apply(Step::LimitDir {
            path: path.clone(),
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
        })?;
        let owner = Owner {
            uid: None,
            gid: None,
            mode: Some(0o710),
        };
        Ok(self.apply(Step::SetOwner { path, owner })?)
    }
}
