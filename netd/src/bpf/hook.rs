//! The socket hooks on the root cgroup.
//!
//! The stubs see every process of the host; the programs behind them act on the namespaces of this
//! instance alone. Other instances attach their own beside them: links always are "multi".

use std::fs::File;
use std::io;
use std::path::PathBuf;

use abi::map::SOCKET_HOOKS;
use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkError};
use aya::programs::{CgroupSockAddr, ProgramError};

use super::Change;
use super::cookie::{self, Cookies};
use super::error::BpfError;
use super::object;
use super::pin::Directory;

/// The hooks of one instance.
pub(super) struct Hooks {
    pins: Directory,
    /// Absent on a host without cgroup2: there are no hooks then.
    cgroup: Option<PathBuf>,
    adopted: usize,
    cookies: Cookies,
    /// From the first cookie asked for, as long as the daemon runs.
    learner: Option<FdLink>,
}

impl Hooks {
    pub(super) fn open(
        object: &mut Ebpf,
        pins: Directory,
        cgroup: Option<PathBuf>,
    ) -> Result<Self, BpfError> {
        Ok(Self {
            pins,
            cgroup,
            adopted: 0,
            cookies: Cookies::open(object)?,
            learner: None,
        })
    }

    /// Makes the programs of the object the current ones.
    pub(super) fn install(&self, object: &mut Ebpf) -> Result<(), BpfError> {
        if self.cgroup.is_none() {
            return Ok(());
        }
        SOCKET_HOOKS
            .iter()
            .try_for_each(|hook| object::install_socket_hook(object, hook))
    }

    /// Attaches the stubs that are not.
    pub(super) fn adopt(&mut self, object: &mut Ebpf) -> Result<(), BpfError> {
        if self.cgroup.is_none() {
            return Ok(());
        }
        self.adopted = SOCKET_HOOKS.len() - self.missing()?.len();
        self.attach_missing(object).map(drop)
    }

    pub(super) fn describe(&self) -> String {
        match &self.cgroup {
            Some(cgroup) => format!(
                "socket hooks: {} on {}, {} of them adopted",
                SOCKET_HOOKS.len(),
                cgroup.display(),
                self.adopted
            ),
            None => "socket hooks: none, this host has no cgroup2 hierarchy".to_owned(),
        }
    }

    pub(super) fn is_lost(&self) -> Result<bool, BpfError> {
        Ok(self.cgroup.is_some() && !self.missing()?.is_empty())
    }

    pub(super) fn attach_missing(&mut self, object: &mut Ebpf) -> Result<Change, BpfError> {
        let mut change = Change::Unchanged;
        if self.cgroup.is_none() {
            return Ok(change);
        }
        for hook in self.missing()? {
            let Some(link) = self.attach(object, &format!("{hook}_entry"))? else {
                break;
            };
            // Of a link that somebody detached.
            self.pins.unpin(&pin(hook))?;
            self.pins.pin_link(&pin(hook), link)?;
            change = Change::Created;
        }
        Ok(change)
    }

    /// The cookie of the calling thread's namespace; `None` on a host without cgroup2.
    pub(super) fn learn_cookie(&mut self, object: &mut Ebpf) -> Result<Option<u64>, BpfError> {
        if self.learner.is_none() {
            self.learner = self.attach(object, cookie::PROGRAM)?;
        }
        match self.learner {
            Some(_) => self.cookies.ask().map(Some),
            None => Ok(None),
        }
    }

    /// Attaches a program to all processes, until the link is dropped; `None` on a host without
    /// cgroup2.
    fn attach(&self, object: &mut Ebpf, name: &str) -> Result<Option<FdLink>, BpfError> {
        let Some(cgroup) = &self.cgroup else {
            return Ok(None);
        };
        let target = cgroup.display().to_string();
        let directory = File::open(cgroup).map_err(BpfError::attach(name, &target))?;
        let program: &mut CgroupSockAddr = object::program(object, name)?;
        object::loaded(program.load()).map_err(BpfError::load(name))?;
        // `Single` means no flags: the kernel refuses any on a link, which is "multi" in itself.
        let id = program
            .attach(directory, CgroupAttachMode::Single)
            .map_err(BpfError::attach::<ProgramError>(name, &target))?;
        let link = program
            .take_link(id)
            .map_err(BpfError::attach::<ProgramError>(name, &target))?;
        // Since 5.7 attaching makes a link, and 5.10 is the floor.
        let link = FdLink::try_from(link)
            .map_err(|error: LinkError| BpfError::attach(name, &target)(io::Error::other(error)))?;
        Ok(Some(link))
    }

    /// The hooks that are not attached: without a pin, which keeps a link, or detached in spite of it.
    fn missing(&self) -> Result<Vec<&'static str>, BpfError> {
        let mut missing = Vec::new();
        for hook in SOCKET_HOOKS {
            if !self.is_attached(hook)? {
                missing.push(hook);
            }
        }
        Ok(missing)
    }

    fn is_attached(&self, hook: &str) -> Result<bool, BpfError> {
        let path = self.pins.path(&pin(hook));
        match sys::bpf::is_link_attached(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(BpfError::Pin {
                what: "look at the link pinned at",
                path,
                source,
            }),
            Ok(attached) => Ok(attached),
        }
    }
}

fn pin(hook: &str) -> String {
    format!("hook_{hook}")
}
