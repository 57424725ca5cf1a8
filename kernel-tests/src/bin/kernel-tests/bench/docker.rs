//! dockerd on a throwaway host of its own, with a host outside.

use std::ops::Deref;
use std::sync::Arc;

use anyhow::Result;
use kernel_tests::{Host, Outside, docker};

pub(crate) use kernel_tests::docker::TOOLS;

/// Dropped in this order: first the outside host, then the daemon, which has its host.
pub(crate) struct Docker {
    pub(crate) outside: Outside,
    daemon: docker::Docker,
}

impl Docker {
    pub(crate) fn start() -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        Ok(Self {
            outside: Outside::new(Arc::clone(&host))?,
            daemon: docker::Docker::start(host)?,
        })
    }
}

impl Deref for Docker {
    type Target = docker::Docker;

    fn deref(&self) -> &docker::Docker {
        &self.daemon
    }
}
