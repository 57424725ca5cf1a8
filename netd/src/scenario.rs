//! Whole operations on the fake kernel: idempotence, refusals, repair.

use std::path::PathBuf;
use std::sync::Arc;

use api::id::{IfName, NodeId};
use api::net::{AttachRequest, EndpointRename, NetworkCreate, NetworkPrune};
use api::{ApiError, ErrorCode};
use cluster::{Local, Member};
use redb::Database;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bpf::{Frontend, FrontendAddress};
use crate::departure::Departures;
use crate::fake::FakeKernel;
use crate::kernel::Kernel;
use crate::model::port::BoundSocket;
use crate::netd::Netd;
use crate::store::Store;
use crate::{NetError, OpenError, Report};

mod crash;
mod gateway;
mod mesh;
mod mtu;
mod network;
mod overlay;
mod parent;
mod service;
mod wireguard;

/// A host: its kernel and directories outlive the daemon.
pub(crate) struct World {
    pub(crate) kernel: FakeKernel,
    /// What the cluster knows.
    pub(crate) control: Local,
    runtime: Runtime,
    directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap())
    }

    /// Its records are on a tmpfs, as on a real host: many changes take no time there.
    pub(crate) fn in_memory() -> Self {
        Self::with(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn with(directory: TempDir) -> Self {
        // The resolvers bind real sockets: in a namespace of this test's own.
        let namespace = sys::netns::NetNs::create().expect("root is needed for a namespace");
        namespace.enter().unwrap();
        Self {
            kernel: booted(),
            control: Local::open(in_memory()).unwrap(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            directory,
        }
    }

    /// Kernel and run directory begin anew, what is durable stays.
    pub(crate) fn reboot(&mut self) {
        self.kernel = booted();
        std::fs::remove_file(self.path("endpoints.redb")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn start(&self) -> Result<Netd, OpenError> {
        self.start_with(Departures::inline)
    }

    /// With a thread for interfaces that leave, as on a real host.
    pub(crate) fn start_threaded(&self) -> Result<Netd, OpenError> {
        self.start_with(|kernel, store| Departures::start(kernel, store).unwrap())
    }

    fn start_with(
        &self,
        departures: fn(Arc<dyn Kernel>, Arc<Store>) -> Departures,
    ) -> Result<Netd, OpenError> {
        let netd = self.open(departures)?;
        let membership = netd.enter(self.member());
        netd.catch_up(&membership).unwrap();
        Ok(netd)
    }

    /// Without a control plane.
    pub(crate) fn start_alone(&self) -> Result<Netd, OpenError> {
        self.open(Departures::inline)
    }

    fn open(
        &self,
        departures: fn(Arc<dyn Kernel>, Arc<Store>) -> Departures,
    ) -> Result<Netd, OpenError> {
        let durable = Arc::new(Database::create(self.path("meta.redb")).unwrap());
        let directory = self.directory.path();
        let store = Arc::new(Store::open(durable, directory, directory)?);
        let kernel: Arc<dyn Kernel> = Arc::new(self.kernel.clone());
        let departures = departures(Arc::clone(&kernel), Arc::clone(&store));
        Netd::on(kernel, store, departures, self.runtime.handle().clone())
    }

    /// A manager at the address of eth0.
    fn member(&self) -> Member {
        Member {
            control: self.control.session(),
            node: NodeId::from_bytes([1; 16]),
            manager: true,
            data_address: Some([192, 0, 2, 10].into()),
            data_port: Member::DATA_PORT,
        }
    }
}

fn in_memory() -> Arc<Database> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new());
    Arc::new(database.unwrap())
}

/// With the namespaces that tests use.
fn booted() -> FakeKernel {
    let kernel = FakeKernel::new();
    for inode in 10..20 {
        kernel.add_namespace(&format!("/run/netns/n{inode}"), inode);
    }
    kernel
}

pub(crate) fn network(json: &str) -> NetworkCreate {
    serde_json::from_str(json).unwrap()
}

pub(crate) fn request(network: &str, container: &str, inode: u64) -> AttachRequest {
    let json = format!(
        r#"{{"network":"{network}","container_id":"{container}","ifname":"eth0",
            "netns":"/run/netns/n{inode}","name":"{container}",
            "ports":[{{"protocol":"tcp","container_port":80,"host_port":{}}}]}}"#,
        8000 + inode
    );
    serde_json::from_str(&json).unwrap()
}

pub(crate) fn eth0() -> IfName {
    IfName::parse("eth0").unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, NetError>) -> (ErrorCode, String) {
    let error = ApiError::from(result.unwrap_err());
    (error.code, error.message)
}

