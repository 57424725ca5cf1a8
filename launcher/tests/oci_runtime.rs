//! `hawser-shim` as an OCI runtime: by its command line, and under Debian's podman.
//!
//! Needs root, for namespaces; without it the tests fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_hawser-shim");

/// A bundle of busybox.
struct Bundle {
    base: tempfile::TempDir,
}

impl Bundle {
    fn new(script: &str) -> Self {
        let base = tempfile::Builder::new()
            .prefix("hawser-oci-test")
            .tempdir()
            .unwrap();
        let rootfs = base.path().join("bundle/rootfs");
        for dir in ["bin", "proc", "etc", "tmp", "dev", "sys", "run"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::copy("/usr/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "id", "echo", "cat", "ls"] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let spaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": "rootfs"},
            "hostname": "oci",
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": spaces},
            "annotations": {"org.example.a": "b"},
        });
        let path = base.path().join("bundle/config.json");
        fs::write(path, config.to_string()).unwrap();
        Self { base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(SHIM);
        command
            .arg(format!("--root={}", self.path("states").display()))
            .args(words.split_whitespace())
            .stdin(Stdio::null());
        command
    }

    fn say(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, words: &str) -> String {
        let output = self.say(words);
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, words: &str, part: &str) {
        let output = self.say(words);
        assert_eq!(output.status.code(), Some(1), "{words}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains(part) && text.trim().lines().count() == 1,
            "{text}"
        );
    }

    /// Makes `box`, whose output goes to a file.
    fn create(&self) {
        let out = || {
            fs::File::options()
                .append(true)
                .create(true)
                .open(self.path("out"))
        };
        let bundle = self.path("bundle").display().to_string();
        let pid = self.path("pid").display().to_string();
        let status = self
            .command(&format!("create --bundle {bundle} --pid-file {pid} box"))
            .stdout(out().unwrap())
            .stderr(out().unwrap())
            .status();
        assert!(status.unwrap().success(), "{}", self.output());
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.ok("state box")).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        drop(self.say("delete --force box"));
    }
}

#[track_caller]
fn soon(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_bundle_lives_as_the_specification_says() {
    let bundle = Bundle::new("echo ready; sleep 1000");
    bundle.create();
    let state = bundle.state();
    assert_eq!(
        (&state["status"], &state["id"]),
        (&json!("created"), &json!("box"))
    );
    assert_eq!(state["bundle"], json!(bundle.path("bundle")));
    assert_eq!(state["annotations"], json!({"org.example.a": "b"}));
    assert_eq!(bundle.output(), "", "nothing runs before its start");
    let pid = fs::read_to_string(bundle.path("pid")).unwrap();
    assert_eq!(state["pid"].to_string(), pid.trim());

    bundle.ok("start box");
    soon(|| bundle.output() == "ready\n");
    assert_eq!(bundle.state()["status"], "running");
    let ran = bundle.say("exec --env A=b --user 7:8 box sh -c id;exit");
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.starts_with("uid=7 gid=8"), "{said}");
    let coded = bundle.command("exec box sh -c").arg("exit 5").status();
    assert_eq!(coded.unwrap().code(), Some(5));
    bundle.refused("delete box", "not stopped");

    bundle.ok("kill box KILL");
    soon(|| bundle.state()["status"] == "stopped");
    bundle.refused("kill box TERM", "is not running");
    bundle.refused("exec box id", "is not running");
    bundle.ok("delete box");
    bundle.refused("state box", "does not exist");
    bundle.refused("delete box", "does not exist");
    bundle.ok("delete --force box");
}

#[test]
fn what_is_asked_wrongly_leaves_nothing() {
    let bundle = Bundle::new("true");
    let path = bundle.path("bundle").display().to_string();
    bundle.refused(
        &format!("create --bundle {path} ../box"),
        "invalid container id",
    );
    bundle.refused("create --bundle /nowhere box", "config.json");
    bundle.refused("--systemd-cgroup state box", "cgroupfs");
    let left = fs::read_dir(bundle.path("states"));
    assert_eq!(left.into_iter().flatten().count(), 0);
    let log = bundle.path("log");
    bundle.refused(
        &format!("--log {} --log-format json state box", log.display()),
        "exist",
    );
    let line: Value = serde_json::from_str(&fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    let features: Value = serde_json::from_str(&bundle.ok("features")).unwrap();
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
    assert!(bundle.ok("--version").starts_with("hawser-shim version "));
}

fn podman(bundle: &Bundle) -> impl Fn(&[&str]) -> Output {
    let config = bundle.path("containers.conf");
    let engine = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
    fs::write(&config, engine).unwrap();
    let dirs = ["root", "run", "tmp"].map(|name| bundle.path(&format!("podman/{name}")));
    move |words| {
        let at = |dir: &Path| dir.display().to_string();
        Command::new("podman")
            .env("CONTAINERS_CONF", &config)
            .args([
                "--runtime",
                SHIM,
                "--storage-driver",
                "vfs",
                "--log-level",
                "error",
            ])
            .args(["--root", &at(&dirs[0]), "--runroot", &at(&dirs[1])])
            .args(["--tmpdir", &at(&dirs[2])])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

#[test]
fn podman_runs_its_containers_with_it() {
    let bundle = Bundle::new("true");
    let podman = podman(&bundle);
    let rootfs = bundle.path("bundle/rootfs").display().to_string();
    let flags = ["run", "--network", "none", "--ulimit", "nofile=1024:1024"];
    let more = ["--ulimit", "nproc=1024:1024"];
    let run = |name: &[&str], command: &[&str]| {
        let words = [&flags[..], &more, name, &["--rootfs", &rootfs], command].concat();
        podman(&words)
    };
    let ended = run(&["--rm"], &["sh", "-c", "echo out; exit 3"]);
    assert_eq!(
        (ended.status.code(), &*ended.stdout),
        (Some(3), &b"out\n"[..]),
        "{ended:?}"
    );
    let started = run(&["-d", "--name", "web"], &["sleep", "1000"]);
    assert!(started.status.success(), "{started:?}");
    let inside = podman(&["exec", "web", "sh", "-c", "echo in; exit 4"]);
    assert_eq!(
        (inside.status.code(), &*inside.stdout),
        (Some(4), &b"in\n"[..]),
        "{inside:?}"
    );
    let state = podman(&["inspect", "-f", "{{.State.Status}} {{.OCIRuntime}}", "web"]);
    let state = String::from_utf8(state.stdout).unwrap();
    assert!(
        state.starts_with("running ") && state.trim().ends_with("hawser-shim"),
        "{state}"
    );
    let removed = podman(&["rm", "-f", "-t", "0", "web"]);
    assert!(removed.status.success(), "{removed:?}");
}
