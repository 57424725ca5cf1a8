//! etcd as a control plane: Debian's, on loopback.

#[cfg(test)]
#[path = "../src/conformance.rs"]
mod conformance;

#[cfg(test)]
mod tests {
    use std::env;
    use std::net::TcpListener;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use cluster::{
        Change, ControlError, ControlPlane, Etcd, EtcdOptions, Outcome, Transaction, Watch,
    };
    use tempfile::TempDir;
    use tokio::runtime::Runtime;

    use crate::conformance;

    const LEASE: Duration = Duration::from_secs(3);
    const SOON: Duration = Duration::from_secs(20);

    /// One etcd with a directory of its own; it ends with the test.
    struct Server {
        child: Child,
        directory: TempDir,
        ports: [u16; 2],
    }

    impl Server {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let ports = [free_port(), free_port()];
            let child = spawn(directory.path(), ports);
            Self {
                child,
                directory,
                ports,
            }
        }

        fn stop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }

        fn start_again(&mut self) {
            self.child = spawn(self.directory.path(), self.ports);
        }

        fn connect(&self, runtime: &Runtime) -> Etcd {
            let options = EtcdOptions {
                endpoints: vec![format!("http://127.0.0.1:{}", self.ports[0])],
                prefix: "/hawser/".to_owned(),
                tls: None,
                lease: LEASE,
            };
            Etcd::connect(options, runtime.handle().clone()).unwrap()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // It may have been stopped.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    fn spawn(data: &Path, [client, peer]: [u16; 2]) -> Child {
        let peers = env::var_os("HAWSER_PEERS").expect("HAWSER_PEERS: run this by cargo xtask");
        let etcd = Path::new(&peers).join("usr/bin/etcd");
        let client = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        Command::new(etcd)
            .args(["--name", "one", "--data-dir"])
            .arg(data)
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .args([
                "--logger",
                "zap",
                "--log-level",
                "error",
                "--unsafe-no-fsync",
            ])
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Asks until there is an answer.
    fn answer<T>(ask: impl Fn() -> Result<T, ControlError>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            match ask() {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn news(watch: &mut dyn Watch) -> Change {
        let changes = watch.next(SOON).unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        changes.into_iter().next().unwrap()
    }

    fn put(key: &str, value: &str) -> Transaction {
        Transaction::default().put(key, value)
    }

    #[test]
    fn it_is_a_control_plane() {
        let runtime = Runtime::new().unwrap();
        let server = Server::start();
        let [one, other] = [server.connect(&runtime), server.connect(&runtime)];
        answer(|| one.snapshot(""));
        conformance::check(&one, &other);
    }

    #[test]
    fn a_node_that_is_silent_loses_what_it_leased() {
        let runtime = Runtime::new().unwrap();
        let server = Server::start();
        let [node, other] = [server.connect(&runtime), server.connect(&runtime)];
        let leased = Transaction::default()
            .put_leased("alive/n", "1")
            .put("nodes/n", "1");
        answer(|| node.commit(&leased));
        let revision = other.snapshot("").unwrap().revision;
        let mut watch = other.watch("", revision).unwrap();
        // As long as it lives, it keeps its lease.
        assert!(watch.next(2 * LEASE).unwrap().is_empty());
        drop(node);
        let gone = news(&mut *watch);
        assert_eq!((gone.key.as_str(), gone.value), ("alive/n", None));
        let left = other.snapshot("").unwrap();
        assert_eq!(left.entries.keys().collect::<Vec<_>>(), ["nodes/n"]);
    }

    #[test]
    fn a_node_that_leaves_is_gone_at_once() {
        let runtime = Runtime::new().unwrap();
        let server = Server::start();
        let [node, other] = [server.connect(&runtime), server.connect(&runtime)];
        answer(|| node.commit(&Transaction::default().put_leased("alive/n", "1")));
        node.give_back();
        assert!(other.snapshot("").unwrap().entries.is_empty());
    }

    #[test]
    fn leases_that_were_lost_come_back_and_watches_go_on() {
        let runtime = Runtime::new().unwrap();
        let mut server = Server::start();
        let node = server.connect(&runtime);
        answer(|| node.commit(&Transaction::default().put_leased("alive/n", "1")));
        let before = node.snapshot("").unwrap();
        let mut watch = node.watch("", before.revision).unwrap();
        server.stop();
        let ended = loop {
            match watch.next(SOON) {
                Ok(none) => assert!(none.is_empty()),
                Err(error) => break error,
            }
        };
        assert!(matches!(ended, ControlError::Unreachable(_)), "{ended}");
        let refused = node.commit(&put("a", "1")).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("the control plane does not answer")
        );

        // Whatever it loses with its memory, the entry is or comes again.
        server.start_again();
        answer(|| node.commit(&put("a", "2")));
        let mut watch = answer(|| node.watch("", before.revision));
        let seen = watch.next(SOON).unwrap();
        assert!(seen.iter().any(|change| change.key == "a"), "{seen:?}");
        // A lease that nobody keeps would be over by then.
        let mut later = node
            .watch("alive/", node.snapshot("").unwrap().revision)
            .unwrap();
        assert!(later.next(3 * LEASE).unwrap().is_empty());
        assert_eq!(node.snapshot("alive/").unwrap().entries.len(), 1);
    }

    #[test]
    fn snapshots_longer_than_a_message_are_whole() {
        let runtime = Runtime::new().unwrap();
        let server = Server::start();
        let node = server.connect(&runtime);
        answer(|| node.snapshot(""));
        let text = "x".repeat(4000);
        for number in 0..25 {
            let many = (0..100).fold(Transaction::default(), |all, at| {
                all.put(format!("k/{number:02}-{at:02}"), text.as_str())
            });
            let made = node.commit(&many).unwrap();
            assert!(matches!(made, Outcome::Committed(_)));
        }
        node.commit(&put("l", "1")).unwrap();
        let all = node.snapshot("k/").unwrap();
        assert_eq!(all.entries.len(), 2500);
        assert!(all.entries.values().all(|entry| entry.value == text));
    }
    #[test]
    fn history_that_is_compacted_is_said_to_be() {
        let runtime = Runtime::new().unwrap();
        let server = Server::start();
        let node = server.connect(&runtime);
        answer(|| node.commit(&put("a", "1")));
        let Outcome::Committed(last) = node.commit(&put("a", "2")).unwrap() else {
            panic!("nothing was compared");
        };
        let url = format!("http://127.0.0.1:{}", server.ports[0]);
        runtime.block_on(async {
            let mut client = etcd_client::Client::connect([url], None).await.unwrap();
            let revision = i64::try_from(last).unwrap();
            client.compact(revision, None).await.unwrap();
        });
        let mut watch = node.watch("", 1).unwrap();
        let told = watch.next(SOON).unwrap_err();
        assert!(matches!(told, ControlError::Compacted(1)), "{told}");
    }
}
