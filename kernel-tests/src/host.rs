//! The host that a daemon works on: the real one, or namespaces that stand for one.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::program;

/// Network and mount namespace of one host.
#[derive(Debug)]
pub struct Host {
    /// Absent for the namespaces of this process.
    namespaces: Option<Namespaces>,
    /// Absent where the clock is right.
    clock: Option<WrongClock>,
}

/// What is preloaded into programs of a host whose clock is wrong.
#[derive(Debug)]
struct WrongClock {
    directory: tempfile::TempDir,
    ahead: i64,
}

const PRELOADED: &str = "ahead.so";

impl Host {
    /// The namespaces this process is in.
    pub fn real() -> Self {
        Self {
            namespaces: None,
            clock: None,
        }
    }

    /// A host of its own: only a loopback interface, no firewall rule, no pinned eBPF object.
    ///
    /// # Errors
    /// When this process is not root.
    pub fn throwaway() -> Result<Self> {
        Self::with(&["--net", "--mount"])
    }

    /// As [`Host::throwaway`], with a name of its own.
    ///
    /// # Errors
    /// When this process is not root.
    pub fn named(name: &str) -> Result<Self> {
        let host = Self::with(&["--net", "--mount", "--uts"])?;
        host.output("hostname", &[name])?;
        Ok(host)
    }

    fn with(kinds: &[&'static str]) -> Result<Self> {
        let host = Self {
            namespaces: Some(Namespaces::new(kinds)?),
            clock: None,
        };
        program::output(host.command("ip").args(["link", "set", "lo", "up"]))?;
        // Its own run directory: named namespaces, locks and sockets of programs run here.
        program::output(host.command("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
        // A pin file system of its own: pins go with the namespace.
        program::output(
            host.command("mount")
                .args(["-t", "bpf", "bpf", "/sys/fs/bpf"]),
        )?;
        Ok(host)
    }

    /// The same host with a clock that is ahead by so many seconds, or behind by a negative number: for
    /// programs that are run on it and their children, unless they are not of this C library.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn with_clock(mut self, ahead: i64) -> Result<Self> {
        let directory = tempfile::tempdir().context("directory of a clock")?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.path().join(PRELOADED))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clock/ahead.c"));
        program::output(&mut cc)?;
        self.clock = Some(WrongClock { directory, ahead });
        Ok(self)
    }

    /// `program`, to be run on this host. Relative paths are looked up from `/`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.namespaces {
            None => Command::new(program),
            Some(namespaces) => namespaces.command(program),
        };
        if let Some(clock) = &self.clock {
            command
                .env("LD_PRELOAD", clock.directory.path().join(PRELOADED))
                .env("CLOCK_AHEAD", clock.ahead.to_string());
        }
        command
    }

    /// A process in the host's namespaces.
    pub fn pid(&self) -> u32 {
        self.namespaces
            .as_ref()
            .map_or_else(std::process::id, Namespaces::pid)
    }

    /// Path of the host's network namespace.
    pub fn network_namespace(&self) -> PathBuf {
        match &self.namespaces {
            None => PathBuf::from("/proc/thread-self/ns/net"),
            Some(namespaces) => PathBuf::from(format!("/proc/{}/ns/net", namespaces.pid())),
        }
    }

    /// `path` of this host's file system, as this process sees it.
    pub fn path(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        match &self.namespaces {
            None => path.to_owned(),
            Some(namespaces) => {
                PathBuf::from(format!("/proc/{}/root", namespaces.pid())).join(inside)
            }
        }
    }

    /// Runs `program` on this host; returns what it said.
    ///
    /// # Errors
    /// When it fails.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        program::output(self.command(program).args(arguments))
    }
}

/// Namespaces kept by a process that does nothing but wait for its standard input to end, so that
/// they vanish with this process whatever becomes of it.
#[derive(Debug)]
pub struct Namespaces {
    holder: Child,
    kinds: Vec<&'static str>,
}

impl Namespaces {
    /// New namespaces; `kinds` are options of unshare(1) and nsenter(1).
    ///
    /// # Errors
    /// When this process is not root.
    pub fn new(kinds: &[&'static str]) -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(kinds)
            .args(["--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        // What comes back through `cat` shows that the namespaces are there.
        let mut echo = [0];
        let ready = match (&mut holder.stdin, &mut holder.stdout) {
            (Some(stdin), Some(stdout)) => stdin
                .write_all(b"\n")
                .and_then(|()| stdout.read_exact(&mut echo))
                .is_ok(),
            _ => false,
        };
        ensure!(
            ready,
            "cannot make namespaces {kinds:?}: these tests need root"
        );
        Ok(Self {
            holder,
            kinds: kinds.to_owned(),
        })
    }

    /// The process whose namespaces they are.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// `program`, to be run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid()))
            .args(&self.kinds)
            .arg("--")
            .arg(program);
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // It may have ended already; waiting for it is what matters.
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}
