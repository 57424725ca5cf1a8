//! Nodes that begin a cluster, join it and leave.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::swarm::EtcdAddress;
use cluster::swarm::{
    CERT_EXPIRY, Host, Init, Join, NodeChange, NodeState, Program, Swarm, SwarmError,
};
use cluster::{Availability, ControlPlane, Local, Member, Role, Token, Transaction};
use redb::Database;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::{LEASE, SOON, Server, answer, free_port};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The embedded control plane of a host that is alone.
pub(crate) fn alone() -> Arc<dyn ControlPlane> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new());
    Local::open(Arc::new(database.unwrap())).unwrap().session()
}

/// A host with a directory of its own.
struct Node {
    directory: TempDir,
    hostname: String,
    swarm: Swarm,
    port: u16,
}

impl Node {
    fn new(hostname: &str, runtime: &Runtime) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let swarm = open(directory.path(), hostname, runtime);
        Self {
            directory,
            hostname: hostname.to_owned(),
            swarm,
            port: free_port(),
        }
    }

    fn restart(&mut self, runtime: &Runtime) {
        // The port must be free before the next one takes it.
        let elsewhere = tempfile::tempdir().unwrap();
        self.swarm = open(elsewhere.path(), &self.hostname, runtime);
        self.swarm = answer(|| {
            let home = self.directory.path().join("swarm");
            Swarm::open(home, host(&self.hostname), runtime.handle().clone())
        });
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.port)
    }

    fn init(&self, server: &Server, before: &dyn ControlPlane) -> Result<Member, SwarmError> {
        let mut random = [0; 16];
        random[..2].copy_from_slice(&self.port.to_be_bytes());
        let init = Init {
            node: api::id::NodeId::from_bytes(random),
            etcd: EtcdAddress {
                endpoints: vec![server.url()],
                ca: None,
                certificate: None,
                key: None,
                lease: Some(LEASE.as_secs()),
            },
            advertise: self.address(),
            listen: self.address(),
            data_address: LOOPBACK,
            data_port: Member::DATA_PORT,
            cert_expiry: CERT_EXPIRY,
            availability: Availability::Active,
            autolock: false,
            settings: api::swarm::SwarmSettings::default(),
        };
        self.swarm.init(init, before)
    }

    fn join(&self, manager: &Self, token: &Token) -> Result<(Member, Role), SwarmError> {
        self.swarm.join(&Join {
            token: token.clone(),
            manager: manager.address(),
            advertise: None,
            listen: self.address(),
            data_address: None,
            availability: Availability::Active,
        })
    }

    /// `name status role` of each node, with a star behind the own and an L behind the leader.
    fn ls(&self) -> Vec<String> {
        let nodes = answer(|| self.swarm.nodes());
        let line = |state: NodeState| {
            let mut line = state.node.hostname;
            line.push_str(if state.own { "*" } else { "" });
            line.push_str(if state.alive { " ready" } else { " down" });
            line.push_str(match state.node.role {
                Role::Manager => " manager",
                Role::Worker => " worker",
            });
            line.push_str(if state.leader { " leader" } else { "" });
            line
        };
        nodes.into_iter().map(line).collect()
    }

    fn lists(&self, expected: &[&str]) {
        answer(|| match self.ls() {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?} is not {expected:?}")),
        });
    }
}

fn host(hostname: &str) -> Host {
    Host {
        hostname: hostname.to_owned(),
        engine: "0".to_owned(),
        machine: Default::default(),
        etcd: Program {
            path: "etcd".into(),
            groups: Vec::new(),
        },
        run: PathBuf::from("/nonexistent/nobody-locks"),
        agent: PathBuf::from("/nonexistent/agent"),
    }
}

fn open(directory: &Path, hostname: &str, runtime: &Runtime) -> Swarm {
    let home = directory.join("swarm");
    Swarm::open(home, host(hostname), runtime.handle().clone()).unwrap()
}

/// A cluster of one manager, on an etcd that answers.
fn begun(runtime: &Runtime) -> (Server, Node) {
    let server = Server::start();
    let manager = Node::new("mgr1", runtime);
    answer(|| manager.init(&server, &*alone()));
    (server, manager)
}

