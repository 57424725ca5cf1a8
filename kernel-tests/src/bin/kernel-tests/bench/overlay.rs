//! An overlay between two nodes, against the nodes themselves and against VXLAN made by hand.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use kernel_tests::cluster::address;
use kernel_tests::host::Namespaces;
use kernel_tests::shop::{SOON, TOOLS};
use kernel_tests::{Cluster, wait};

use super::published::{STREAM_PORT, gigabits};
use super::row::{Goal, Row, Subject, row};
use super::turns::{self, Sample};
use super::{FEW, Scene};

/// Design: of what the nodes' own link carries.
const GOAL: f64 = 0.94;

pub(crate) fn throughput(scene: &Scene) -> Result<Vec<Row>> {
    let pair = Pair::open()?;
    let ways = [pair.overlay()?, pair.link()?, pair.by_hand()?];
    let samples = ways
        .iter()
        .map(|way| Ok(Box::new(|| way.gigabits()) as Sample<'_, f64>));
    let figures = turns::take(scene.sizes.runs(FEW), samples);
    let subject = |name: &str, goal| Subject::new(name, "Gbit/s", goal);
    let [ours, link, by_hand] = &figures[..] else {
        unreachable!("as many as ways");
    };
    let below = subject("overlay-throughput", Goal::AtLeast(GOAL));
    let beside = subject("overlay-throughput, beside VXLAN by hand", Goal::Shown);
    Ok(vec![
        row(below, ours, "the nodes' own link, a veth", link)?,
        row(beside, ours, "bridge and VXLAN made with ip", by_hand)?,
    ])
}

/// Two nodes on one link.
struct Pair {
    cluster: Cluster,
    /// Sandboxes that are connected by hand.
    by_hand: [Namespaces; 2],
}

/// From where to where.
struct Way {
    client: u32,
    server: Child,
    address: String,
}

impl Pair {
    fn open() -> Result<Self> {
        let cluster = Cluster::new(2)?;
        cluster.share_link(&[1, 2])?;
        let sandbox = || Namespaces::new(&["--net"]);
        Ok(Self {
            cluster: cluster.joined(1)?,
            by_hand: [sandbox()?, sandbox()?],
        })
    }

    fn link(&self) -> Result<Way> {
        let pid = |number| self.cluster.node(number).host.pid();
        Way::open(pid(1), pid(2), address(2).to_string())
    }

    fn overlay(&self) -> Result<Way> {
        let create = "network create -d overlay --attachable bench";
        self.cluster.node(1).type_(create);
        let mut pids = Vec::new();
        for shop in &self.cluster.nodes {
            let words = ["run", "-d", "--name", "end", "--network", "bench", TOOLS];
            shop.daemon
                .hawser(&[&words[..], &["sleep", "3600"]].concat())?;
            let pid = shop.inspect("end", "{{.State.Pid}}");
            pids.push(pid.trim().parse().context("pid of a container")?);
        }
        let server = self.cluster.node(2).address("end", "bench");
        Way::open(pids[0], pids[1], server)
    }

    /// What the overlay is, without what keeps it.
    fn by_hand(&self) -> Result<Way> {
        for (at, sandbox) in self.by_hand.iter().enumerate() {
            let number = 1 + at as u8;
            let (own, other) = (address(number), address(2 - at as u8));
            let host = &self.cluster.node(number).host;
            let ip = |words: &str| {
                let words: Vec<&str> = words.split(' ').collect();
                host.output("ip", &words)
            };
            ip("link add hand0 type bridge")?;
            ip(&format!(
                "link add hand1 type vxlan id 99 local {own} remote {other} dstport 8472"
            ))?;
            let pid = sandbox.pid();
            ip(&format!(
                "link add hand2 type veth peer name eth0 netns {pid}"
            ))?;
            for link in ["hand1", "hand2"] {
                ip(&format!("link set {link} mtu 1450 master hand0"))?;
                ip(&format!("link set {link} up"))?;
            }
            ip("link set hand0 up")?;
            let inside = format!(
                "ip addr add 10.250.0.{number}/24 dev eth0 && ip link set eth0 mtu 1450 up"
            );
            let done = sandbox.command("sh").args(["-c", &inside]).status();
            done.context("ip in a sandbox")?;
        }
        let [client, server] = &self.by_hand;
        Way::open(client.pid(), server.pid(), "10.250.0.2".to_owned())
    }
}

/// Nodes do not end in an order that lets the network go.
impl Drop for Pair {
    fn drop(&mut self) {
        for shop in &self.cluster.nodes {
            if let Err(error) = shop.daemon.hawser(&["rm", "-f", "end"]) {
                eprintln!("clean-up of the overlay: {error:#}");
            }
        }
    }
}

impl Way {
    fn open(client: u32, server: u32, address: String) -> Result<Self> {
        let server = in_network(server)
            .args(["iperf3", "--server", "--port", &STREAM_PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("iperf3")?;
        let way = Self {
            client,
            server,
            address,
        };
        wait::until(SOON, "iperf3 answers", || way.gigabits().ok())?;
        Ok(way)
    }

    fn gigabits(&self) -> Result<f64> {
        let mut iperf = in_network(self.client);
        iperf.arg("iperf3");
        gigabits(iperf, &self.address)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn in_network(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args([&format!("--target={pid}"), "--net"]);
    command
}
