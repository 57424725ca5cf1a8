//! aardvark-dns, as netavark runs it.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use kernel_tests::{Host, Stray, program};
use sys::netns::NetNs;

use super::{Server, address_of};
use crate::bench::engine::{Engine, GATEWAY, Netavark, Ports, Sandbox, Verb};
use crate::bench::sizes::Sizes;
use crate::bench::town;

pub(super) struct Aardvark {
    asker: NetNs,
    guests: Vec<Sandbox>,
    /// Dropped before the directory it lives in.
    _process: Stray,
    netavark: Netavark,
    _host: Arc<Host>,
}

impl Aardvark {
    /// The first container starts it. The other names come as the lines that netavark adds to its
    /// file for each: it does not look at the containers.
    pub(super) fn start(sizes: &Sizes) -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        let netavark = Netavark::with_names(&host)?;
        // The last one is the asker; it is connected throughout.
        let mut guests = town::sandboxes(&host, "s", sizes.storm + 1)?;
        let first = guests.pop().context("there is an asker")?;
        netavark.prepare(&first, Ports::NONE)?;
        let directory = netavark.state().join("aardvark-dns");
        let process = Stray::new(&directory.join("aardvark.pid"), "aardvark-dns")?;
        let mut names = OpenOptions::new()
            .append(true)
            .open(directory.join("bench"))
            .context("names of aardvark-dns")?;
        for number in 0..sizes.zone {
            writeln!(names, "id{number} {}  name{number}", address_of(number))
                .context("names of aardvark-dns")?;
        }
        program::output(Command::new("kill").args(["-s", "HUP", process.pid()]))?;
        Ok(Self {
            asker: NetNs::open(&first.path).context("namespace of the asker")?,
            guests,
            _process: process,
            netavark,
            _host: host,
        })
    }
}

impl Server for Aardvark {
    fn asker(&self) -> &NetNs {
        &self.asker
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((GATEWAY, 53))
    }

    fn name(&self, number: u32) -> String {
        format!("name{number}.dns.podman")
    }

    fn attach(&self, number: u32) -> Result<()> {
        let guest = &self.guests[number as usize];
        self.netavark.run(Verb::Add, guest, Ports::NONE).map(drop)
    }

    fn detach(&self, number: u32) -> Result<()> {
        let guest = &self.guests[number as usize];
        self.netavark.run(Verb::Del, guest, Ports::NONE).map(drop)
    }
}