#[test]
fn three_networks_exist_on_every_host() {
    let world = World::new();
    let netd = world.start().unwrap();
    let list: Vec<String> = netd
        .networks()
        .iter()
        .map(|n| format!("{} {} {}", n.name, n.driver, n.scope))
        .collect();
    assert_eq!(
        list,
        ["bridge bridge local", "host host local", "none null local"]
    );
    let bridge = netd.network("bridge").unwrap();
    assert_eq!(
        bridge.ipam.config[0].subnet.unwrap().to_string(),
        "172.17.0.0/16"
    );
    assert_eq!(bridge.options["com.docker.network.bridge.name"], "hawser0");
    let id = bridge.id.to_string();
    drop(netd);
    let netd = world.start().unwrap();
    assert_eq!(netd.network("bridge").unwrap().id.as_str(), id, "kept");
    assert_eq!(netd.network(&id[..10]).unwrap().name.as_str(), "bridge");
}

#[test]
fn attaching_twice_is_one_endpoint_and_detaching_twice_is_fine() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    let before = world.kernel.snapshot();
    let first = netd.attach(request("shop", "web", 10)).unwrap();
    assert_eq!(first.addresses[0].address.to_string(), "172.18.0.2/16");
    assert_eq!(first.mac.unwrap().to_string(), "02:42:ac:12:00:02");
    assert_eq!(first.dns.nameservers[0].to_string(), "127.0.0.11");
    assert_eq!(netd.attach(request("shop", "web", 10)).unwrap(), first);
    assert_eq!(netd.check("web", &eth0()).unwrap(), first);
    let listed = netd.network("shop").unwrap();
    assert_eq!(listed.containers["web"].ipv4_address, "172.18.0.2/16");
    netd.detach("web", &eth0()).unwrap();
    netd.detach("web", &eth0()).unwrap();
    assert_eq!(world.kernel.snapshot(), before, "nothing is left");
    let next = netd.attach(request("shop", "db", 11)).unwrap();
    assert_eq!(
        next.addresses[0].address.to_string(),
        "172.18.0.3/16",
        "no immediate reuse"
    );
}

#[test]
fn refusals_change_nothing_and_name_the_subject() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    netd.attach(request("shop", "web", 10)).unwrap();
    world.kernel.bind(BoundSocket {
        protocol: api::net::Protocol::Tcp,
        address: "0.0.0.0".parse().unwrap(),
        port: 8013,
        listens: true,
        inode: 1,
    });
    let before = (world.kernel.snapshot(), netd.endpoints(None));
    let check = |edit: fn(&mut AttachRequest), code: ErrorCode, part: &str| {
        let mut bad = request("shop", "db", 11);
        edit(&mut bad);
        let (found, message) = refusal(netd.attach(bad));
        assert!(message.contains(part), "{message}");
        assert_eq!(found, code, "{message}");
        assert_eq!(
            (world.kernel.snapshot(), netd.endpoints(None)),
            before,
            "{message}"
        );
    };
    check(
        |r| r.network = "nowhere".into(),
        ErrorCode::NotFound,
        "network nowhere not found",
    );
    check(
        |r| r.network = "host".into(),
        ErrorCode::InvalidInput,
        "has no endpoints",
    );
    check(
        |r| r.netns = "/gone".into(),
        ErrorCode::NotFound,
        "namespace /gone of container db",
    );
    check(
        |r| r.container_id = "../x".into(),
        ErrorCode::InvalidInput,
        "invalid container id",
    );
    check(
        |r| r.aliases = vec!["a b".into()],
        ErrorCode::InvalidInput,
        "invalid name \"a b\"",
    );
    check(
        |r| r.ports[0].host_port = 8010,
        ErrorCode::Conflict,
        "8010/tcp is already allocated: published by container web",
    );
    check(
        |r| r.ports[0].host_port = 8013,
        ErrorCode::Conflict,
        "8013/tcp is already in use by process nginx (pid 42)",
    );
    check(
        |r| r.ipv4 = "172.18.0.2".parse().ok(),
        ErrorCode::Conflict,
        "172.18.0.2 already in use on network shop by container web",
    );
    check(
        |r| r.ipv4 = "192.0.2.1".parse().ok(),
        ErrorCode::InvalidInput,
        "192.0.2.1 is not in a subnet of network shop: 172.18.0.0/16",
    );
    check(
        |r| r.ipv6 = "fd00::1".parse().ok(),
        ErrorCode::InvalidInput,
        "has no IPv6 subnet: create it with --ipv6",
    );
    check(
        |r| (r.container_id, r.netns) = ("web".into(), "/run/netns/n12".into()),
        ErrorCode::Conflict,
        "interface eth0 of container web is on network shop already",
    );
}

