//! `hawser-shim` as an OCI runtime: by its command line, and under Debian's podman.
//!
//! Needs root, for namespaces; without it the tests fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod oci_mounts;
mod older_support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const SHIM: &str = env!("CARGO_BIN_EXE_hawser-shim");

/// Who root is on the host in a container with a user namespace.
const FIRST_ID: u32 = 700_000;

/// A bundle of busybox.
struct Bundle {
    base: tempfile::TempDir,
    /// As on a host whose control groups are of version 2 alone.
    is_unified: bool,
}

impl Bundle {
    fn new(script: &str) -> Self {
        older_support::pretend_if_asked();
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
        let group = format!("/{}", base.path().file_name().unwrap().display());
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
            // Others' are ended by whoever ends all in a group.
            "linux": {"namespaces": spaces, "cgroupsPath": group},
            "annotations": {"org.example.a": "b"},
        });
        let path = base.path().join("bundle/config.json");
        fs::write(path, config.to_string()).unwrap();
        Self {
            base,
            is_unified: false,
        }
    }

    /// The same with a user namespace, whose root has what is in the bundle.
    fn with_users(script: &str) -> Self {
        let bundle = Self::new(script);
        let path = bundle.path("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;

        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let few = json!(["CAP_KILL"]);
        config["process"]["capabilities"] = json!({
            "bounding": few, "effective": few, "permitted": few,
        });
        fs::write(&path, config.to_string()).unwrap();
        bundle.give_to_users();
        bundle
    }

    /// The container's root walks to its root file system and makes what is missing in it.
    fn give_to_users(&self) {
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(self.base.path(), open).unwrap();
        let mut pending = vec![self.path("bundle/rootfs")];
        while let Some(path) = pending.pop() {
            lchown(&path, Some(FIRST_ID), Some(FIRST_ID)).unwrap();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                pending.extend(entries.map(|entry| entry.unwrap().path()));
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = if self.is_unified {
            let mount = "cd /sys/fs/cgroup && test -e cgroup.controllers || \
                         mount -t cgroup2 none /sys/fs/cgroup; cd /; exec \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", mount, "sh", SHIM]);
            command
        } else {
            Command::new(SHIM)
        };
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
fn a_process_joins_the_user_namespace_of_its_bundle() {
    let bundle = Bundle::with_users("echo ready; sleep 1000");
    bundle.create();
    bundle.ok("start box");
    soon(|| bundle.output() == "ready\n");
    let inside = |flags: &str, script: &str| {
        let mut command = bundle.command(&format!("exec {flags} box sh -c"));
        let ran = command.arg(script).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let map = inside("", "cat /proc/self/uid_map; id -u");
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "700000", "65536", "0"]);
    assert!(inside("--user 7:8", "id").starts_with("uid=7 gid=8"));
    // It may as much as the container's own process, and has come through the same filter.
    let status = inside("", "cat /proc/self/status");
    let says = |line: &str| status.lines().any(|found| found == line);
    assert!(
        says("CapBnd:\t0000000000000020") && says("Seccomp:\t2"),
        "{status}"
    );
    // On the host it is as little as the container itself.
    let mut sleeper = bundle
        .command("exec --pid-file")
        .arg(bundle.path("sleeper"))
        .args(["--user", "7", "box", "sleep", "1000"])
        .spawn()
        .unwrap();
    let status = || {
        let pid = fs::read_to_string(bundle.path("sleeper")).ok()?;
        fs::read_to_string(format!("/proc/{pid}/status")).ok()
    };
    soon(|| status().is_some_and(|text| text.contains("Uid:\t700007\t700007\t")));
    bundle.ok("kill box KILL");
    assert_eq!(sleeper.wait().unwrap().code(), Some(137));
    soon(|| bundle.state()["status"] == "stopped");
    bundle.refused("exec --user 70000 box id", "is not running");
    // Those of other stories go as soon as their containers are made.
    soon(|| {
        let mut stages = fs::read_dir("/run/hawser/stages").unwrap();
        !stages.any(|entry| {
            let name = entry.unwrap().file_name();
            name.to_string_lossy().starts_with("box.")
        })
    });
}

#[test]
fn a_bundle_is_held_to_its_devices_on_version_2_of_control_groups_too() {
    // The kernel's log: its node is made in the container, which may read it and no more.
    let script = "busybox mknod /tmp/log c 1 11; true < /tmp/log && echo read; \
                  true > /tmp/log || echo refused; sleep 1000";
    let mut bundle = Bundle::new(script);
    bundle.is_unified = true;
    let path = bundle.path("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["linux"]["resources"] = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
    ]});
    fs::write(&path, config.to_string()).unwrap();
    bundle.create();
    bundle.ok("start box");
    soon(|| bundle.output().contains("refused"));
    let said = bundle.output();
    assert!(said.contains("read\n"), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    bundle.ok("kill box KILL");
    soon(|| bundle.state()["status"] == "stopped");
    bundle.ok("delete box");
}

