//! A daemon made of directories and memory, and the real `hawser` and `hawser-shim` against it.
//!
//! It answers what the launcher asks of a daemon, over the real protocol; a root file system is a
//! directory with busybox in it. Needs root, for namespaces; without it the tests fail.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) const APPLETS: [&str; 13] = [
    "sh", "true", "false", "cat", "echo", "sleep", "touch", "ls", "wc", "sort", "head", "id", "tr",
];

/// What the daemon knows.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// By reference.
    pub(crate) images: BTreeMap<String, Value>,
    /// By name; each with its holders.
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// Ids of containers that have a root file system.
    pub(crate) rootfs: Vec<String>,
    /// `METHOD PATH` of every request.
    pub(crate) asked: Vec<String>,
    /// What was told.
    pub(crate) events: Vec<Value>,
    /// Diff ids of committed layers.
    pub(crate) layers: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Volume {
    pub(crate) holders: Vec<String>,
    pub(crate) labels: Value,
}

pub(crate) struct Host {
    base: tempfile::TempDir,
    pub(crate) world: Arc<Mutex<World>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Host {
    /// A host with the image `bb`, which has busybox and no command.
    pub(crate) fn new() -> Self {
        crate::older_support::pretend_if_asked();
        let base = tempfile::Builder::new()
            .prefix("hawser-cli-test")
            .tempdir()
            .unwrap();
        for dir in ["run", "plugins", "cni", "state"] {
            fs::create_dir(base.path().join(dir)).unwrap();
        }
        let plugin = base.path().join("cni/hawser");
        fs::write(&plugin, "#!/bin/sh\necho '{}'\n").unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        world.lock().unwrap().images.insert(
            "bb:latest".to_owned(),
            image(r#"{"config":{"Env":["FROM=image"]}}"#, &["bb:latest"]),
        );
        let host = Self { base, world };
        for socket in ["hawserd.sock", "plugins/hawser.sock"] {
            host.serve(socket);
        }
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn serve(&self, socket: &str) {
        let listener = UnixListener::bind(self.path(socket)).unwrap();
        let (world, base) = (Arc::clone(&self.world), self.base.path().to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (world, base) = (Arc::clone(&world), base.clone());
                // A client that hangs up is its own affair.
                thread::spawn(move || answer(&stream, &world, &base));
            }
        });
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
        let socket = self.path("hawserd.sock");
        command
            .args(arguments)
            .env("HAWSER_HOST", format!("unix://{}", socket.display()))
            .env("HAWSER_SHIM", env!("CARGO_BIN_EXE_hawser-shim"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn hawser(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    /// Runs with `input` on standard input.
    pub(crate) fn hawser_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        drop(writer.join());
        ran(output)
    }

    /// Runs a command line on a terminal of its own, by script(1). Each prompt is answered with the
    /// next keys.
    pub(crate) fn on_terminal(&self, line: &str, keys: &[&str]) -> Ran {
        let mut command = self.command(&[]);
        let line = format!("{} {line}", command.get_program().display());
        let environment: Vec<_> = command
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()))
            .collect();
        command = Command::new("timeout");
        let mut child = command
            .args(["60", "script", "-qec", &line, "/dev/null"])
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut stdout, mut keys, mut buffer) = (String::new(), keys.iter(), [0; 4096]);
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            stdout.push_str(&String::from_utf8_lossy(&buffer[..length]));
            // The shell asks the terminal for the cursor's position after its prompt.
            if stdout.trim_end_matches("\u{1b}[6n").ends_with("# ")
                && let Some(next) = keys.next()
            {
                stdin.write_all(next.as_bytes()).unwrap();
            }
        }
        Ran {
            code: child.wait().unwrap().code().unwrap_or(-1),
            stdout,
            stderr: String::new(),
        }
    }

