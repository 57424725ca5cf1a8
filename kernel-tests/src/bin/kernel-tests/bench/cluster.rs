//! A node of a cluster of few and of many, with fifty endpoints each on one network: how long it takes
//! to know all of them, what that costs it, and how soon it knows one that comes. The others only
//! write and listen, as their daemons do, at one real etcd.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use api::id::{Id, NodeId};
use cluster::{ControlPlane, Etcd, EtcdOptions, Transaction, key};
use kernel_tests::cluster::Etcd as Server;
use kernel_tests::{Cluster, Shop, wait};
use serde_json::{Value, json};
use sys::netns::NetNs;
use tokio::runtime::Runtime;

use super::row::{Goal, Row, Subject, row};
use super::{Scene, memory};

const EACH: u32 = 50;
/// Endpoints that come one after the other while everybody listens.
const NEWS: usize = 100;
/// Design: attach on one node, reachable from another, 99 of 100.
const GOAL_MS: f64 = 100.0;
const SUBNET: &str = "10.128.0.0/14";
/// etcd takes 128 operations in one transaction.
const TOGETHER: usize = 100;
const LIMIT: Duration = Duration::from_secs(300);
const LEASE: Duration = Duration::from_secs(60);

pub(crate) fn rows(scene: &Scene) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &nodes in &scene.sizes.nodes {
        eprintln!("  {nodes} nodes");
        match measure(nodes) {
            Ok(measured) => rows.extend(measured),
            // The smaller ones are worth something.
            Err(error) if !rows.is_empty() => eprintln!("  {nodes} nodes: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

fn measure(nodes: u32) -> Result<[Row; 3]> {
    let town = Town::open(nodes)?;
    let took = town.begin()?;
    let known = town.known()?;
    ensure!(known == town.expected(), "{known} of {}", town.expected());
    let pid = town.node().daemon.pid().context("the daemon runs")?;
    let [_resident, anonymous] = memory::of_process(pid)?;
    let (here, everywhere) = town.news()?;
    let size = format!("{nodes} nodes of {EACH} endpoints");
    let nobody = Err("nothing to compare with".to_owned());
    let alone = |what: &str, unit, figure| {
        let subject = Subject::new(format!("{what}, {size}"), unit, Goal::Shown);
        row(subject, &Ok(vec![figure]), "-", &nobody)
    };
    let heard = Subject {
        tail: true,
        ..Subject::new(format!("heard of, {size}"), "ms", Goal::Within(GOAL_MS))
    };
    let peer = format!("the last of {nodes} plain watches");
    Ok([
        alone("first endpoint until all are known", "s", took)?,
        alone("memory, anonymous", "MB", anonymous)?,
        row(heard, &Ok(here), &peer, &Ok(everywhere))?,
    ])
}

struct Town {
    cluster: Cluster,
    nodes: u32,
    network: String,
    /// What a node says of an endpoint.
    pattern: Value,
    /// In the network of the router, where etcd is.
    outside: Outside,
}

/// Where the others are.
struct Outside {
    namespace: NetNs,
    runtime: Runtime,
}

impl Outside {
    fn connect(&self) -> Result<Arc<Etcd>> {
        let options = EtcdOptions {
            endpoints: vec![Server::url()],
            prefix: "/hawser/".to_owned(),
            tls: None,
            lease: LEASE,
        };
        let handle = self.runtime.handle().clone();
        let connected = self.namespace.run(|| Etcd::connect(options, handle))?;
        Ok(Arc::new(connected?))
    }
}

impl Town {
    /// All endpoints but those of the one node that is real are on record.
    fn open(nodes: u32) -> Result<Self> {
        let cluster = Cluster::new(2)?.joined(1)?;
        let first = cluster.node(1);
        let network = first.daemon.hawser(&[
            "network",
            "create",
            "-d",
            "overlay",
            "--attachable",
            "--subnet",
            SUBNET,
            "big",
        ])?;
        let path = PathBuf::from(format!("/proc/{}/ns/net", cluster.router.pid()));
        let namespace = NetNs::open(&path).context("the router's network")?;
        let runtime = namespace.run(Runtime::new)?.context("runtime")?;
        let outside = Outside { namespace, runtime };
        let control = outside.connect()?;
        // One that is real says what the others say.
        cluster.node(2).daemon.hawser(&[
            "run",
            "-d",
            "--name",
            "pattern",
            "--network",
            "big",
            kernel_tests::shop::TOOLS,
            "sleep",
            "600",
        ])?;
        let said = control.snapshot(key::ENDPOINTS)?.entries;
        let (_, said) = said.into_iter().next().context("an endpoint is told of")?;
        cluster.node(2).daemon.hawser(&["rm", "-f", "pattern"])?;
        let town = Self {
            cluster,
            nodes,
            network: network.trim().to_owned(),
            pattern: serde_json::from_str(&said.value)?,
            outside,
        };
        let all: Vec<(String, String)> = (0..town.expected()).map(|at| town.entry(at)).collect();
        for some in all.chunks(TOGETHER) {
            let put = some
                .iter()
                .fold(Transaction::default(), |all, (key, value)| {
                    all.put(key.as_str(), value.as_str())
                });
            control.commit(&put)?;
        }
        Ok(town)
    }

    fn node(&self) -> &Shop {
        self.cluster.node(1)
    }

    fn expected(&self) -> usize {
        (self.nodes * EACH) as usize
    }

    /// The key and value of an endpoint; those behind all others are on the first node.
    fn entry(&self, at: usize) -> (String, String) {
        let number = at as u32;
        let node = (number / EACH) % self.nodes;
        let mut id = [1; 16];
        id[..4].copy_from_slice(&node.to_be_bytes());
        let node_id = NodeId::from_bytes(id);
        let mut endpoint = [2; 32];
        endpoint[..4].copy_from_slice(&number.to_be_bytes());
        let endpoint = Id::from_bytes(endpoint);
        let [a, b, c, d] = number.to_be_bytes();
        let [.., x, y, z] = (number + 16).to_be_bytes();
        let [.., n, m] = node.to_be_bytes();
        let mut value = self.pattern.clone();
        value["node"] = json!(node_id);
        value["endpoint"] = json!(endpoint);
        value["container"] = json!(format!("far{number}"));
        value["name"] = json!(format!("far{number}"));
        value["aliases"] = json!([]);
        value["mac"] = json!(format!("02:07:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
        value["addresses"] = json!([format!("10.{}.{y}.{z}", 129 + x)]);
        value["at"] = json!(format!("172.30.{n}.{m}"));
        let key = key::endpoint(&node_id, &self.network, endpoint.as_str());
        (key, value.to_string())
    }

    /// How many endpoints the kernel of the node knows.
    fn known(&self) -> Result<usize> {
        let script = "bridge fdb show | grep -c 'dst 172.30'; :";
        let count = self.node().host.output("sh", &["-c", script])?;
        count.trim().parse().context(count)
    }

    /// Seconds from a first container on the network until its node knows all others.
    fn begin(&self) -> Result<f64> {
        let begin = Instant::now();
        self.node().daemon.hawser(&[
            "run",
            "-d",
            "--network",
            "big",
            kernel_tests::shop::TOOLS,
            "sleep",
            "600",
        ])?;
        wait::until(LIMIT, "all are known", || {
            (self.known().ok()? >= self.expected()).then_some(())
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Milliseconds until one that comes is in the node's kernel, and until all others have heard of it.
    fn news(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let control = self.outside.connect()?;
        let revision = control.snapshot(key::CLUSTER)?.revision;
        let (sender, heard) = mpsc::channel();
        // For as long as somebody counts.
        let counting = Arc::new(Mutex::new(()));
        let held = counting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listeners = Vec::new();
        for _ in 1..self.nodes {
            let own = self.outside.connect()?;
            let (sender, counting) = (sender.clone(), Arc::clone(&counting));
            listeners.push(
                self.outside
                    .namespace
                    .run(|| thread::spawn(move || listen(&own, revision, &sender, &counting)))?,
            );
        }
        drop(sender);
        let all = listeners.len();
        // The first is for those who are late.
        self.one(&control, self.expected(), (&heard, all))?;
        let (mut here, mut everywhere) = (Vec::new(), Vec::new());
        for at in 1..=NEWS {
            let (own, others) = self.one(&control, self.expected() + at, (&heard, all))?;
            here.push(own);
            everywhere.push(others);
        }
        drop(held);
        // Whatever comes ends their wait.
        let (key, _) = self.entry(self.expected());
        control.commit(&Transaction::default().delete(key))?;
        for listener in listeners {
            listener
                .join()
                .map_err(|_panic| anyhow!("a listener panicked"))?;
        }
        Ok((here, everywhere))
    }

    fn one(
        &self,
        control: &Etcd,
        at: usize,
        (heard, all): (&Receiver<Instant>, usize),
    ) -> Result<(f64, f64)> {
        let (key, value) = self.entry(at);
        let watch = Neighbours::follow(self.node())?;
        let begin = Instant::now();
        control.commit(&Transaction::default().put(key, value))?;
        let own = watch.next(LIMIT)?;
        let mut last = begin;
        for _ in 0..all {
            last = last.max(heard.recv_timeout(LIMIT)?);
        }
        let ms = |end: Instant| end.duration_since(begin).as_secs_f64() * 1e3;
        Ok((ms(own), ms(last)))
    }
}

/// Says when it has heard of something, until nobody counts any more.
fn listen(control: &Etcd, revision: u64, sender: &Sender<Instant>, counting: &Mutex<()>) {
    let mut watch = control.watch(key::ENDPOINTS, revision);
    while counting.try_lock().is_err() {
        let told = match &mut watch {
            Ok(watch) => watch.next(Duration::from_secs(1)),
            Err(_) => return,
        };
        let Ok(told) = told else { return };
        for _change in told {
            // Nobody counts any more.
            let _over = sender.send(Instant::now());
        }
    }
}

/// What the kernel of a node tells of its forwarding tables.
struct Neighbours {
    child: std::process::Child,
    lines: Receiver<Instant>,
}

impl Neighbours {
    fn follow(shop: &Shop) -> Result<Self> {
        use std::io::{BufRead, BufReader};
        let mut child = shop
            .host
            .command("bridge")
            .args(["monitor", "fdb"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("bridge monitor")?;
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("dst 172.30") {
                    let _over = sender.send(Instant::now());
                }
            }
        });
        // It listens as soon as it has its socket.
        let pid = child.id();
        wait::until(LIMIT, "bridge listens", || {
            let sockets = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            let mut links = sockets.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            let named = |link: PathBuf| link.to_string_lossy().starts_with("socket:");
            links.any(named).then_some(())
        })?;
        Ok(Self {
            child,
            lines: receiver,
        })
    }

    fn next(&self, limit: Duration) -> Result<Instant> {
        self.lines.recv_timeout(limit).context("nothing is heard")
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
