//! A host with its daemon, an outside machine, and sandboxes; each a network namespace:
//!
//! ```text
//! outside  eth0 ────── eth0  host  bridges ── eth0  sandboxes
//! 192.0.2.7            192.0.2.1
//! 2001:db8::7          2001:db8::1
//! ```
//!
//! The outside machine has no route to anything behind the host.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::id::IfName;
use api::net::{AttachRequest, Attachment};
use netd::{NetConfig, Netd, Options};
use redb::{Database, DatabaseError};
use sys::netns::NetNs;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Long enough for a loaded machine, and longer than the daemon pauses between repairs of what does not
/// stay as it is; a test that works does not wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) outside: NetNs,
    /// Where the socket hooks are; without them the resolver is inside each sandbox alone.
    cgroup: Option<PathBuf>,
    /// Stopped by [`World::kill`].
    netd: Option<Arc<Netd>>,
    runtime: Option<Runtime>,
    directory: TempDir,
    pin_dir: PathBuf,
    /// Of the next start.
    pub(crate) config: NetConfig,
}

impl World {
    /// Moves the test's thread into the host's namespace, so that it and the daemon's threads live
    /// there.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, Some(cgroup()))
    }

    pub(crate) fn without_hooks(name: &str) -> Self {
        Self::with(name, None)
    }

    fn with(name: &str, cgroup: Option<PathBuf>) -> Self {
        let create = || NetNs::create().expect("root is needed to create a network namespace");
        let (host, outside) = (create(), create());
        host.enter().unwrap();
        let instance = format!("test-{}-{name}", std::process::id());
        let mut world = Self {
            outside,
            cgroup,
            netd: None,
            runtime: None,
            directory: tempfile::tempdir().unwrap(),
            pin_dir: Path::new("/sys/fs/bpf/hawser")
                .join(instance)
                .join(netd::PIN_SCHEMA),
            config: NetConfig::default(),
        };
        let peer = path(&world.outside);
        ip(&format!(
            "link add eth0 type veth peer name eth0 netns {peer}"
        ));
        for address in ["192.0.2.1/24", "2001:db8::1/64 nodad"] {
            ip(&format!("address add {address} dev eth0"));
        }
        ip("link set lo up");
        ip("link set eth0 up");
        world.outside(|| {
            ip("link set lo up");
            ip("address add 192.0.2.7/24 dev eth0");
            ip("address add 2001:db8::7/64 nodad dev eth0");
            ip("link set eth0 up");
        });
        world.start();
        world
    }

    pub(crate) fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let netd = Netd::open(self.options(), runtime.handle().clone());
        self.netd = Some(netd.unwrap_or_else(|error| panic!("{error}")));
        self.runtime = Some(runtime);
    }

    /// As after `kill -9`, as far as the kernel can tell: every descriptor is closed, nothing else
    /// is said to it.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
        let mut last = self.netd.take();
        // Threads may still be busy with their last piece of work: whoever is last closes the files,
        // and that is to be this one.
        soon("nobody else uses the daemon", || {
            last = last.take().and_then(|netd| Arc::try_unwrap(netd).err());
            last.is_none()
        });
    }

    /// Lets the daemon follow the kernel from now on.
    pub(crate) fn follow(&self) {
        let netd = Arc::clone(self.netd());
        let runtime = self.runtime.as_ref().expect("the daemon runs");
        runtime.spawn(netd.run(std::future::pending()));
    }

    pub(crate) fn netd(&self) -> &Arc<Netd> {
        self.netd.as_ref().expect("the daemon runs")
    }

    pub(crate) fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    pub(crate) fn create(&self, json: &str) {
        let request = serde_json::from_str(json).unwrap();
        let created = self.netd().create_network(request);
        created.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Where the data plane's object of this name is pinned.
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.pin_dir.join(name)
    }

    pub(crate) fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.outside.run(work).unwrap()
    }

    /// Threads of the daemon before may still be busy with their last piece of work.
    fn database(&self) -> Database {
        let path = self.directory.path().join("meta.redb");
        let mut database = None;
        soon("the database is closed", || {
            database = match Database::create(&path) {
                Err(DatabaseError::DatabaseAlreadyOpen) => None,
                opened => Some(opened.unwrap()),
            };
            database.is_some()
        });
        database.expect("it was opened")
    }

    fn options(&self) -> Options {
        Options {
            database: Arc::new(self.database()),
            state_dir: self.directory.path().to_owned(),
            run_dir: self.directory.path().to_owned(),
            pin_dir: self.pin_dir.clone(),
            cgroup: self.cgroup.clone(),
            instance: "test".to_owned(),
            config: self.config.clone(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if let Err(error) = Netd::uninstall(&self.options()) {
            let left = format!("left {}: {error}", self.pin_dir.display());
            assert!(std::thread::panicking(), "{left}");
            eprintln!("{left}");
        }
    }
}

/// The host's root cgroup: the hooks act on the test's own namespaces alone.
pub(crate) fn cgroup() -> PathBuf {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists())
        .expect("a cgroup2 hierarchy is mounted")
}

/// A container, as far as the network is concerned.
pub(crate) struct Sandbox {
    pub(crate) name: String,
    namespace: NetNs,
}

impl Sandbox {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: NetNs::create().unwrap(),
        }
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    pub(crate) fn request(&self, network: &str) -> AttachRequest {
        AttachRequest {
            network: network.to_owned(),
            container_id: format!("{}0123456789ab", self.name),
            ifname: eth0(),
            netns: path(&self.namespace),
            name: Some(self.name.clone()),
            aliases: Vec::new(),
            ipv4: None,
            ipv6: None,
            mac: None,
            ports: Vec::new(),
            dns: api::net::Dns::default(),
            link: api::net::LinkBy::Hawser,
            addresses: Vec::new(),
            routes: None,
            bandwidth: None,
            owner: None,
            exclusive: false,
            gw_priority: None,
            runtime: None,
            services: Vec::new(),
            links: Vec::new(),
        }
    }

    pub(crate) fn attach(&self, world: &World, network: &str) -> Attachment {
        self.publish(world, network, "[]")
    }

    /// Attaches with published ports, given as JSON.
    pub(crate) fn publish(&self, world: &World, network: &str, ports: &str) -> Attachment {
        let mut request = self.request(network);
        request.ports = serde_json::from_str(ports).unwrap();
        let attached = world.netd().attach(request);
        attached.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn detach(&self, world: &World) {
        let id = self.request("").container_id;
        world.netd().detach(&id, &eth0()).unwrap();
    }
}

pub(crate) fn address(attachment: &Attachment, v6: bool) -> IpAddr {
    let mut addresses = attachment.addresses.iter().map(|a| a.address.addr());
    addresses.find(|a| a.is_ipv6() == v6).expect("it has one")
}

pub(crate) fn eth0() -> IfName {
    IfName::parse("eth0").unwrap()
}

/// A path of the namespace that goes with this process's descriptor of it.
pub(crate) fn path(namespace: &NetNs) -> String {
    let descriptor = namespace.as_fd().as_raw_fd();
    format!("/proc/{}/fd/{descriptor}", std::process::id())
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "ip {arguments}: {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

/// Waits until `holds`.
#[track_caller]
pub(crate) fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::yield_now();
    }
}