    /// Runs, expects success, and returns standard output without its last line end.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.hawser(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs and expects this exit code and this part of standard error, one line of it.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str], code: i32, part: &str) {
        let ran = self.hawser(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        let last = ran.stderr.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains(part), "{arguments:?}: {ran:?}");
    }

    pub(crate) fn world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.lock().unwrap())
    }

    /// Names of everything below the state and run directories that belongs to a container.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in [
            "state/containers",
            "state/containers/names",
            "run/containers",
            "state/tmp",
        ] {
            for entry in fs::read_dir(self.path(dir)).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if name != "names" {
                    names.push(format!("{dir}/{name}"));
                }
            }
        }
        self.world(|world| names.extend(world.rootfs.iter().cloned()));
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let ids = self.hawser(&["ps", "-aq"]).stdout;
        for id in ids.lines() {
            drop(self.command(&["rm", "-f", "-v", id]).output());
        }
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn image(config: &str, tags: &[&str]) -> Value {
    json!({
        "id": digest(config.as_bytes()), "tags": tags, "config": config, "chain_id": null,
        "size": 1_500_000, "added": "2026-01-01T00:00:00Z",
    })
}

type Answer = (u16, Value);

fn answer(stream: &UnixStream, world: &Mutex<World>, base: &Path) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut words = request.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let body = read_body(&mut reader)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.replace("%3A", ":").replace("%2F", "/");
    let (status, reply) = {
        let mut world = world.lock().ok()?;
        world.asked.push(format!("{method} {path}"));
        route(&mut world, base, &method, &path, query, &body)
    };
    let reply = reply.to_string();
    write!(
        &*stream,
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{reply}",
        reply.len()
    )
    .ok()
}

fn read_body(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        chunked |= line == "transfer-encoding: chunked";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    Some(body)
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    (status, json!({ "code": code, "message": message }))
}

fn route(
    world: &mut World,
    base: &Path,
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
) -> Answer {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let segments: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    match (method, segments.as_slice()) {
        ("GET", ["info"]) => (200, info(base)),
        ("GET", ["endpoints"] | ["networks"]) | ("POST", ["endpoints", "rename"]) => {
            (200, json!([]))
        }
        ("POST", ["events"]) => {
            world.events.push(json);
            (204, Value::Null)
        }
        ("GET", ["images"]) => (200, world.images.values().cloned().collect()),
        ("GET", ["images", rest @ ..]) => find_image(world, &rest.join("/")),
        ("POST", ["images"]) => {
            let config = text("config");
            let tags: Vec<String> = serde_json::from_value(json["tags"].clone()).unwrap();
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let made = image(&config, &tags);
            for tag in tags {
                world.images.insert(tag.to_owned(), made.clone());
            }
            (201, made)
        }
        ("POST", ["layers"]) => post_layer(world, query, body),
        ("POST", ["rootfs"]) => {
            let container = text("container");
            make_rootfs(&base.join("state/rootfs").join(&container));
            world.rootfs.push(container.clone());
            (201, rootfs(base, &container))
        }
        ("GET", ["rootfs", container]) => (200, rootfs(base, container)),
        ("DELETE", ["rootfs", container]) => {
            world.rootfs.retain(|id| id != container);
            drop(fs::remove_dir_all(
                base.join("state/rootfs").join(container),
            ));
            (204, Value::Null)
        }
        ("POST", ["rootfs", container, "mount"]) => (
            200,
            json!({ "path": base.join("state/rootfs").join(container) }),
        ),
        ("POST", ["rootfs", container, "commit"]) => {
            let state = base.join("state/containers").join(container);
            let state: Value =
                serde_json::from_slice(&fs::read(state.join("state.json")).unwrap()).unwrap();
            world.asked.push(format!("paused {}", state["paused"]));
            let (chain, diff) = (digest(b"chain"), digest(b"diff"));
            let layer = json!({"chain_id": chain, "diff_id": diff, "parent": null, "size": 1});
            (200, layer)
        }
        ("POST", ["rootfs", _, "unmount"]) => (204, Value::Null),
        (_, ["volumes", ..]) => volumes(world, base, method, &segments[1..], &json),
        ("POST", ["", verb]) => plugin(world, base, verb, &json),
        _ => refusal(404, "not_found", &format!("no {path}")),
    }
}

fn info(base: &Path) -> Value {
    let at = |name: &str| base.join(name);
    let mut places = ["/usr/sbin/runc", "/usr/bin/runc"].into_iter();
    let runc = places
        .find(|path| Path::new(path).exists())
        .unwrap_or("/none");
    json!({
        "Runtimes": {"other": {"path": runc}}, "Name": "host", "ServerVersion": "0", "KernelVersion": "6", "OperatingSystem": "test",
        "StateDir": at("state"), "RunDir": at("run"), "PluginDir": at("plugins"),
        "CniBinDir": at("cni"), "Driver": "overlay2", "DriverStatus": [["Backing", "ext4"]],
        "Networks": 3, "Endpoints": 0, "Volumes": 0, "Images": 1, "DataPath": ["compat: a test"],
        "CgroupVersion": "2", "Warnings": [],
    })
}

