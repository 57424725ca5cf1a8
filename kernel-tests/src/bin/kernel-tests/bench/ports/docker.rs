//! docker's side: its own rules for the measured container, and for the others those it would have
//! written.
//!
//! docker would start a docker-proxy and several iptables for each port, which takes it hours for
//! ten thousand. Half of the rules stand before the measured port's, as those of older containers.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use kernel_tests::{Outside, program};

use super::{STREAM_TO, Side, WEB, others};
use crate::bench::docker::{Docker, TOOLS};

struct Dockerd(Docker);

pub(super) fn open() -> Result<Box<dyn Side>> {
    let docker = Docker::start().context("dockerd cannot run here")?;
    let [web, stream] = [WEB, STREAM_TO].map(|(inside, port)| format!("{port}:{inside}"));
    docker.output(&[
        "run", "-d", "--name", "server", "-p", &web, "-p", &stream, TOOLS, "sleep", "3600",
    ])?;
    Ok(Box::new(Dockerd(docker)))
}

impl Side for Dockerd {
    fn outside(&self) -> &Outside {
        &self.0.outside
    }

    fn sandbox(&self) -> Result<PathBuf> {
        let pid = self
            .0
            .output(&["inspect", "--format", "{{.State.Pid}}", "server"])?;
        Ok(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    fn target(&self) -> (Ipv4Addr, bool) {
        (self.0.outside.host_v4, true)
    }

    fn publish(&mut self, before: u16, count: u16) -> Result<()> {
        let format = "{{.NetworkSettings.IPAddress}}";
        let address = self.0.output(&["inspect", "--format", format, "server"])?;
        let path = self.0.directory().join("rules");
        std::fs::write(&path, rules(&address, others(before, count))).context("rules")?;
        let path = path.display().to_string();
        let mut restore = self.0.host().command("iptables-restore");
        program::output(restore.args(["--noflush", &path])).map(drop)
    }
}

/// As `iptables-save` prints docker's own.
fn rules(address: &str, ports: impl Iterator<Item = u16>) -> String {
    let (mut nat, mut filter) = (String::from("*nat\n"), String::from("*filter\n"));
    for (number, port) in ports.enumerate() {
        let place = if number % 2 == 0 { "-I" } else { "-A" };
        nat.push_str(&format!(
            "-A POSTROUTING -s {address}/32 -d {address}/32 -p tcp -m tcp --dport {port} \
             -j MASQUERADE\n\
             {place} DOCKER ! -i docker0 -p tcp -m tcp --dport {port} \
             -j DNAT --to-destination {address}:{port}\n"
        ));
        filter.push_str(&format!(
            "{place} DOCKER -d {address}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport {port} \
             -j ACCEPT\n"
        ));
    }
    nat + "COMMIT\n" + &filter + "COMMIT\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_others_come_first() {
        let text = rules("172.17.0.2", [20_000, 20_002, 20_004, 20_006].into_iter());
        let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(
            (count("-j DNAT"), count("-j MASQUERADE"), count("-j ACCEPT")),
            (4, 4, 4)
        );
        assert_eq!((count("-I DOCKER"), count("-A DOCKER")), (4, 4));
        assert_eq!(count("COMMIT"), 2);
    }
}
