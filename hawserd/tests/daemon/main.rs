//! The real daemon on a host of its own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod host;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use api::daemon::Info;
use api::net::{AttachRequest, Attachment, Network, NetworkCreated};
use api::storage::{Layer, Volume};
use api::volume_plugin::{Reply, Request};
use api::{Client, ErrorCode, path};
use host::{Host, exchange};
use rustix::process::Signal;
use serde_json::{Value, json};
use sys::netns::NetNs;

fn create_volume(host: &Host, name: &str) {
    let request = json!({"Name": name});
    host.client()
        .post::<Volume>(path::VOLUMES_CREATE, &request)
        .unwrap();
}

/// A tar stream of one file with `size` zeros, written by hand (POSIX.1-2017, pax, "ustar").
fn tar_of_zeros(size: usize) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..5].copy_from_slice(b"zeros");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..124].copy_from_slice(b"0000000\x000000000\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    // The content, padded to whole blocks, and two blocks of zeros that end the archive.
    tar.resize(512 + size.next_multiple_of(512) + 1024, 0);
    tar
}

#[test]
fn every_refusal_is_an_error_object() {
    let mut host = Host::new();
    host.start(&[]);
    let socket = host.api_socket();
    let get = |target: &str| exchange(&socket, &format!("GET {target}"), "");
    let post = |target: &str, body: &str| exchange(&socket, &format!("POST {target}"), body);
    let cases = [
        (
            get("/v1/nothing"),
            404,
            "not_found",
            "no such route: GET /v1/nothing",
        ),
        (
            post("/v1/volumes", ""),
            400,
            "invalid_input",
            "/v1/volumes does not take POST",
        ),
        (
            get("/v1/volumes/data"),
            404,
            "not_found",
            "no such volume: data",
        ),
        (
            post("/v1/volumes/create", "{\"Name\": 7}"),
            400,
            "invalid_input",
            "request body: invalid type: integer `7`, expected a string at line 1 column 10",
        ),
        (
            post("/v1/endpoints", ""),
            400,
            "invalid_input",
            "request body: invalid type: null, expected struct AttachRequest at line 1 column 4",
        ),
        (
            get("/v1/endpoints/c1/a%2Fb"),
            400,
            "invalid_input",
            "invalid interface name \"a/b\": 1 to 15 bytes, no '/', ':' or white space, \
             not '.' or '..'",
        ),
    ];
    for ((status, body), expected_status, code, message) in cases {
        assert!(
            status.starts_with(&format!("HTTP/1.1 {expected_status} ")),
            "{status}"
        );
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body, json!({"code": code, "message": message}));
    }
}

#[test]
fn only_layers_may_be_long() {
    let mut host = Host::new();
    host.start(&[]);
    let long = 9 << 20;
    let request = json!({"Name": "x".repeat(long)});
    let error = host
        .client()
        .post::<Volume>(path::VOLUMES_CREATE, &request)
        .unwrap_err();
    assert_eq!(
        error.api().unwrap().code,
        ErrorCode::InvalidInput,
        "{error}"
    );
    let tar = tar_of_zeros(long);
    let layer: Layer = host
        .client()
        .post_stream(path::LAYERS, &mut tar.as_slice())
        .unwrap();
    assert_eq!(layer.size, long as u64);
}

/// Gives `text`, then fails: a client that goes away in the middle.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("gone")),
            read => Ok(read),
        }
    }
}

#[test]
fn a_client_that_goes_away_commits_nothing() {
    let mut host = Host::new();
    host.start(&[]);
    let tar = tar_of_zeros(1 << 20);
    // All of the archive has arrived, but not the end of the request.
    for sent in [&tar[..tar.len() / 2], &tar] {
        let sent = host
            .client()
            .post_stream::<Layer>(path::LAYERS, &mut Broken(sent));
        assert!(sent.is_err(), "{sent:?}");
    }
    let metric = "hawser_layer_imports_total{result=\"failed\"} 2";
    host.wait_for("failed imports", || {
        host.client()
            .get_text(path::METRICS)
            .unwrap()
            .contains(metric)
    });
    assert_eq!(host.client().get::<Vec<Layer>>(path::LAYERS).unwrap(), []);
}

