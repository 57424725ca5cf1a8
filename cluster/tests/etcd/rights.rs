//! What the nodes of a cluster may do in the etcd that its managers run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use api::id::NodeId;
use api::swarm::EtcdAddress;
use api::work::{Order, TaskReport, WorkChange};
use cluster::swarm::{CERT_EXPIRY, Host, Init, Join, Program, Swarm, SwarmError, Work};
use cluster::{
    Availability, ControlError, ControlPlane, Etcd, EtcdOptions, EtcdTls, Member, Outcome, Role,
    Snapshot, Token, Transaction, key,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::{LEASE, SOON, answer};
use crate::swarm::alone;

const PASSWORD: &str = "bWU6cGFzcw==";

/// A host at a loopback address of its own, and its etcd if it is a manager.
pub(crate) struct Node {
    pub(crate) home: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) swarm: Swarm,
    host: Host,
    directory: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have left.
        drop(self.swarm.leave(true));
        drop(Swarm::remove(self.home.clone(), self.home.clone(), &[]));
    }
}

impl Node {
    pub(crate) fn new(number: u8, runtime: &Runtime) -> Self {
        // Tests run beside each other.
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let ip = Ipv4Addr::new(127, 1 + high % 250, low, number);
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("swarm");
        let peers =
            std::env::var_os("HAWSER_PEERS").expect("HAWSER_PEERS: run this by cargo xtask");
        let host = Host {
            hostname: format!("n{number}"),
            engine: "0".to_owned(),
            machine: Default::default(),
            etcd: Program {
                path: Path::new(&peers).join("usr/bin/etcd"),
                groups: Vec::new(),
            },
            run: directory.path().join("run"),
            agent: directory.path().join("agent.sock"),
        };
        Self {
            swarm: Swarm::open(home.clone(), host.clone(), runtime.handle().clone()).unwrap(),
            home,
            address: SocketAddr::new(ip.into(), 2377),
            host,
            directory,
        }
    }

    /// Its daemon is another one; its etcd is not.
    pub(crate) fn restart(&mut self, runtime: &Runtime) {
        let open = |home: PathBuf| Swarm::open(home, self.host.clone(), runtime.handle().clone());
        // The port must be free before the next one takes it.
        self.swarm = open(self.directory.path().join("elsewhere")).unwrap();
        self.swarm = answer(|| open(self.home.clone()));
    }

    pub(crate) fn begin(&self) -> Member {
        let init = Init {
            node: NodeId::from_bytes([7; 16]),
            etcd: EtcdAddress {
                lease: Some(LEASE.as_secs()),
                ..EtcdAddress::default()
            },
            advertise: self.address,
            listen: self.address,
            data_address: self.address.ip(),
            data_port: Member::DATA_PORT,
            cert_expiry: CERT_EXPIRY,
            availability: Availability::Active,
            autolock: false,
            settings: api::swarm::SwarmSettings::default(),
        };
        let member = self.swarm.init(init, &*alone()).unwrap();
        self.swarm.campaign().unwrap();
        member
    }

    pub(crate) fn join(&self, manager: &Self, role: Role) -> Member {
        let (worker, as_manager) = manager.swarm.tokens().unwrap();
        let token = match role {
            Role::Worker => worker,
            Role::Manager => as_manager,
        };
        self.join_by(manager, token).unwrap()
    }

    pub(crate) fn join_by(&self, manager: &Self, token: Token) -> Result<Member, SwarmError> {
        let join = Join {
            token,
            manager: manager.address,
            advertise: Some(self.address.ip()),
            listen: self.address,
            data_address: None,
            availability: Availability::Active,
        };
        self.swarm.join(&join).map(|(member, _)| member)
    }

    /// What whoever has the files of this node reaches.
    fn stolen(&self, manager: &Self, runtime: &Runtime) -> Etcd {
        manager.asked_with(&self.home.join("certificates"), runtime)
    }

