//! A throwaway host where one engine has connected sandboxes already, and one that comes and goes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_tests::{Host, wait};
use sys::netns::NetNs;

use super::engine::{Engine, IFNAME, Kind, Ports, Sandbox, Verb};

/// How long an interface may stay after the engine has answered that it is disconnected.
const SOON: Duration = Duration::from_secs(10);
/// Where the ports of residents begin, those of the guest, and those of the one with very many.
const RESIDENT_PORTS: u16 = 10_000;
const GUEST_PORT: u16 = 8000;
pub(crate) const MANY_PORTS: u16 = 20_000;

/// What is there before anything is measured. There is always one endpoint, which keeps the
/// bridge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Population {
    pub(crate) residents: u32,
    /// Ports that each of them has published.
    pub(crate) ports_each: u16,
    /// Ports that one more has published.
    pub(crate) ports_of_one: u16,
}

impl Population {
    pub(crate) fn of(residents: u32) -> Self {
        Self {
            residents,
            ..Self::default()
        }
    }
}

/// Dropped in this order: first the engine, then its host with all sandboxes.
pub(crate) struct Town {
    engine: Box<dyn Engine>,
    guest: Sandbox,
    host: Arc<Host>,
}

impl Town {
    pub(crate) fn open(kind: Kind, population: Population) -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        let engine = kind.start(&host)?;
        let guest = settle(&*engine, &host, population)?;
        Ok(Self {
            engine,
            guest,
            host,
        })
    }

    /// Milliseconds of connecting the guest with `count` published ports, and of disconnecting it.
    pub(crate) fn visit(&self, count: u16) -> Result<[f64; 2]> {
        self.visit_with(Ports::single(GUEST_PORT, count))
    }

    pub(crate) fn visit_with(&self, ports: Ports) -> Result<[f64; 2]> {
        self.await_quiet()?;
        let add = self.engine.run(Verb::Add, &self.guest, ports)?;
        ensure!(is_connected(&self.guest)?, "connected without an interface");
        let del = self.engine.run(Verb::Del, &self.guest, ports)?;
        // Whoever answers before the interface is gone finishes outside of the others' turns.
        wait::until(SOON, "the interface goes", || {
            matches!(is_connected(&self.guest), Ok(false)).then_some(())
        })?;
        Ok([add, del].map(|took| took.as_secs_f64() * 1e3))
    }

    /// Waits until the kernel has done what the turn before left to it, or that would count for
    /// this one: a deleted pair waits for all RCU callbacks (`netdev_run_todo`).
    fn await_quiet(&self) -> Result<()> {
        let ip = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            self.host.output("ip", &arguments)
        };
        ip("link add quiet0 type veth peer name quiet1")?;
        ip("link del quiet0")?;
        Ok(())
    }
}

/// Lets the residents in; returns the guest, who has not come yet.
pub(crate) fn settle(engine: &dyn Engine, host: &Host, population: Population) -> Result<Sandbox> {
    let Population {
        residents,
        ports_each,
        ports_of_one,
    } = population;
    let mut sandboxes = sandboxes(host, "s", residents + 2)?;
    let guest = sandboxes.pop().context("there is a guest")?;
    let keeper = sandboxes.pop().context("there is a keeper")?;
    engine.prepare(&keeper, Ports::single(MANY_PORTS, ports_of_one))?;
    for sandbox in &sandboxes {
        let first = RESIDENT_PORTS + (sandbox.number as u16) * ports_each * 2;
        let ports = Ports::single(first, ports_each);
        engine
            .run(Verb::Add, sandbox, ports)
            .with_context(|| format!("endpoint {} of {residents}", sandbox.number + 1))?;
    }
    Ok(guest)
}

/// New named namespaces of a host, numbered from 0.
pub(crate) fn sandboxes(host: &Host, prefix: &str, count: u32) -> Result<Vec<Sandbox>> {
    let mut batch = tempfile::NamedTempFile::new().context("names of namespaces")?;
    for number in 0..count {
        writeln!(batch, "netns add {prefix}{number}").context("names of namespaces")?;
    }
    batch.flush().context("names of namespaces")?;
    host.output("ip", &["-batch", &batch.path().display().to_string()])?;
    let path = |number| host.path(Path::new(&format!("/run/netns/{prefix}{number}")));
    Ok((0..count)
        .map(|number| Sandbox {
            number,
            path: path(number),
        })
        .collect())
}

fn is_connected(sandbox: &Sandbox) -> Result<bool> {
    let namespace = NetNs::open(&sandbox.path).context("namespace of a sandbox")?;
    let devices = namespace
        .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
        .context("thread in a sandbox")?
        .context("interfaces of a sandbox")?;
    // `  eth0: 0 0 …`
    Ok(devices
        .lines()
        .any(|line| line.trim_start().starts_with(&format!("{IFNAME}:"))))
}