#[test]
fn sigterm_lets_requests_finish_and_takes_the_sockets_away() {
    let mut host = Host::new();
    host.start(&[]);
    // Far more than fits into pipes and sockets: when half of it is written, it is being unpacked.
    let tar = tar_of_zeros(8 << 20);
    let (reader, mut writer) = io::pipe().unwrap();
    let client = host.client();
    let upload = thread::spawn(move || {
        let mut reader = reader;
        client.post_stream::<Layer>(path::LAYERS, &mut reader)
    });
    let (first, rest) = tar.split_at(tar.len() / 2);
    writer.write_all(first).unwrap();
    host.signal(Signal::TERM);
    host.wait_for("refused connection", || {
        UnixStream::connect(host.api_socket()).is_err()
    });
    // The upload's own error says more than that of the pipe to it.
    let written = writer.write_all(rest);
    drop(writer);
    upload.join().unwrap().unwrap();
    written.unwrap();
    assert!(host.ended_well());
    assert!(!host.api_socket().exists());
    assert!(!host.plugin_socket().exists());
}

#[test]
fn a_killed_daemon_comes_back_with_everything() {
    let mut host = Host::new();
    host.start(&[]);
    let daemon = host.client();
    create_volume(&host, "data");
    let request = json!({"Name": "shop", "Driver": "bridge"});
    let created: NetworkCreated = daemon.post(path::NETWORKS_CREATE, &request).unwrap();
    let attached = attach(&host, "shop");
    let addresses = || sandbox_addresses(&attached.1);
    let before = addresses();
    host.kill();
    assert_eq!(addresses(), before);
    host.start(&[]);
    assert_eq!(
        daemon
            .get::<Volume>("/v1/volumes/data")
            .unwrap()
            .name
            .as_str(),
        "data"
    );
    assert_eq!(
        daemon.get::<Network>("/v1/networks/shop").unwrap().id,
        created.id
    );
    let endpoint = "/v1/endpoints/c1/eth0";
    assert_eq!(daemon.get::<Attachment>(endpoint).unwrap(), attached.0);
    assert_eq!(addresses(), before);
    daemon.delete(endpoint).unwrap();
    assert!(
        daemon
            .get::<Attachment>(endpoint)
            .unwrap_err()
            .is_not_found()
    );
    daemon.delete("/v1/networks/shop").unwrap();
}

/// A sandbox on `network`, and the file that names its namespace.
fn attach(host: &Host, network: &str) -> (Attachment, std::path::PathBuf) {
    let sandbox = NetNs::create().unwrap();
    let netns = host.path("sandbox");
    fs::write(&netns, "").unwrap();
    // A bind mount keeps the namespace as `ip netns` does.
    sandbox
        .run(|| {
            let source = "/proc/thread-self/ns/net";
            Command::new("mount")
                .args(["--bind", source])
                .arg(&netns)
                .status()
                .unwrap()
        })
        .unwrap();
    let request = AttachRequest {
        network: network.to_owned(),
        container_id: "c1".to_owned(),
        ifname: "eth0".parse().unwrap(),
        netns: netns.display().to_string(),
        name: Some("web".to_owned()),
        aliases: Vec::new(),
        ipv4: None,
        ipv6: None,
        mac: None,
        ports: Vec::new(),
        dns: api::net::Dns::default(),
        link: api::net::LinkBy::Hawser,
        addresses: Vec::new(),
        routes: None,
        bandwidth: None,
        owner: None,
        exclusive: false,
        gw_priority: None,
        services: Vec::new(),
        runtime: None,
        links: Vec::new(),
    };
    (
        host.client().post(path::ENDPOINTS, &request).unwrap(),
        netns,
    )
}

