//! Nodes of a cluster, each a network namespace with a daemon, and the network between them.
//!
//! ```text
//! node 1  eth0 ─┐            ┌─ eth0  node 2
//! 10.77.1.2     │   router   │     10.77.2.2
//! fd77:1::2     └────────────┘     fd77:2::2
//! ```
//!
//! Each node is on a segment of its own, so that nothing but routed packets goes between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::id::{IfName, NodeId};
use api::net::{AttachRequest, Attachment, Network};
use cluster::{Local, LocalSession, Member};
use netd::{NetConfig, NetError, Netd, Options};
use redb::Database;
use redb::backends::InMemoryBackend;
use sys::netns::NetNs;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::world::{PATIENCE, Sandbox, cgroup, eth0, ip, path, soon};

pub(super) struct Nodes {
    router: NetNs,
    local: Local,
    ipv6: bool,
    pub(super) nodes: Vec<Node>,
}

pub(super) struct Node {
    number: usize,
    id: NodeId,
    namespace: NetNs,
    directory: TempDir,
    pin_dir: PathBuf,
    netd: Option<Arc<Netd>>,
    runtime: Option<Runtime>,
    pub(super) session: Arc<LocalSession>,
}

impl Nodes {
    pub(super) fn new(name: &str, count: usize) -> Self {
        Self::with(name, count, false)
    }

    /// Tunnels go between IPv6 addresses.
    pub(super) fn over_ipv6(name: &str, count: usize) -> Self {
        Self::with(name, count, true)
    }

    fn with(name: &str, count: usize, ipv6: bool) -> Self {
        let router = NetNs::create().expect("root is needed to create a network namespace");
        router
            .run(|| {
                ip("link set lo up");
                for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
                }
            })
            .unwrap();
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        let mut nodes = Self {
            router,
            local: Local::open(Arc::new(database.unwrap())).unwrap(),
            ipv6,
            nodes: Vec::new(),
        };
        for number in 1..=count {
            nodes.add(name, number);
        }
        nodes
    }

    fn add(&mut self, name: &str, number: usize) {
        let namespace = NetNs::create().unwrap();
        let router = path(&self.router);
        let on_node = || {
            ip("link set lo up");
            ip(&format!(
                "link add eth0 type veth peer name node{number} netns {router}"
            ));
            ip(&format!("address add 10.77.{number}.2/24 dev eth0"));
            ip(&format!("address add fd77:{number}::2/64 nodad dev eth0"));
            ip("link set eth0 up");
        };
        namespace.run(on_node).unwrap();
        let on_router = || {
            let link = format!("node{number}");
            ip(&format!("address add 10.77.{number}.1/24 dev {link}"));
            ip(&format!("address add fd77:{number}::1/64 nodad dev {link}"));
            ip(&format!("link set {link} up"));
        };
        self.router.run(on_router).unwrap();
        let routes = || {
            ip(&format!("route add default via 10.77.{number}.1"));
            ip(&format!("route add default via fd77:{number}::1"));
        };
        namespace.run(routes).unwrap();
        let instance = format!("test-{}-{name}-{number}", std::process::id());
        let mut node = Node {
            number,
            id: NodeId::from_bytes([u8::try_from(number).unwrap(); 16]),
            namespace,
            directory: tempfile::tempdir().unwrap(),
            pin_dir: Path::new("/sys/fs/bpf/hawser")
                .join(instance)
                .join(netd::PIN_SCHEMA),
            netd: None,
            runtime: None,
            session: self.local.session(),
        };
        node.start(self.ipv6);
        self.nodes.push(node);
    }

    /// With a new session, as a daemon that starts has one.
    pub(super) fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.kill();
        node.session = self.local.session();
        node.start(self.ipv6);
    }

    /// Frames that left the node's VXLAN interfaces and the underlay's link.
    pub(super) fn sent(&self, at: usize, link: &str) -> u64 {
        self.nodes[at].run(|| {
            let out = ip(&format!("-j -s link show {link}"));
            let parsed: serde_json::Value = serde_json::from_str(&out).unwrap();
            parsed[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
        })
    }
}

impl std::ops::Index<usize> for Nodes {
    type Output = Node;

    fn index(&self, at: usize) -> &Node {
        &self.nodes[at]
    }
}

