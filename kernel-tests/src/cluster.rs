//! Several hosts in networks of their own, a router between them, and an etcd that all of them reach
//! or that their managers run.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::shop::SOON;
use crate::{Host, Shop, docker, program, wait};

/// Seconds that a node may be silent.
pub const LEASE: u64 = 3;

/// Of the router, where all nodes reach a registry without a certificate, if there is one.
pub const REGISTRY: &str = "172.31.1.1:5000";

/// Dropped in this order: what the daemons made, etcd, the router.
#[derive(Debug)]
pub struct Cluster {
    /// `n1`, `n2`, …: each with a daemon that is in no cluster yet.
    pub nodes: Vec<Shop>,
    /// On the router; absent where managers run their own.
    pub etcd: Option<Etcd>,
    pub router: Arc<Host>,
}

/// One etcd on the router.
#[derive(Debug)]
pub struct Etcd {
    router: Arc<Host>,
    directory: TempDir,
    process: Option<Child>,
}

impl Cluster {
    /// `count` hosts; each is in a network of its own.
    ///
    /// # Errors
    /// When a host, its daemon or etcd does not start.
    pub fn new(count: u8) -> Result<Self> {
        Self::without_etcd(count)?.with_etcd()
    }

    /// As many hosts as there are clocks, each ahead of the right time by so many seconds, or behind by a
    /// negative number.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn with_clocks(clocks: &[i64]) -> Result<Self> {
        Self::of(clocks)?.with_etcd()
    }

    fn with_etcd(mut self) -> Result<Self> {
        self.etcd = Some(Etcd::start(Arc::clone(&self.router))?);
        Ok(self)
    }

    /// The same without an etcd: managers run their own.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn without_etcd(count: u8) -> Result<Self> {
        Self::of(&vec![0; usize::from(count)])
    }

    fn of(clocks: &[i64]) -> Result<Self> {
        let program = docker::peer("usr/bin/etcd")?;
        let settings =
            format!("[swarm]\netcd = {program:?}\n[registry]\ninsecure = [{REGISTRY:?}]\n");
        let router = Arc::new(Host::throwaway()?);
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let set = format!("echo 1 >/proc/sys/net/{family}");
            router.output("sh", &["-c", &set])?;
        }
        let mut nodes = Vec::new();
        for (number, &clock) in (1..).zip(clocks) {
            let mut host = Host::named(&format!("n{number}"))?;
            if clock != 0 {
                host = host.with_clock(clock)?;
            }
            let host = Arc::new(host);
            connect(&router, &host, number)?;
            nodes.push(Shop::on(host, &settings));
        }
        Ok(Self {
            nodes,
            etcd: None,
            router,
        })
    }

    /// All of them are in one cluster: the first `managers` as managers.
    ///
    /// # Errors
    /// When one cannot join.
    pub fn joined(self, managers: u8) -> Result<Self> {
        self.init()?;
        for number in (2..).take(self.nodes.len() - 1) {
            let role = if number <= managers {
                "manager"
            } else {
                "worker"
            };
            self.join(number, role)?;
        }
        Ok(self)
    }

    /// Begins a cluster on the first node.
    ///
    /// # Errors
    /// When it is refused.
    pub fn init(&self) -> Result<String> {
        let lease = format!("--node-lease={LEASE}s");
        let address = address(1).to_string();
        let words = ["swarm", "init", "--advertise-addr", &address];
        let url = format!("--etcd={}", Etcd::url());
        let words = match self.etcd {
            Some(_) => [&words[..], &[&lease, &url]].concat(),
            None => [&words[..], &[&lease]].concat(),
        };
        self.node(1).daemon.hawser(&words)
    }

    /// Node `number` joins by the first one's token.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn join(&self, number: u8, role: &str) -> Result<String> {
        let first = &self.node(1).daemon;
        let token = first.hawser(&["swarm", "join-token", "--quiet", role])?;
        let manager = address(1).to_string();
        let joining = &self.node(number).daemon;
        joining.hawser(&["swarm", "join", "--token", token.trim(), &manager])
    }

    /// Puts nodes on one link: they reach each other without the router, and the others by it.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn share_link(&self, numbers: &[u8]) -> Result<()> {
        let ip = |words: String| {
            let words: Vec<&str> = words.split(' ').collect();
            self.router.output("ip", &words)
        };
        let link = format!("link{}", numbers[0]);
        ip(format!("link add {link} type bridge"))?;
        ip(format!("link set {link} up"))?;
        for number in numbers {
            ip(format!("addr flush dev n{number}"))?;
            ip(format!("link set n{number} master {link}"))?;
            ip(format!("addr add 172.31.{number}.1/24 dev {link}"))?;
            ip(format!("addr add fd31:{number}::1/64 dev {link} nodad"))?;
            let host = &self.node(*number).host;
            for other in numbers.iter().filter(|other| *other != number) {
                let other = address(*other).to_string();
                host.output("ip", &["route", "add", &other, "dev", "eth0"])?;
            }
        }
        Ok(())
    }

    /// Counted from 1.
    pub fn node(&self, number: u8) -> &Shop {
        &self.nodes[usize::from(number) - 1]
    }
}

