//! docker's resolver: one container has all names, as aliases on a network of its user.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use sys::netns::NetNs;

use super::Server;
use crate::bench::docker;
use crate::bench::sizes::Sizes;

const NETWORK: &str = "names";
const ASKER: &str = "asker";
const GUEST: &str = "guest";

pub(super) struct Docker<'a> {
    docker: &'a docker::Docker,
    asker: NetNs,
}

impl<'a> Docker<'a> {
    pub(super) fn start(docker: &'a docker::Docker, sizes: &Sizes) -> Result<Self> {
        docker.output(&["network", "create", NETWORK])?;
        let idle = [docker::TOOLS, "sleep", "3600"];
        let aliases: Vec<String> = (0..sizes.zone)
            .map(|number| format!("--network-alias=name{number}"))
            .collect();
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        let run = ["run", "-d", "--name", ASKER, "--network", NETWORK];
        docker.output(&[&run[..], &aliases, &idle].concat())?;
        docker.output(&[&["run", "-d", "--name", GUEST][..], &idle].concat())?;
        let pid = docker.output(&["inspect", "--format", "{{.State.Pid}}", ASKER])?;
        let path = format!("/proc/{pid}/ns/net");
        Ok(Self {
            docker,
            asker: NetNs::open(path.as_ref()).context("namespace of the asker")?,
        })
    }
}

impl Server for Docker<'_> {
    fn asker(&self) -> &NetNs {
        &self.asker
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), 53))
    }

    fn name(&self, number: u32) -> String {
        format!("name{number}")
    }

    /// A container that runs joins the network and leaves again: starting one takes docker longer.
    fn attach(&self, number: u32) -> Result<()> {
        let alias = format!("--alias=storm{number}");
        self.docker
            .output(&["network", "connect", &alias, NETWORK, GUEST])?;
        self.docker
            .output(&["network", "disconnect", NETWORK, GUEST])
            .map(drop)
    }

    fn detach(&self, _number: u32) -> Result<()> {
        Ok(())
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let gone = self.docker.output(&["rm", "--force", ASKER, GUEST]);
        let gone = gone.and_then(|_ids| self.docker.output(&["network", "rm", NETWORK]));
        if let Err(error) = gone {
            eprintln!("clean-up of docker's names: {error:#}");
        }
    }
}