#[test]
fn six_nodes_make_a_cluster() {
    let runtime = Runtime::new().unwrap();
    let (_server, mgr1) = begun(&runtime);
    let (worker, manager) = mgr1.swarm.tokens().unwrap();
    let fields = |token: &Token| {
        let text = token.to_string();
        let (begin, end) = text.rsplit_once('-').unwrap();
        (begin.to_owned(), end.to_owned())
    };
    assert_eq!(fields(&worker).0, fields(&manager).0);
    assert_ne!(fields(&worker).1, fields(&manager).1);
    mgr1.swarm.campaign().unwrap();
    let others = ["mgr2", "mgr3", "wrk1", "wrk2", "wrk3"].map(|n| Node::new(n, &runtime));
    for node in &others {
        let is_manager = node.hostname.starts_with("mgr");
        let token = if is_manager { &manager } else { &worker };
        let (member, role) = node.join(&mgr1, token).unwrap();
        assert_eq!(
            (role == Role::Manager, member.manager),
            (is_manager, is_manager)
        );
        node.swarm.campaign().unwrap();
    }
    mgr1.lists(&[
        "mgr1* ready manager leader",
        "mgr2 ready manager",
        "mgr3 ready manager",
        "wrk1 ready worker",
        "wrk2 ready worker",
        "wrk3 ready worker",
    ]);
    assert!(others[0].ls()[1].starts_with("mgr2* "));
    let refused = others[2].swarm.nodes().unwrap_err();
    assert!(matches!(refused, SwarmError::NotManager(_)));
    assert!(matches!(
        others[2].swarm.tokens(),
        Err(SwarmError::NotManager(_))
    ));

    // Through a manager that joined, as well as through the first.
    let late = Node::new("wrk4", &runtime);
    late.join(&others[1], &worker).unwrap();
    // The leader goes, and another manager decides.
    mgr1.swarm.leave(false).unwrap();
    others[0].swarm.campaign().unwrap();
    let nodes = others[0].ls();
    assert_eq!(nodes[0], "mgr1 down worker");
    assert_eq!(nodes[1], "mgr2* ready manager leader");
}

#[test]
fn a_token_opens_one_cluster_until_it_is_rotated() {
    let runtime = Runtime::new().unwrap();
    let (_server, manager) = begun(&runtime);
    let (worker, as_manager) = manager.swarm.tokens().unwrap();
    let node = Node::new("wrk1", &runtime);
    let refused = |token: &Token| node.join(&manager, token).unwrap_err().to_string();

    let foreign = Token {
        digest: [7; 32],
        secret: worker.secret.clone(),
    };
    let why = refused(&foreign);
    assert!(
        why.contains("not of the cluster that the token is for"),
        "{why}"
    );
    let guessed = Token {
        secret: node_id(9),
        ..worker.clone()
    };
    let why = refused(&guessed);
    assert!(
        why.contains("the token is not one of this cluster"),
        "{why}"
    );

    manager.swarm.rotate(Role::Worker).unwrap();
    let (rotated, unchanged) = manager.swarm.tokens().unwrap();
    assert_eq!((unchanged, rotated.digest), (as_manager, worker.digest));
    let why = refused(&worker);
    assert!(why.contains("was rotated"), "{why}");
    assert_eq!(manager.ls().len(), 1, "nobody came in");
    assert!(node.swarm.membership().is_none() && node.swarm.member().is_none());
    node.join(&manager, &rotated).unwrap();
    assert!(matches!(
        node.join(&manager, &rotated),
        Err(SwarmError::Already)
    ));
}

fn node_id(byte: u8) -> api::id::NodeId {
    api::id::NodeId::from_bytes([byte; 16])
}

#[test]
fn a_node_is_a_member_again_after_a_restart_even_without_its_etcd() {
    let runtime = Runtime::new().unwrap();
    let (mut server, mut manager) = begun(&runtime);
    let (worker, _) = manager.swarm.tokens().unwrap();
    let mut node = Node::new("wrk1", &runtime);
    node.join(&manager, &worker).unwrap();
    let before = node.swarm.membership();
    manager.restart(&runtime);
    assert_eq!(manager.swarm.tokens().unwrap().0, worker);
    server.stop();
    node.restart(&runtime);
    assert_eq!(node.swarm.membership(), before);
    assert!(node.swarm.member().is_some());
    server.start_again();
    let late = Node::new("wrk2", &runtime);
    answer(|| late.join(&manager, &worker));
    manager.lists(&[
        "mgr1* ready manager",
        "wrk1 ready worker",
        "wrk2 ready worker",
    ]);
}