/// Where a file of the container's control groups is: in a hierarchy, or in the one of version 2.
fn limit_of(pid: &str, controller: &str, file: &str) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |name: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let is_it = fields.next()?.split(',').any(|listed| listed == name);
            fields.next().filter(|_| is_it)
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    match path(controller) {
        Some(path) => root.join(controller).join(&path[1..]).join(file),
        None => root.join(&path("").unwrap()[1..]).join(file),
    }
}

#[test]
fn limits_of_a_container_that_runs_are_changed() {
    let bundle = Bundle::new("sleep 1000");
    bundle.create();
    bundle.ok("start box");
    let pid = fs::read_to_string(bundle.path("pid")).unwrap();
    let processes = || {
        let text = fs::read_to_string(limit_of(pid.trim(), "pids", "pids.max")).unwrap();
        text.trim().to_owned()
    };
    assert_eq!(processes(), "max");
    let file = bundle.path("limits");
    fs::write(&file, r#"{"pids": {"limit": 41}, "cpu": {}}"#).unwrap();
    bundle.ok(&format!("update --resources {} box", file.display()));
    assert_eq!(processes(), "41");
    let mut piped = bundle.command("update --resources - box");
    let mut piped = piped.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = piped.stdin.take().unwrap();
    stdin.write_all(b"{\"memory\": {}}").unwrap();
    drop(stdin);
    assert!(piped.wait().unwrap().success());
    assert_eq!(processes(), "41", "what is not listed stays");
    bundle.ok("update --pids-limit 42 box");
    assert_eq!(processes(), "42");
    fs::write(&file, "{").unwrap();
    bundle.refused(&format!("update -r {} box", file.display()), "understand");
    bundle.refused("update --cpuset-cpus 4000 box", "cpuset-cpus");
    bundle.ok("kill box KILL");
    soon(|| bundle.state()["status"] == "stopped");
    bundle.refused("update --pids-limit 43 box", "is not running");
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
    if !Path::new("/run/systemd/system").exists() {
        let create = format!("--systemd-cgroup create --bundle {path} box");
        bundle.refused(
            &create,
            "systemd does not run this host; use the manager cgroupfs",
        );
    }
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
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
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
    // A terminal, for the container and for a command in it.
    let typed = run(
        &["--rm", "-t"],
        &["sh", "-c", "test -t 0 && echo $((6 * 7))"],
    );
    assert_eq!(
        (typed.status.code(), &*typed.stdout),
        (Some(0), &b"42\r\n"[..]),
        "{typed:?}"
    );
    let typed = podman(&[
        "exec",
        "-t",
        "web",
        "sh",
        "-c",
        "test -t 1 && echo in; exit 6",
    ]);
    assert_eq!(
        (typed.status.code(), &*typed.stdout),
        (Some(6), &b"in\r\n"[..]),
        "{typed:?}"
    );
    let removed = podman(&["rm", "-f", "-t", "0", "web"]);
    assert!(removed.status.success(), "{removed:?}");
}

#[test]
fn podman_runs_containers_with_users_of_their_own_with_it() {
    let bundle = Bundle::new("true");
    bundle.give_to_users();
    let podman = podman(&bundle);
    let rootfs = bundle.path("bundle/rootfs").display().to_string();
    // Neither the container's root nor anybody else may walk there.
    let closed = bundle.path("closed");
    fs::create_dir_all(closed.join("data")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(closed.join("data/said"), "below\n").unwrap();
    let volume = format!("{}/data:/tmp", closed.display());
    let map = format!("0:{FIRST_ID}:65536");
    let flags = ["--network", "none", "--uidmap", &map, "-v", &volume];
    let more = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        "--name",
        "users",
        "--rootfs",
        &rootfs,
        "sleep",
        "1000",
    ];
    let started = podman(&[&["run", "-d"], &flags[..], &more].concat());
    assert!(started.status.success(), "{started:?}");
    let script = "cat /proc/self/uid_map /tmp/said /etc/hostname";
    let inside = podman(&["exec", "users", "sh", "-c", script]);
    let said = String::from_utf8(inside.stdout).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..4], ["0", "700000", "65536", "below"], "{said}");
    assert_eq!(words.len(), 5, "{said}");
    let changed = podman(&["update", "--memory", "64m", "users"]);
    assert!(changed.status.success(), "{changed:?}");
    let pid = podman(&["inspect", "-f", "{{.State.Pid}}", "users"]).stdout;
    let pid = String::from_utf8(pid).unwrap();
    let files = ["memory.limit_in_bytes", "memory.max"];
    let mut paths = files
        .map(|file| limit_of(pid.trim(), "memory", file))
        .into_iter();
    let limit = paths
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap();
    assert_eq!(limit.trim(), "67108864");
    let removed = podman(&["rm", "-f", "-t", "0", "users"]);
    assert!(removed.status.success(), "{removed:?}");
}
