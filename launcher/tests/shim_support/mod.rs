//! A container of busybox in a directory of its own, with a daemon that only hands out its root.
//!
//! Needs root, for namespaces; without it the tests fail.

#![allow(dead_code, reason = "each test program uses its own part")]
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use api::id::{ContainerName, Digest, Id};
use launcher::container::{Config, HostConfig, Record, State, Status};
use launcher::log::Format;
use launcher::shim::launch::{self, Exec, LaunchError, Places};
use launcher::store::{ContainerDir, Durability, Store, is_alive};
use launcher::stream::{Connection, Control, Kind};

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_hawser-shim");
/// Longer than anything takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    base: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) dir: ContainerDir,
    pub(crate) record: Record,
    pub(crate) places: Places,
    /// `METHOD PATH` of every request the daemon got.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

/// What a client saw of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Option<i32>,
}

impl Fixture {
    /// A container that runs `command`, changed by `change` before it is written.
    pub(crate) fn new(command: &[&str], change: impl FnOnce(&mut Record)) -> Self {
        crate::older_support::pretend_if_asked();
        let base = tempfile::Builder::new()
            .prefix("hawser-shim-test")
            .tempdir()
            .unwrap();
        let at = |name: &str| base.path().join(name);
        let rootfs = at("rootfs");
        make_rootfs(&rootfs);
        for dir in ["run", "plugins", "cni", "state"] {
            fs::create_dir(at(dir)).unwrap();
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        let mut record = Record {
            schema: 1,
            id: Id::from_bytes(bytes),
            name: ContainerName::parse("web").unwrap(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            image: "busybox".to_owned(),
            image_id: Digest::from_sha256([1; 32]),
            config: Config {
                cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
                ..Config::default()
            },
            host_config: HostConfig {
                network_mode: "none".to_owned(),
                ..HostConfig::default()
            },
            driver: String::new(),
            mounts: Vec::new(),
            networks: Vec::new(),
            links: Vec::new(),
            id_maps: None,
            runtime_program: None,
        };
        change(&mut record);
        let store = Store::open(&at("state")).unwrap();
        store.reserve_name(&record.name, &record.id).unwrap();
        let dir = store.create(&record).unwrap();
        let places = Places {
            container_dir: dir.path().to_owned(),
            run_dir: at("run"),
            socket: at("hawserd.sock"),
            plugin_dir: at("plugins"),
            cni_bin_dir: at("cni"),
        };
        let asked = serve(&places.socket, &rootfs);
        Self {
            base,
            store,
            dir,
            record,
            places,
            asked,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Another container beside this one, with the same daemon and root.
    pub(crate) fn sibling(
        &self,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut Record),
    ) -> Record {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        let mut record = self.record.clone();
        record.id = Id::from_bytes(bytes);
        record.name = ContainerName::parse(name).unwrap();
        record.config.cmd = Some(command.iter().map(|word| (*word).to_owned()).collect());
        change(&mut record);
        self.store.reserve_name(&record.name, &record.id).unwrap();
        self.store.create(&record).unwrap();
        record
    }

    /// Starts the container and lets it run.
    pub(crate) fn start(&self) -> Result<u32, LaunchError> {
        self.start_at(&self.places)
    }

    pub(crate) fn start_at(&self, places: &Places) -> Result<u32, LaunchError> {
        launch::start(Path::new(SHIM), places, false)?.finish()
    }

    /// Runs the container attached, with `input` on its stdin, until its end.
    pub(crate) fn run(&self, input: Option<&str>) -> Seen {
        let starting = launch::start(Path::new(SHIM), &self.places, true).unwrap();
        let mut connection = Connection::open(starting.socket()).unwrap();
        let stdin = input.is_some();
        connection
            .send(&Control::Attach {
                stdin,
                stdout: true,
                stderr: true,
            })
            .unwrap();
        connection.send(&Control::Start).unwrap();
        starting.finish().unwrap();
        if let Some(input) = input {
            connection.send_stdin(input.as_bytes()).unwrap();
            connection.send_stdin(b"").unwrap();
        }
        watch(&mut connection)
    }

    pub(crate) fn connect(&self) -> Connection {
        let socket = launcher::stream::socket_path(&self.places.run_dir, &self.record.id);
        Connection::open(&socket).unwrap()
    }

    /// Waits for the end and returns the last state.
    pub(crate) fn wait(&self) -> State {
        eventually("the container to exit", || {
            let state = self.dir.state().unwrap();
            (state.status == Status::Exited).then_some(state)
        })
    }

    pub(crate) fn exec(&self, exec: &Exec) -> Output {
        exec.command(Path::new(SHIM), &self.places)
            .output()
            .unwrap()
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let output = self.exec(&Exec {
            command,
            ..Exec::default()
        });
        format!(
            "{}{}",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap()
        )
    }

    /// `(stream, text)` of the log's entries.
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        fs::read_to_string(self.dir.log_path(Format::Json))
            .unwrap()
            .lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| entry[key].as_str().unwrap().to_owned();
                (text("stream"), text("log"))
            })
            .collect()
    }

