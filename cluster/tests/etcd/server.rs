//! etcd as Debian has it, on loopback.

use std::env;
use std::fmt::Display;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Etcd, EtcdOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One etcd with a directory of its own; it ends with the test.
pub(crate) struct Server {
    child: Child,
    directory: TempDir,
    ports: [u16; 2],
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port()];
        let child = spawn(directory.path(), ports);
        Self {
            child,
            directory,
            ports,
        }
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.directory.path(), self.ports);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub(crate) fn connect(&self, runtime: &Runtime) -> Etcd {
        let options = EtcdOptions {
            endpoints: vec![self.url()],
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

pub(crate) fn free_port() -> u16 {
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
pub(crate) fn answer<T, E: Display>(ask: impl Fn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