impl Node {
    fn start(&mut self, ipv6: bool) {
        let address = match ipv6 {
            false => format!("10.77.{}.2", self.number),
            true => format!("fd77:{}::2", self.number),
        };
        let member = Member {
            control: Arc::clone(&self.session) as _,
            node: self.id.clone(),
            manager: self.number == 1,
            data_address: Some(address.parse().unwrap()),
            data_port: Member::DATA_PORT,
        };
        let options = self.options();
        let opened = self.namespace.run(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let netd = Netd::open(options, runtime.handle().clone());
            let netd = netd.unwrap_or_else(|error| panic!("{error}"));
            netd.join(member).unwrap();
            (netd, runtime)
        });
        let (netd, runtime) = opened.unwrap();
        self.netd = Some(netd);
        self.runtime = Some(runtime);
    }

    pub(super) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
        let mut last = self.netd.take();
        soon("nobody else uses the daemon", || {
            last = last.take().and_then(|netd| Arc::try_unwrap(netd).err());
            last.is_none()
        });
    }

    fn options(&self) -> Options {
        let directory = self.directory.path();
        let mut database = None;
        soon("the database is closed", || {
            database = Database::create(directory.join("meta.redb")).ok();
            database.is_some()
        });
        Options {
            database: Arc::new(database.expect("it was opened")),
            state_dir: directory.to_owned(),
            run_dir: directory.to_owned(),
            pin_dir: self.pin_dir.clone(),
            cgroup: Some(cgroup()),
            instance: "test".to_owned(),
            config: NetConfig::default(),
        }
    }

    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    pub(super) fn netd(&self) -> &Arc<Netd> {
        self.netd.as_ref().expect("the daemon runs")
    }

    /// Lets the daemon follow the kernel from now on.
    pub(super) fn follow(&self) {
        let netd = Arc::clone(self.netd());
        let runtime = self.runtime.as_ref().expect("the daemon runs");
        self.run(|| runtime.spawn(netd.run(std::future::pending())));
    }

    pub(super) fn create(&self, json: &str) -> String {
        let request = serde_json::from_str(json).unwrap();
        let created = self.run(|| self.netd().create_network(request));
        created
            .unwrap_or_else(|error| panic!("{error}"))
            .id
            .to_string()
    }

    pub(super) fn remove(&self, network: &str) -> Result<(), NetError> {
        self.run(|| self.netd().remove_network(network))
    }

    /// The networks of the cluster that it lists.
    pub(super) fn overlays(&self) -> Vec<Network> {
        let networks = self.netd().networks().into_iter();
        networks
            .filter(|network| network.driver == "overlay")
            .collect()
    }

    pub(super) fn try_attach(&self, request: AttachRequest) -> Result<Attachment, NetError> {
        self.run(|| self.netd().attach(request))
    }

    pub(super) fn attach(&self, sandbox: &Sandbox, network: &str) -> Attachment {
        let attached = self.try_attach(sandbox.request(network));
        attached.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn detach(&self, sandbox: &Sandbox) {
        let id = sandbox.request("").container_id;
        self.run(|| self.netd().detach(&id, &eth0())).unwrap();
    }

    pub(super) fn reconcile(&self) -> netd::Report {
        self.run(|| self.netd().reconcile()).unwrap()
    }

    /// The VXLAN interfaces that are there.
    pub(super) fn ports(&self) -> Vec<IfName> {
        let listed = self.run(|| ip("-j link show type vxlan"));
        let parsed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap_or_default();
        let names = parsed.iter().filter_map(|link| link["ifname"].as_str());
        names.map(|name| name.parse().unwrap()).collect()
    }

    /// Where those lead, as the kernel says: static entries of both tables and neighbours, sorted.
    pub(super) fn leads(&self) -> Vec<String> {
        let ports = self.ports();
        self.run(|| {
            let mut entries = Vec::new();
            for port in ports {
                let shown = std::process::Command::new("bridge")
                    .args(["fdb", "show", "dev", port.as_str()])
                    .output()
                    .unwrap();
                let shown = String::from_utf8(shown.stdout).unwrap();
                let is_static = |line: &&str| line.contains(" self") || line.contains("static");
                // A kernel with VLANs has each entry for the bridge's default one, too.
                let is_added = |line: &&str| line.contains(" vlan ");
                let shown = shown
                    .lines()
                    .filter(|line| is_static(line) && !is_added(line));
                entries.extend(shown.map(str::to_owned));
            }
            for family in ["-4", "-6"] {
                let shown = ip(&format!("{family} neighbour show nud permanent"));
                entries.extend(shown.lines().map(str::to_owned));
            }
            entries.sort();
            entries
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let options = self.options();
        if let Err(error) = self.run(|| Netd::uninstall(&options)) {
            let left = format!("left {}: {error}", self.pin_dir.display());
            assert!(std::thread::panicking(), "{left}");
            eprintln!("{left}");
        }
    }
}