/// The pids of the etcds that keep their data below `shop`'s directories.
pub fn etcds(shop: &Shop) -> Vec<String> {
    let state = shop.daemon.directories().state().display().to_string();
    let is_its = |pid: &str| {
        let read = |file: &str| fs::read(Path::new("/proc").join(pid).join(file));
        let words = read("cmdline").unwrap_or_default();
        let (name, words) = (
            read("comm").unwrap_or_default(),
            String::from_utf8_lossy(&words),
        );
        name == b"etcd\n" && words.contains(&state)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let entries = entries.filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| is_its(name)).collect()
}

/// Ends a process as a power cut would.
///
/// # Errors
/// When it is gone.
pub fn kill(pid: &str) -> Result<String> {
    program::output(Command::new("kill").args(["-KILL", pid]))
}

/// A node's address; the router's is its network's first.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, number, 5)
}

/// The other one of it.
pub fn address_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd31, u16::from(number), 0, 0, 0, 0, 0, 5)
}

fn connect(router: &Host, host: &Host, number: u8) -> Result<()> {
    let ip = |host: &Host, words: &str| program::output(host.command("ip").args(words.split(' ')));
    let pid = host.pid();
    let link = format!("n{number}");
    ip(
        router,
        &format!("link add {link} type veth peer name eth0 netns {pid}"),
    )?;
    ip(router, &format!("addr add 172.31.{number}.1/24 dev {link}"))?;
    ip(
        router,
        &format!("addr add fd31:{number}::1/64 dev {link} nodad"),
    )?;
    ip(router, &format!("link set {link} up"))?;
    ip(host, &format!("addr add {}/24 dev eth0", address(number)))?;
    let address_v6 = address_v6(number);
    ip(host, &format!("addr add {address_v6}/64 dev eth0 nodad"))?;
    ip(host, "link set eth0 up")?;
    ip(host, &format!("route add default via 172.31.{number}.1"))?;
    ip(host, &format!("-6 route add default via fd31:{number}::1"))?;
    Ok(())
}

impl Etcd {
    fn start(router: Arc<Host>) -> Result<Self> {
        let directory = tempfile::tempdir().context("directory of etcd")?;
        let mut etcd = Self {
            router,
            directory,
            process: None,
        };
        etcd.launch()?;
        Ok(etcd)
    }

    /// Where the nodes reach it.
    pub fn url() -> String {
        "http://172.31.1.1:2379".to_owned()
    }

    /// Starts it on what it has on disk, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn launch(&mut self) -> Result<()> {
        let url = Self::url();
        let process = self
            .router
            .command(docker::peer("usr/bin/etcd")?)
            .args(["--name", "one", "--data-dir"])
            .arg(self.directory.path())
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .args([
                "--logger",
                "zap",
                "--log-level",
                "error",
                "--unsafe-no-fsync",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("etcd")?;
        self.process = Some(process);
        let health = format!("{url}/health");
        wait::until(SOON, "etcd answers", || {
            let answer = self.router.output("curl", &["-s", "-m", "1", &health]);
            answer.ok().filter(|answer| answer.contains("true"))
        })?;
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            drop(process.kill());
            process.wait().context("etcd")?;
        }
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.stop());
    }
}