    /// This manager's etcd, for whoever has the files of a node.
    pub(crate) fn asked_with(&self, certificates: &Path, runtime: &Runtime) -> Etcd {
        let file = |name: &str| certificates.join(name);
        let options = EtcdOptions {
            endpoints: vec![format!("https://{}:2379", self.address.ip())],
            prefix: "/hawser/".to_owned(),
            tls: Some(EtcdTls {
                ca: file("swarm-root-ca.crt"),
                certificate: file("swarm-node.crt"),
                key: file("swarm-node.key"),
                name: Some("swarm-manager".to_owned()),
            }),
            lease: LEASE,
        };
        Etcd::connect(options, runtime.handle().clone()).unwrap()
    }
}

fn is_denied<T>(answer: Result<T, ControlError>, what: &str) {
    match answer {
        Err(ControlError::Denied(_)) => {}
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what} is not denied"),
    }
}

fn put(key: String, value: &str) -> Transaction {
    Transaction::default().put(key, value)
}

fn claim(node: &NodeId) -> String {
    format!(r#"{{"node":"{node}","holder":"x"}}"#)
}

#[test]
fn a_worker_reads_no_secrets_and_writes_for_itself_alone() {
    let runtime = Runtime::new().unwrap();
    let nodes = [1, 2, 3].map(|number| Node::new(number, &runtime));
    let manager = nodes[0].begin();
    let [worker, other] = [1, 2].map(|at| nodes[at].join(&nodes[0], Role::Worker));
    let store = nodes[1].stolen(&nodes[0], &runtime);

    for secret in ["", key::SECRETS, key::LEADER, key::LOGINS] {
        is_denied(store.snapshot(secret), secret);
        let news = store.watch(secret, 0).unwrap().next(SOON).unwrap_err();
        assert!(news.to_string().contains("permission denied"), "{news}");
    }
    let network = "0123456789ab";
    let address: IpAddr = [10, 0, 0, 2].into();
    for key in [
        key::node(&other.node),
        key::node(&worker.node),
        key::endpoint(&other.node, network, "e"),
        key::alive(&other.node),
        key::task(&other.node, "t"),
        key::order(Some(&worker.node), "t"),
        format!("{}s", key::SERVICES),
        key::manager(&worker.node),
        key::network(network),
        key::removal(network),
        key::claim(network, address),
        key::CLUSTER.to_owned(),
        key::SECRETS.to_owned(),
        key::LEADER.to_owned(),
    ] {
        is_denied(store.commit(&put(key.clone(), "{}")), &key);
        let gone = Transaction::default().delete(key.clone());
        is_denied(store.commit(&gone), &key);
    }
    // Others' secrets are not compared with, either.
    let guess = put(key::alive(&worker.node), "{}").when(key::SECRETS, 1);
    is_denied(store.commit(&guess), "comparing");

    let endpoint = key::endpoint(&worker.node, network, "e");
    for key in [endpoint.clone(), key::task(&worker.node, "t")] {
        let leased = Transaction::default().put_leased(key.clone(), "{}");
        store.commit(&leased).unwrap();
        store.commit(&Transaction::default().delete(key)).unwrap();
    }
    for key in [
        key::NETWORKS,
        key::CLAIMS,
        key::ENDPOINTS,
        key::NODES,
        key::SERVICES,
        key::ORDERS,
        key::TASKS,
    ] {
        store.snapshot(key).unwrap();
        store.watch(key, 0).unwrap();
    }

    // Addresses are claimed by a manager, for whoever asks and nobody else.
    let name = key::claim(network, address);
    let free = |value: String| {
        let claim = Transaction::default().when(name.as_str(), 0);
        claim.put(name.as_str(), value)
    };
    let its = free(claim(&worker.node)).put_leased(endpoint.clone(), "{}");
    assert!(matches!(
        worker.control.commit(&its),
        Ok(Outcome::Committed(_))
    ));
    assert!(
        manager
            .control
            .snapshot(&endpoint)
            .unwrap()
            .entries
            .contains_key(&endpoint)
    );
    let taken = other.control.commit(&free(claim(&other.node)));
    assert!(matches!(taken, Ok(Outcome::Refused)));
    let modified = manager.control.snapshot(&name).unwrap().entries[&name].modified;
    let foreign = Transaction::default().when(name.as_str(), modified);
    let second = key::claim(network, [10, 0, 0, 3].into());
    for (what, theft) in [
        ("freeing another's", foreign.clone().delete(name.as_str())),
        (
            "taking another's",
            foreign.put(name.as_str(), claim(&other.node)),
        ),
        (
            "claiming for another",
            put(second.clone(), &claim(&worker.node)).when(second.as_str(), 0),
        ),
        ("without looking", put(second.clone(), &claim(&other.node))),
    ] {
        let why = other.control.commit(&theft).unwrap_err().to_string();
        assert!(why.contains("is not this node's to write"), "{what}: {why}");
    }
    let end = Transaction::default().when(name.as_str(), modified);
    let end = end.delete(name.as_str()).delete(endpoint.as_str());
    assert!(matches!(
        worker.control.commit(&end),
        Ok(Outcome::Committed(_))
    ));
    assert_eq!(
        manager
            .control
            .snapshot(key::ENDPOINTS)
            .unwrap()
            .entries
            .len(),
        0
    );

    // A login is told to those who are to run the service.
    let login = key::login("s1", "r.example:5000");
    let order = put(
        key::order(Some(&worker.node), "t"),
        r#"{"service":"s1","task":"t"}"#,
    );
    manager
        .control
        .commit(&put(login.clone(), PASSWORD))
        .unwrap();
    let ask = |member: &Member| member.control.snapshot(&key::logins("s1"));
    let why = ask(&worker).unwrap_err().to_string();
    assert!(why.contains("is not to run service s1"), "{why}");
    manager.control.commit(&order).unwrap();
    let text = |read: Snapshot| read.entries.into_values().next().unwrap().value;
    assert_eq!(text(ask(&worker).unwrap()), PASSWORD);
    // The disks of managers have it sealed, and the unlock key seals what it is sealed with.
    let disk = nodes[0].stolen(&nodes[0], &runtime);
    let kept = text(disk.snapshot(key::LOGINS).unwrap());
    assert!(!kept.contains(PASSWORD), "{kept}");
    let secrets = || text(disk.snapshot(key::SECRETS).unwrap());
    assert!(secrets().contains("logins"));
    nodes[0].swarm.set_autolock(true).unwrap();
    assert!(!secrets().contains("logins"));
    nodes[0].swarm.rotate_unlock_key().unwrap();
    assert_eq!(text(ask(&worker).unwrap()), PASSWORD);
    assert_eq!(text(ask(&manager).unwrap()), PASSWORD);
    let why = ask(&other).unwrap_err().to_string();
    assert!(why.contains("is not to run service s1"), "{why}");

    // One that was removed is nobody, whatever it has kept.
    nodes[0].swarm.remove_node("n2", true).unwrap();
    is_denied(store.snapshot(key::NETWORKS), "a removed node");
    is_denied(
        worker.control.commit(&free(claim(&worker.node))),
        "its claim",
    );
}

#[test]
fn rights_come_and_go_with_the_role() {
    let runtime = Runtime::new().unwrap();
    let nodes = [1, 2].map(|number| Node::new(number, &runtime));
    let manager = nodes[0].begin();
    nodes[1].join(&nodes[0], Role::Worker);
    let secrets = |node: &Node| node.stolen(&nodes[0], &runtime).snapshot(key::SECRETS);
    is_denied(secrets(&nodes[1]), "a worker");
    nodes[0].swarm.give_role("n2", Role::Manager).unwrap();
    assert!(answer(|| nodes[1].swarm.attend()));
    assert_eq!(secrets(&nodes[1]).unwrap().entries.len(), 1);
    answer(|| nodes[1].swarm.tokens());

    answer(|| nodes[0].swarm.give_role("n2", Role::Worker));
    is_denied(secrets(&nodes[1]), "one that was a manager");
    assert!(answer(|| nodes[1].swarm.attend()));
    assert!(matches!(
        nodes[1].swarm.nodes(),
        Err(SwarmError::NotManager(_))
    ));
    // Its lease is its own still.
    let alive = key::alive(&nodes[1].swarm.membership().unwrap().node);
    let again = Transaction::default().put_leased(alive, "{}");
    nodes[1]
        .swarm
        .member()
        .unwrap()
        .control
        .commit(&again)
        .unwrap();
    answer(|| match nodes[0].swarm.nodes() {
        Ok(all) if all.iter().all(|state| state.alive) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // Whoever was ended before it took the rights away, too, is made up for.
    let store = nodes[1].stolen(&nodes[0], &runtime);
    store.snapshot(key::NODES).unwrap();
    let record = key::node(&nodes[1].swarm.membership().unwrap().node);
    let gone = Transaction::default().delete(record);
    manager.control.commit(&gone).unwrap();
    answer(|| {
        nodes[0].swarm.attend().unwrap();
        match store.snapshot(key::NODES) {
            Err(ControlError::Denied(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn the_one_that_leads_orders_and_each_node_reports_for_itself() {
    let runtime = Runtime::new().unwrap();
    let nodes = [1, 2, 3].map(|number| Node::new(number, &runtime));
    let manager = nodes[0].begin();
    let [worker, other] = [1, 2].map(|at| nodes[at].join(&nodes[0], Role::Worker));
    let work = |at: usize| nodes[at].swarm.work(false).unwrap().unwrap();
    let leads = work(0).leads.unwrap();
    let order = |node: Option<&NodeId>, task: &str, value: Option<&str>| Order {
        task: task.to_owned(),
        node: node.cloned(),
        order: value.map(|text| text.into()),
    };
    let orders = vec![
        order(Some(&worker.node), "t1", Some("run")),
        order(Some(&other.node), "t2", Some("run")),
        order(None, "t3", Some("wait")),
    ];
    let change = WorkChange {
        leads: Some(leads),
        orders,
        reports: Vec::new(),
    };
    // A worker may not, whatever it says; one that has led before neither.
    for (at, leads) in [(1, Some(leads)), (0, Some(leads - 1)), (0, None)] {
        let change = WorkChange {
            leads,
            ..change.clone()
        };
        nodes[at].swarm.change_work(&change).unwrap_err();
        assert_eq!(work(0).items, []);
    }
    nodes[0].swarm.change_work(&change).unwrap();

    // Each reads what is its own, unless it asks for all.
    let tasks = |work: Work| -> Vec<(String, bool)> {
        let items = work.items.into_iter();
        let mut tasks: Vec<_> = items
            .map(|item| (item.task, item.report.is_some()))
            .collect();
        tasks.sort();
        tasks
    };
    let listed = |tasks: &[(&str, bool)]| -> Vec<(String, bool)> {
        let tasks = tasks.iter();
        tasks
            .map(|(task, reported)| ((*task).to_owned(), *reported))
            .collect()
    };
    assert_eq!(tasks(work(1)), listed(&[("t1", false)]));
    assert_eq!(work(1).leads, None);
    let all = [("t1", false), ("t2", false), ("t3", false)];
    assert_eq!(tasks(work(0)), listed(&all));
    assert_eq!(
        tasks(nodes[1].swarm.work(true).unwrap().unwrap()),
        listed(&all)
    );

    let report = |task: &str, value: Option<&str>| WorkChange {
        reports: vec![TaskReport {
            task: task.to_owned(),
            report: value.map(|text| text.into()),
        }],
        ..WorkChange::default()
    };
    nodes[1]
        .swarm
        .change_work(&report("t1", Some("runs")))
        .unwrap();
    assert_eq!(tasks(work(1)), listed(&[("t1", true)]));
    for name in ["", "a/b", "../x"] {
        let refused = nodes[1].swarm.change_work(&report(name, Some("x")));
        assert!(matches!(refused, Err(SwarmError::NoTask)), "{name}");
    }
    nodes[1].swarm.change_work(&report("t1", None)).unwrap();
    assert_eq!(tasks(work(1)), listed(&[("t1", false)]));

    // What a node has reported goes with it.
    nodes[2]
        .swarm
        .change_work(&report("t2", Some("runs")))
        .unwrap();
    nodes[0]
        .swarm
        .remove_node(other.node.as_str(), true)
        .unwrap();
    let all = [("t1", false), ("t2", false), ("t3", false)];
    assert_eq!(tasks(work(0)), listed(&all));
    let gone = WorkChange {
        orders: vec![
            order(Some(&other.node), "t2", None),
            order(None, "t3", None),
        ],
        ..change
    };
    nodes[0].swarm.change_work(&gone).unwrap();
    assert_eq!(tasks(work(0)), listed(&[("t1", false)]));
    drop(manager);
}