fn find_image(world: &World, reference: &str) -> Answer {
    let tagged = format!("{reference}:latest");
    let found = world
        .images
        .iter()
        .find(|(name, image)| *name == reference || **name == tagged || image["id"] == reference);
    match found {
        Some((_, image)) => (200, image.clone()),
        None => refusal(404, "not_found", &format!("No such image: {reference}")),
    }
}

fn post_layer(world: &mut World, query: &str, body: &[u8]) -> Answer {
    let diff_id = digest(body);
    let wanted = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("diff_id="));
    if wanted.is_some_and(|wanted| wanted != diff_id) {
        return refusal(
            400,
            "invalid_input",
            "the layer is not what its diff id says",
        );
    }
    world.layers.push(diff_id.clone());
    let layer =
        json!({"chain_id": diff_id, "diff_id": diff_id, "parent": null, "size": body.len()});
    (201, layer)
}

fn rootfs(base: &Path, container: &str) -> Value {
    json!({
        "container": container, "image": digest(b""), "chain_id": null, "driver": "overlay2",
        "data": { "UpperDir": base.join("state/rootfs").join(container) },
    })
}

fn volume(base: &Path, name: &str, volume: &Volume) -> Value {
    json!({
        "CreatedAt": "2026-01-01T00:00:00Z", "Driver": "local", "Labels": volume.labels,
        "Mountpoint": base.join("state/volumes").join(name).join("_data"), "Name": name,
        "Options": {}, "Scope": "local", "holders": volume.holders,
    })
}

fn volumes(world: &mut World, base: &Path, method: &str, rest: &[&str], json: &Value) -> Answer {
    let missing = |name: &str| refusal(404, "not_found", &format!("get {name}: no such volume"));
    match (method, rest) {
        ("POST", ["create"]) => {
            let name = match json["Name"].as_str() {
                Some(name) if !name.is_empty() => name.to_owned(),
                _ => format!("{:064x}", world.asked.len()),
            };
            let made = world.volumes.entry(name.clone()).or_default();
            made.labels = json["Labels"].clone();
            fs::create_dir_all(base.join("state/volumes").join(&name).join("_data")).unwrap();
            (201, volume(base, &name, made))
        }
        ("POST", [_, "populate"]) => (204, Value::Null),
        ("GET", [name]) => match world.volumes.get(*name) {
            Some(found) => (200, volume(base, name, found)),
            None => missing(name),
        },
        ("DELETE", [name]) => match world.volumes.get(*name) {
            None => missing(name),
            Some(found) if !found.holders.is_empty() => {
                let holders = found.holders.join(", ");
                refusal(409, "in_use", &format!("volume is in use - [{holders}]"))
            }
            Some(_) => {
                world.volumes.remove(*name);
                (204, Value::Null)
            }
        },
        ("POST", [name, "users", user]) => {
            let holders = &mut world.volumes.get_mut(*name).unwrap().holders;
            // Told again whose control group is its.
            if !holders.iter().any(|holder| holder == user) {
                holders.push((*user).to_owned());
            }
            (204, Value::Null)
        }
        ("DELETE", [name, "users", user]) => {
            if let Some(volume) = world.volumes.get_mut(*name) {
                volume.holders.retain(|holder| holder != user);
            }
            (204, Value::Null)
        }
        _ => refusal(404, "not_found", "no such route"),
    }
}

fn plugin(world: &mut World, base: &Path, verb: &str, json: &Value) -> Answer {
    let name = json["Name"].as_str().unwrap_or_default();
    let path = base.join("state/volumes").join(name).join("_data");
    match verb {
        "VolumeDriver.Remove" => {
            world.volumes.remove(name);
            (200, json!({ "Err": "" }))
        }
        _ => (200, json!({ "Err": "", "Mountpoint": path })),
    }
}

fn make_rootfs(rootfs: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    fs::copy(busybox, rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(rootfs.join("etc/group"), "root:x:0:\n").unwrap();
}

/// Polls until it is so.
#[track_caller]
pub(crate) fn soon(mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "not within 20 s");
        thread::sleep(std::time::Duration::from_millis(20));
    }
}