#[test]
fn a_network_in_use_stays_and_an_unused_one_leaves_nothing() {
    let world = World::new();
    let netd = world.start().unwrap();
    let before = world.kernel.snapshot();
    netd.create_network(network(r#"{"Name":"shop","EnableIPv6":true}"#))
        .unwrap();
    netd.attach(request("shop", "web", 10)).unwrap();
    let error = ApiError::from(netd.remove_network("shop").unwrap_err());
    assert_eq!(error.code, ErrorCode::InUse);
    assert!(
        error.message.contains("in use by container web"),
        "{}",
        error.message
    );
    let error = netd
        .create_network(network(r#"{"Name":"shop"}"#))
        .unwrap_err();
    assert_eq!(error.to_string(), "network with name shop already exists");
    assert!(netd.remove_network("bridge").is_err());
    netd.detach("web", &eth0()).unwrap();
    assert_eq!(
        netd.prune_networks(&NetworkPrune::default()).unwrap(),
        ["shop"]
    );
    netd.reconcile().unwrap();
    assert_eq!(world.kernel.snapshot(), before);
}

#[test]
fn a_rename_moves_the_name_on_every_network_and_is_kept() {
    let world = World::new();
    let netd = world.start().unwrap();
    for name in ["n1", "n2"] {
        netd.create_network(network(&format!(r#"{{"Name":"{name}"}}"#)))
            .unwrap();
    }
    netd.attach(request("n1", "web", 10)).unwrap();
    let mut second = request("n2", "web", 10);
    second.ifname = IfName::parse("eth1").unwrap();
    second.ports.clear();
    netd.attach(second).unwrap();
    netd.attach(request("n1", "db", 11)).unwrap();
    let before = world.kernel.snapshot();
    let rename = |container: &str, name: &str| {
        netd.rename(&EndpointRename {
            container_id: container.to_owned(),
            name: name.to_owned(),
        })
    };
    let bad = ApiError::from(rename("web", "a b").unwrap_err());
    assert_eq!(bad.code, ErrorCode::InvalidInput, "{}", bad.message);
    rename("web", "shop").unwrap();
    rename("web", "shop").unwrap();
    rename("nobody", "shop").expect("a container without endpoints is fine");
    let names = |netd: &Netd| -> Vec<Option<String>> {
        let endpoints = netd.endpoints(None);
        endpoints
            .into_iter()
            .map(|endpoint| endpoint.name)
            .collect()
    };
    let expected = ["db", "shop", "shop"].map(|name| Some(name.to_owned()));
    assert_eq!(names(&netd), expected);
    assert_eq!(netd.network("n1").unwrap().containers["web"].name, "shop");
    drop(netd);
    let netd = world.start().unwrap();
    assert_eq!(names(&netd), expected);
    assert_eq!(world.kernel.snapshot(), before);
}

#[test]
fn a_pool_gives_each_holder_an_address_until_its_sandbox_dies() {
    let world = World::new();
    let netd = world.start().unwrap();
    let pool = r#"{"Name":"pods","Driver":"pool","IPAM":{"Config":[{"Subnet":"10.9.0.0/29"}]}}"#;
    netd.create_network(network(pool)).unwrap();
    let lease = |container: &str, inode| {
        let mut request = request("pods", container, inode);
        request.link = api::net::LinkBy::Others;
        request.ports.clear();
        netd.attach(request)
    };
    let first = lease("c1", 10).unwrap();
    assert_eq!(first.addresses[0].address.to_string(), "10.9.0.2/29");
    assert_eq!((&first.host_ifname, first.mac), (&None, None));
    assert!(first.routes.is_empty());
    assert_eq!(lease("c1", 10).unwrap(), first, "asked again");
    for (name, inode) in [("c2", 11), ("c3", 12), ("c4", 13), ("c5", 14)] {
        lease(name, inode).unwrap();
    }
    assert_eq!(refusal(lease("c6", 15)).0, ErrorCode::Exhausted);
    assert!(netd.remove_network("pods").is_err(), "it is in use");
    world.kernel.remove_namespace("/run/netns/n10");
    netd.reconcile().unwrap();
    let freed = lease("c6", 15).unwrap();
    assert_eq!(freed.addresses, first.addresses);
    let (code, message) = refusal(netd.attach(request("pods", "web", 16)));
    assert_eq!(code, ErrorCode::InvalidInput);
    assert!(message.contains("driver pool"), "{message}");
}

#[test]
fn a_network_is_ready_until_it_is_full_or_loses_a_part() {
    let world = World::new();
    let netd = world.start().unwrap();
    let create = |name: &str, subnet: &str| {
        let json = format!(r#"{{"Name":"{name}","IPAM":{{"Config":[{{"Subnet":"{subnet}"}}]}}}}"#);
        netd.create_network(network(&json)).unwrap();
    };
    create("shop", "10.1.0.0/24");
    create("tiny", "10.2.0.0/30");
    let status = |name: &str| {
        let ready = netd.ready(name).map(drop).map_err(ApiError::from);
        ready.map_err(|error| error.code)
    };
    assert_eq!(status("shop"), Ok(()));
    assert_eq!(status("tiny"), Ok(()));
    assert_eq!(status("gone"), Err(ErrorCode::NotFound));
    netd.attach(request("tiny", "web", 10)).unwrap();
    assert_eq!(status("tiny"), Err(ErrorCode::Exhausted));
    let bridge =
        IfName::parse(&format!("br-{}", netd.network("shop").unwrap().id.short())).unwrap();
    world.kernel.edit(|observed| {
        observed.links.remove(&bridge);
    });
    assert_eq!(status("shop"), Err(ErrorCode::Unavailable));
    netd.reconcile().unwrap();
    assert_eq!(status("shop"), Ok(()));
}

#[test]
fn what_others_change_is_repaired() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    netd.attach(request("shop", "web", 10)).unwrap();
    let good = world.kernel.snapshot();
    let bridge =
        IfName::parse(&format!("br-{}", netd.network("shop").unwrap().id.short())).unwrap();
    let damages: [Box<dyn Fn()>; 5] = [
        Box::new(|| world.kernel.edit(|observed| observed.filter = None)),
        // Somebody removed the filter of a link.
        Box::new(|| {
            world.kernel.edit(|observed| {
                let edge = observed.data_plane.edges.values_mut().next().unwrap();
                assert!(edge.take().is_some());
            });
        }),
        Box::new(|| {
            world
                .kernel
                .edit(|observed| observed.ipv4_forwarding = false)
        }),
        Box::new(|| {
            world.kernel.edit(|observed| {
                let gone = observed.links.remove(&bridge).unwrap();
                for link in observed.links.values_mut() {
                    link.master = link.master.filter(|index| *index != gone.index);
                }
            });
        }),
        Box::new(|| {
            world.kernel.edit(|observed| {
                observed.data_plane.published.clear();
                observed.data_plane.sandboxes.clear();
                observed.data_plane.uplinks.clear();
                let edges = &mut observed.data_plane.edges;
                let (_, edge) = edges.pop_first().unwrap();
                edges.insert(IfName::parse("veth00000000").unwrap(), edge);
                let stray = Frontend {
                    address: FrontendAddress::Any4,
                    protocol: api::net::Protocol::Udp,
                    port: 9,
                    count: 1,
                };
                let backend = "192.0.2.1:9".parse().unwrap();
                observed.data_plane.published.insert(stray, backend);
            });
        }),
    ];
    for damage in damages {
        damage();
        assert_ne!(world.kernel.snapshot(), good);
        let report = netd.reconcile().unwrap();
        assert!(report.failures.is_empty(), "{report:?}");
        assert_eq!(world.kernel.snapshot(), good);
    }
    assert_eq!(
        netd.reconcile().unwrap(),
        Report::default(),
        "and then nothing"
    );
}

#[test]
fn a_dead_sandbox_is_collected_and_its_address_and_port_are_free() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    let before = world.kernel.snapshot();
    netd.attach(request("shop", "web", 10)).unwrap();
    world.kernel.remove_namespace("/run/netns/n10");
    let report = netd.reconcile().unwrap();
    assert_eq!(report.collected, ["web/eth0"]);
    assert_eq!(world.kernel.snapshot(), before);
    let mut again = request("shop", "db", 11);
    again.ports[0].host_port = 8010;
    again.ipv4 = "172.18.0.2".parse().ok();
    netd.attach(again).unwrap();
}

#[test]
fn the_next_network_inherits_the_default_route() {
    let world = World::new();
    let netd = world.start().unwrap();
    for name in ["n1", "n2"] {
        netd.create_network(network(&format!(r#"{{"Name":"{name}"}}"#)))
            .unwrap();
    }
    let first = netd.attach(request("n1", "web", 10)).unwrap();
    assert_eq!(first.routes.len(), 1);
    let mut second = request("n2", "web", 10);
    second.ifname = IfName::parse("eth1").unwrap();
    second.ports.clear();
    assert!(netd.attach(second).unwrap().routes.is_empty());
    netd.detach("web", &eth0()).unwrap();
    let heir = netd.endpoints(Some("web"));
    assert_eq!(heir.len(), 1);
    assert_eq!(heir[0].routes[0].gateway, heir[0].addresses[0].gateway);
}