    pub(crate) fn clean(&self) -> Output {
        let places = &self.places;
        Command::new(SHIM)
            .arg("clean")
            .args(["--container-dir".as_ref(), places.container_dir.as_os_str()])
            .args(["--run-dir".as_ref(), places.run_dir.as_os_str()])
            .args(["--host".as_ref(), places.socket.as_os_str()])
            .args(["--plugin-dir".as_ref(), places.plugin_dir.as_os_str()])
            .args(["--cni-bin".as_ref(), places.cni_bin_dir.as_os_str()])
            .output()
            .unwrap()
    }

    /// Cgroups of the container, in any hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(
            fs::read_dir("/sys/fs/cgroup")
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        let cgroup = Path::new("hawser").join(self.record.id.as_str());
        roots
            .iter()
            .map(|root| root.join(&cgroup))
            .filter(|path| path.exists())
            .collect()
    }

    pub(crate) fn asked_for(&self, request: &str) -> bool {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.starts_with(request))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for id in self.store.list().unwrap_or_default() {
            let state = self.store.container(&id).state().unwrap_or_default();
            for process in [state.shim, state.init].into_iter().flatten() {
                if is_alive(process) {
                    drop(
                        Command::new("kill")
                            .args(["-9", &process.pid.to_string()])
                            .status(),
                    );
                    eventually("a killed process", || (!is_alive(process)).then_some(()));
                }
            }
        }
        drop(self.clean());
    }
}

/// Polls until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited too long for {what}");
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Collects output until the shim says that the container has ended.
pub(crate) fn watch(connection: &mut Connection) -> Seen {
    let mut seen = Seen::default();
    while let Some(frame) = connection.receive().unwrap() {
        let text = || String::from_utf8_lossy(&frame.payload).into_owned();
        match frame.kind {
            Kind::Stdout => seen.stdout.push_str(&text()),
            Kind::Stderr => seen.stderr.push_str(&text()),
            Kind::Control => {
                if let Control::Exit { code } = frame.control().unwrap() {
                    seen.exit = Some(code);
                }
            }
            Kind::Stdin => panic!("a shim sends no input"),
        }
    }
    seen
}

pub(crate) fn write_record(fixture: &Fixture, record: &Record) {
    fixture
        .dir
        .write_record(record, Durability::Volatile)
        .unwrap();
}

fn make_rootfs(rootfs: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    fs::copy("/usr/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    let list = Command::new("/usr/bin/busybox")
        .arg("--list")
        .output()
        .unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines() {
        if name != "busybox" {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
    }
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/srv:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        rootfs.join("etc/group"),
        "root:x:0:\nwww:x:33:\nextra:x:50:www\n",
    )
    .unwrap();
}

/// Answers like the daemon, as far as the shim asks. Ends with the test's process.
fn serve(socket: &Path, rootfs: &Path) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (log, rootfs) = (Arc::clone(&asked), rootfs.to_owned());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let request = read_request(&stream);
            // It can hand over nothing, whatever the query says.
            let request = match request.split_once("?hand_to=") {
                Some((route, _socket)) => route.to_owned(),
                None => request,
            };
            let body = if request.starts_with("POST /v1/rootfs/") && request.ends_with("/mount") {
                serde_json::json!({ "path": rootfs }).to_string()
            } else if request.starts_with("GET /v1/endpoints") {
                "[]".to_owned()
            } else if let Some(rest) = request.strip_prefix("GET /v1/networks/") {
                network(rest.split_whitespace().next().unwrap_or_default())
            } else {
                "null".to_owned()
            };
            log.lock().unwrap().push(request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            drop((&stream).write_all(format!("{head}{body}").as_bytes()));
        }
    });
    asked
}

fn network(name: &str) -> String {
    serde_json::json!({
        "Name": name, "Id": "ab".repeat(32), "Created": "2026-01-02T03:04:05.000000000Z",
        "Scope": "local", "Driver": "bridge", "EnableIPv6": false, "IPAM": {},
        "Internal": false, "Attachable": false, "Ingress": false,
        "ConfigFrom": {"Network": ""}, "ConfigOnly": false, "Containers": {}, "Options": {},
        "Labels": {},
    })
    .to_string()
}

fn read_request(stream: &UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" || line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    first
        .trim()
        .strip_suffix(" HTTP/1.1")
        .unwrap_or(&first)
        .to_owned()
}