fn sandbox_addresses(netns: &std::path::Path) -> String {
    let sandbox = NetNs::open(netns).unwrap();
    let shown = sandbox.run(|| {
        Command::new("ip")
            .args(["-o", "addr", "show", "eth0"])
            .output()
    });
    let output = shown.unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_second_daemon_is_told_what_is_in_its_way() {
    let mut host = Host::new();
    host.start(&[]);
    let refused = host.run(&[]);
    assert!(!refused.status.success());
    let words = String::from_utf8(refused.stderr).unwrap();
    let pid = host.pid();
    assert!(
        words.contains(&format!("another hawserd (pid {pid}) uses state-dir")),
        "{words}"
    );
    let other_state = host.path("other");
    // The run directory is held on its own, too.
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawserd"));
    command
        .arg("--state-dir")
        .arg(&other_state)
        .arg("--run-dir")
        .arg(host.path("run"));
    let words = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(words.contains("uses run-dir"), "{words}");
    assert!(UnixStream::connect(host.api_socket()).is_ok());
}

#[test]
fn a_plugin_socket_of_somebody_else_is_left_alone() {
    let host = Host::new();
    fs::create_dir(host.path("plugins")).unwrap();
    let theirs = UnixListener::bind(host.plugin_socket()).unwrap();
    let refused = host.run(&[]);
    assert!(!refused.status.success());
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        words.ends_with("choose another directory with --plugin-dir\n"),
        "{words}"
    );
    assert!(UnixStream::connect(host.plugin_socket()).is_ok());
    assert!(!host.api_socket().exists());
    drop(theirs);
}

#[test]
fn who_is_not_root_is_told_so() {
    let host = Host::new();
    let mut command = Command::new("unshare");
    // Without a mapping, everybody in a new user namespace is nobody (user_namespaces(7)).
    command
        .arg("--user")
        .arg(env!("CARGO_BIN_EXE_hawserd"))
        .arg("--state-dir");
    let output = command.arg(host.path("state")).output().unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("must run as root"), "{words}");
    assert!(!host.path("state").exists());
}

#[test]
fn the_configuration_is_checked_and_read_again() {
    let mut host = Host::new();
    let file = host.path("hawserd.toml");
    let flags = ["--config", file.to_str().unwrap()];
    fs::write(&file, "[log]\nlevel = \"info\"\n\n[network]\nmtuu = 1400\n").unwrap();
    let refused = host.run(&[flags.as_slice(), &["--check-config"]].concat());
    assert!(!refused.status.success());
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(
        words.starts_with(&format!(
            "hawserd: {}:5: unknown key `mtuu`",
            file.display()
        )),
        "{words}"
    );
    assert!(!host.path("state").exists());

    fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let accepted = host.run(&[flags.as_slice(), &["--check-config"]].concat());
    assert!(accepted.status.success());
    host.start(&flags);
    assert!(!host.log().contains("DEBUG"), "{}", host.log());
    fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    host.signal(Signal::HUP);
    host.wait_for("debug log", || {
        host.client().get_text(path::PING).is_ok() && host.log().contains("DEBUG")
    });
    fs::write(&file, "[log]\nlevel = 1\n").unwrap();
    host.signal(Signal::HUP);
    host.wait_for("refusal", || {
        host.log().contains("configuration not read again")
    });
}

#[test]
fn sockets_are_for_root_and_info_says_where_things_are() {
    let mut host = Host::new();
    host.start(&[]);
    for socket in [host.api_socket(), host.plugin_socket()] {
        let mode = fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660, "{}", socket.display());
    }
    let info: Info = host.client().get(path::INFO).unwrap();
    assert_eq!(info.state_dir, host.path("state").display().to_string());
    assert_eq!(info.plugin_dir, host.path("plugins").display().to_string());
    assert_eq!(info.driver, "overlay2");
    assert!(!info.data_path.is_empty());
}

