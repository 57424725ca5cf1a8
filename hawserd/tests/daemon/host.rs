//! A host of one test: network and mount namespaces of its own, and the daemon in them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use api::Client;
use rustix::process::{Pid, Signal, kill_process};
use sys::netns::NetNs;

/// How long anything may take that should be quick.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Host {
    directory: tempfile::TempDir,
    /// Left alive by a failed test, the daemon must not outlive it.
    daemon: Option<Child>,
}

impl Host {
    /// Moves the test's thread, and what it starts, into fresh namespaces.
    pub(crate) fn new() -> Self {
        let fresh = NetNs::create().expect("network namespaces need root");
        fresh.enter().unwrap();
        sys::mount::enter_private_namespace().unwrap();
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        Self {
            directory: tempfile::tempdir().unwrap(),
            daemon: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        self.path("run/hawserd.sock")
    }

    pub(crate) fn plugin_socket(&self) -> PathBuf {
        self.path("plugins/hawser.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.api_socket()).with_timeout(PATIENCE)
    }

    /// The daemon with directories of this test.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawserd"));
        for name in ["state", "run", "plugins"] {
            let flag = if name == "plugins" { "plugin" } else { name };
            command.arg(format!("--{flag}-dir")).arg(self.path(name));
        }
        command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the daemon to its end, which must come by itself.
    pub(crate) fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().unwrap()
    }

    /// Starts the daemon and waits until it answers. Its log goes to the file `log`.
    pub(crate) fn start(&mut self, flags: &[&str]) {
        self.start_with(self.command(flags));
    }

    pub(crate) fn start_with(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        self.daemon = Some(command.stderr(log).spawn().unwrap());
        let daemon = self.client();
        self.wait_for("an answer", || daemon.get_text(api::path::PING).is_ok());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "no {what}; the log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for the daemon's end and returns whether it was a good one.
    pub(crate) fn ended_well(&mut self) -> bool {
        self.daemon.take().unwrap().wait().unwrap().success()
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert!(!self.ended_well());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        // Pins are on the host's bpffs and do not go away with the namespaces.
        let uninstalled = self.run(&["--uninstall"]);
        if !uninstalled.status.success() && !std::thread::panicking() {
            panic!("{}", String::from_utf8_lossy(&uninstalled.stderr));
        }
    }
}

/// Sends a request, of which `head` is method and target, and returns head and body of the reply.
/// For what the client of this project would not send.
pub(crate) fn exchange(socket: &Path, head: &str, body: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