#[test]
fn keys_are_read_by_nobody_else() {
    let runtime = Runtime::new().unwrap();
    let (_server, manager) = begun(&runtime);
    let home = manager.directory.path().join("swarm");
    for name in [
        "state.json",
        "certificates/swarm-node.key",
        "certificates/swarm-node.crt",
    ] {
        let mode = home.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    manager.swarm.leave(true).unwrap();
    assert!(!home.exists());
    assert!(matches!(manager.swarm.nodes(), Err(SwarmError::None)));
}

#[test]
fn one_store_has_one_cluster_and_what_a_host_alone_had_comes_along() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let [first, second] = ["a", "b"].map(|name| Node::new(name, &runtime));
    let before = alone();
    let networks = (0..250).fold(Transaction::default(), |all, number| {
        all.put(format!("networks/n{number}"), "{}")
    });
    before
        .commit(&networks.put_leased("endpoints/n/n/n", "{}"))
        .unwrap();
    let member = answer(|| first.init(&server, &*before));
    assert_eq!(
        member.control.snapshot("networks/").unwrap().entries.len(),
        250
    );
    assert!(
        member
            .control
            .snapshot("endpoints/")
            .unwrap()
            .entries
            .is_empty()
    );
    let refused = second.init(&server, &*alone()).unwrap_err();
    assert!(matches!(refused, SwarmError::Taken(_)), "{refused}");
    assert!(!second.directory.path().join("swarm").exists());
}

#[test]
fn the_last_manager_stays_unless_forced() {
    let runtime = Runtime::new().unwrap();
    let (_server, manager) = begun(&runtime);
    assert!(matches!(
        manager.swarm.leave(false),
        Err(SwarmError::LastManager)
    ));
    manager.swarm.leave(true).unwrap();
    assert!(matches!(manager.swarm.leave(true), Err(SwarmError::None)));
}

#[test]
fn a_node_is_found_changed_and_removed() {
    let runtime = Runtime::new().unwrap();
    let (_server, manager) = begun(&runtime);
    let (worker, _) = manager.swarm.tokens().unwrap();
    let [wrk1, wrk2] = ["wrk1", "wrk2"].map(|name| Node::new(name, &runtime));
    let (member, _) = wrk1.join(&manager, &worker).unwrap();
    wrk2.join(&manager, &worker).unwrap();
    let claim = |node: &api::id::NodeId, address: u32| {
        let value = format!(r#"{{"node":"{node}","holder":"x"}}"#);
        (format!("claims/n/10.0.0.{address}"), value)
    };
    let other = wrk2.swarm.membership().unwrap().node;
    let claims = (1..150)
        .map(|at| claim(&member.node, at))
        .chain([claim(&other, 200)]);
    for (key, value) in claims {
        member
            .control
            .commit(&Transaction::default().put(key, value))
            .unwrap();
    }

    let labels: BTreeMap<String, String> = [("zone", "east"), ("disk", "ssd")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let change = NodeChange {
        availability: Some(Availability::Drain),
        add_labels: labels.clone(),
        ..NodeChange::default()
    };
    manager.swarm.update_node("wrk1", &change).unwrap();
    let id = member.node.as_str();
    for key in ["wrk1", id, &id[..20]] {
        let found = manager.swarm.node(key).unwrap();
        assert_eq!(
            (found.node.availability, &found.node.labels),
            (Availability::Drain, &labels)
        );
    }
    let less = NodeChange {
        remove_labels: ["zone".to_owned()].into(),
        ..NodeChange::default()
    };
    manager.swarm.update_node("wrk1", &less).unwrap();
    let found = manager.swarm.node("wrk1").unwrap().node;
    assert_eq!(found.labels.keys().collect::<Vec<_>>(), ["disk"]);
    assert!(manager.swarm.node("self").unwrap().own);
    manager.swarm.update_node("self", &less).unwrap();
    assert!(matches!(
        manager.swarm.node("nobody"),
        Err(SwarmError::NoNode(_))
    ));

    assert!(matches!(
        manager.swarm.remove_node("wrk1", false),
        Err(SwarmError::Alive(_))
    ));
    wrk1.swarm.leave(false).unwrap();
    manager.lists(&[
        "mgr1* ready manager",
        "wrk1 down worker",
        "wrk2 ready worker",
    ]);
    manager.swarm.remove_node("wrk1", false).unwrap();
    assert_eq!(manager.ls().len(), 2);
    let left = manager
        .swarm
        .member()
        .unwrap()
        .control
        .snapshot("claims/")
        .unwrap();
    assert_eq!(
        left.entries.keys().collect::<Vec<_>>(),
        ["claims/n/10.0.0.200"]
    );
}

#[test]
fn a_door_that_somebody_knocks_at_stays_open() {
    use std::io::Write;
    use std::net::TcpStream;

    let runtime = Runtime::new().unwrap();
    let (_server, manager) = begun(&runtime);
    let (worker, _) = manager.swarm.tokens().unwrap();
    // Some say nothing, some nonsense.
    let silent: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(manager.address()).unwrap())
        .collect();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(manager.address()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    let node = Node::new("wrk1", &runtime);
    let begun = std::time::Instant::now();
    node.join(&manager, &worker).unwrap();
    assert!(begun.elapsed() < SOON);
    drop(silent);
}