#[test]
fn the_plugin_reads_any_body_and_names_its_media_type() {
    let mut host = Host::new();
    host.start(&[]);
    let socket = host.plugin_socket();
    // As dockerd sends it: a body, and no word of what it is.
    let body = r#"{"Name":"data","Opts":null}"#;
    let (head, _) = exchange(&socket, "POST /VolumeDriver.Create", body);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let media_type = "content-type: application/vnd.docker.plugins.v1.2+json";
    assert!(head.contains(media_type), "{head}");
    let plugin = Client::new(socket);
    let call = |path: &str, id: &str| {
        let request = Request {
            name: "data".to_owned(),
            id: id.to_owned(),
            opts: None,
        };
        let response = plugin.post_raw(path, &request).unwrap();
        serde_json::from_slice::<Reply>(&response.body).unwrap()
    };
    let mounted = call(api::volume_plugin::MOUNT, "m1");
    assert_eq!(mounted.err, "");
    assert!(fs::metadata(&mounted.mountpoint).unwrap().is_dir());
    // The same volume on the API socket, held by the mount.
    let error = host.client().delete("/v1/volumes/data").unwrap_err();
    assert_eq!(error.api().unwrap().code, ErrorCode::InUse, "{error}");
    assert_eq!(call(api::volume_plugin::UNMOUNT, "m1").err, "");
    host.client().delete("/v1/volumes/data").unwrap();
    let gone = call(api::volume_plugin::GET, "");
    assert!(gone.err.contains("data"), "{gone:?}");
}

#[test]
fn systemd_hears_of_start_and_stop() {
    let mut host = Host::new();
    let notify = host.path("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut command = host.command(&[]);
    command.env("NOTIFY_SOCKET", &notify);
    host.start_with(command);
    let heard = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(heard(), "READY=1");
    host.signal(Signal::INT);
    assert_eq!(heard(), "STOPPING=1");
    assert!(host.ended_well());
}

#[test]
fn a_read_only_state_directory_is_named_and_left_alone() {
    let mut host = Host::new();
    host.start(&[]);
    create_volume(&host, "data");
    host.kill();
    let state = host.path("state");
    sys::mount::bind(&state, &state, true, rustix::mount::MountFlags::RDONLY).unwrap();
    let refused = host.run(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.contains(&state.display().to_string()), "{said}");
    sys::mount::unmount(&state).unwrap();
    host.start(&[]);
    assert!(host.client().get::<Value>("/v1/volumes/data").is_ok());
}

#[test]
fn a_database_that_was_lost_is_made_anew_with_networks_and_volumes() {
    let mut host = Host::new();
    host.start(&[]);
    create_volume(&host, "data");
    let network = json!({"Name": "shop", "Labels": {"a": "b"}});
    let made: NetworkCreated = host.client().post(path::NETWORKS_CREATE, &network).unwrap();
    host.kill();
    for name in ["meta.redb", "meta.redb.prev"] {
        fs::write(host.path("state").join(name), "damaged").unwrap();
    }
    let refused = host.run(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--rebuild-database"), "{said}");
    let rebuilt = host.run(&["--rebuild-database"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    host.start(&[]);
    let volumes = host.client().get::<Value>("/v1/volumes/data");
    assert!(volumes.is_ok(), "{volumes:?}");
    let found: Value = host.client().get("/v1/networks/shop").unwrap();
    assert_eq!(found["Id"], json!(made.id));
    assert_eq!(found["Labels"]["a"], "b");
}

#[test]
fn uninstall_leaves_data_and_nothing_else() {
    let mut host = Host::new();
    host.start(&[]);
    create_volume(&host, "data");
    host.client()
        .post::<NetworkCreated>(path::NETWORKS_CREATE, &json!({"Name": "shop"}))
        .unwrap();
    let refused = host.run(&["--uninstall"]);
    assert!(!refused.status.success(), "the daemon runs");
    host.kill();
    assert!(host.run(&["--uninstall"]).status.success());
    let links = Command::new("ip")
        .args(["-o", "link"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(!host.api_socket().exists());
    assert!(!host.plugin_socket().exists());
    assert!(host.path("state/volumes/data/_data").is_dir());
    // Twice is as good as once.
    assert!(host.run(&["--uninstall"]).status.success());
}
