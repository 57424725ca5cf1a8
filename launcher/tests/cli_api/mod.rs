//! The API of Docker Engine, with curl and without.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};

use super::cli_support::{Host, soon};

/// `hawser api`, for as long as this is held.
struct Engine {
    socket: PathBuf,
    process: Child,
}

impl Engine {
    #[expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be made fails its test"
    )]
    fn new(host: &Host) -> Self {
        let socket = host.path("docker.sock");
        let listen = format!("--listen={}", socket.display());
        let process = host.command(&["api", &listen]).spawn().unwrap();
        let engine = Self { socket, process };
        soon(|| engine.socket.exists());
        engine
    }

    /// What curl prints for a request.
    #[expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be made fails its test"
    )]
    fn curl(&self, words: &[&str]) -> Vec<u8> {
        let mut curl = Command::new("curl");
        curl.arg("-sS").arg("--unix-socket").arg(&self.socket);
        let output = curl.args(words).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        output.stdout
    }

    /// Status and body.
    #[expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be made fails its test"
    )]
    fn ask(&self, method: &str, route: &str, body: Value) -> (u16, Value) {
        let body = body.to_string();
        let url = format!("http://v1.24/{route}");
        let head = ["-X", method, "-H", "Content-Type: application/json"];
        let tail = ["-d", &body, "-w", "\n%{http_code}", &url];
        let text = String::from_utf8(self.curl(&[&head[..], &tail[..]].concat())).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let body = serde_json::from_str(body).unwrap_or_default();
        (status.parse().unwrap(), body)
    }

    #[expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be made fails its test"
    )]
    fn create(&self, body: Value) -> String {
        let (status, made) = self.ask("POST", "containers/create", body);
        assert_eq!((status, &made["Warnings"]), (201, &Value::Null), "{made}");
        made["Id"].as_str().unwrap().to_owned()
    }

    /// A connection whose request has been answered, but for the body.
    #[expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be made fails its test"
    )]
    fn begun(&self, route: &str, status: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        let head = format!("POST /v1.41/{route} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        stream
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        drop(self.process.wait());
    }
}

fn none_network(image: &str, command: &[&str]) -> Value {
    json!({ "Image": image, "Cmd": command, "HostConfig": { "NetworkMode": "none" } })
}

#[test]
fn curl_creates_starts_waits_and_reads_the_log() {
    let host = Host::new();
    let engine = Engine::new(&host);
    let id = engine.create(none_network("bb", &["echo", "hello world"]));
    assert_eq!(
        engine.ask("POST", &format!("containers/{id}/start"), json!({})),
        (204, Value::Null)
    );
    let wait = format!("containers/{id}/wait");
    assert_eq!(
        engine.ask("POST", &wait, json!({})),
        (200, json!({ "StatusCode": 0 }))
    );
    let log = engine.curl(&[&format!("http://v1.24/v1.24/containers/{id}/logs?stdout=1")]);
    assert_eq!(log, b"\x01\0\0\0\0\0\0\x0chello world\n");
    assert_eq!(
        engine.curl(&[&format!("http://v1.24/containers/{id}/logs?stderr=1")]),
        b""
    );
    // The command line has it, too.
    assert_eq!(host.ok(&["logs", &id]), "hello world");
    let (_, all) = engine.ask("GET", "containers/json?all=1", json!({}));
    assert_eq!(
        (&all[0]["Id"], &all[0]["State"]),
        (&json!(id), &json!("exited"))
    );
    assert_eq!(engine.ask("GET", "containers/json", json!({})).1, json!([]));
    assert_eq!(
        engine
            .ask("DELETE", &format!("containers/{id}"), json!({}))
            .0,
        204
    );
    assert_eq!(host.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_client_attaches_before_it_starts_and_hears_how_it_ends() {
    let host = Host::new();
    let engine = Engine::new(&host);
    let mut body = none_network("bb", &["sh", "-c", "cat; echo err >&2; exit 5"]);
    body["OpenStdin"] = json!(true);
    body["StdinOnce"] = json!(true);
    body["AttachStdin"] = json!(true);
    body["HostConfig"]["AutoRemove"] = json!(true);
    for _ in 0..5 {
        let id = engine.create(body.clone());
        let streams = "attach?stream=1&stdin=1&stdout=1&stderr=1";
        let mut streams = engine.begun(&format!("containers/{id}/{streams}"), "101");
        let waits = format!("containers/{id}/wait?condition=removed");
        let mut waits = engine.begun(&waits, "200");
        streams.write_all(b"typed\n").unwrap();
        streams.shutdown(Shutdown::Write).unwrap();
        let start = format!("containers/{id}/start");
        assert_eq!(engine.ask("POST", &start, json!({})).0, 204);
        let mut output = Vec::new();
        streams.read_to_end(&mut output).unwrap();
        assert_eq!(
            output,
            b"\x01\0\0\0\0\0\0\x06typed\n\x02\0\0\0\0\0\0\x04err\n"
        );
        let mut end = String::new();
        waits.read_to_string(&mut end).unwrap();
        assert_eq!(end, "{\"StatusCode\":5}\n");
        assert_eq!(
            engine
                .ask("GET", &format!("containers/{id}/json"), json!({}))
                .0,
            404
        );
    }
    // What was its child is not left behind.
    let children = format!("/proc/{0}/task/{0}/children", engine.process.id());
    soon(|| std::fs::read_to_string(&children).is_ok_and(|children| children.is_empty()));
}

#[test]
fn a_running_container_is_steered_and_measured() {
    let host = Host::new();
    let engine = Engine::new(&host);
    let id = engine.create(none_network("bb", &["sleep", "1000"]));
    let (route, act) = (format!("containers/{id}"), json!({}));
    let ask = |verb: &str| {
        engine
            .ask("POST", &format!("{route}/{verb}"), act.clone())
            .0
    };
    assert_eq!((ask("start"), ask("start")), (204, 304));
    let stats = engine
        .ask("GET", &format!("{route}/stats?stream=0"), json!({}))
        .1;
    assert_eq!(stats["pids_stats"]["current"], 1, "{stats}");
    assert!(
        stats["precpu_stats"]["system_cpu_usage"].as_u64()
            < stats["cpu_stats"]["system_cpu_usage"].as_u64()
    );
    assert_eq!(
        (ask("pause"), ask("pause"), ask("unpause")),
        (204, 409, 204)
    );
    assert_eq!(ask("rename?name=other"), 204);
    assert_eq!(
        host.ok(&["inspect", "-f", "{{.State.Status}}", "other"]),
        "running"
    );
    assert_eq!(engine.ask("DELETE", &route, json!({})).0, 409);
    assert_eq!(
        (
            ask("kill?signal=USR9"),
            ask("kill"),
            ask("kill"),
            ask("stop")
        ),
        (400, 204, 409, 304)
    );
    assert_eq!(
        engine.ask("GET", &format!("{route}/json"), json!({})).1["State"]["ExitCode"],
        137
    );
    assert_eq!(engine.ask("DELETE", &route, json!({})).0, 204);
}

#[test]
fn what_cannot_be_is_refused_as_docker_does() {
    let host = Host::new();
    let engine = Engine::new(&host);
    let refused = |method: &str, route: &str, body: Value, status: u16, words: &str| {
        let (got, body) = engine.ask(method, route, body);
        let message = body["message"].as_str().unwrap_or_default();
        assert!(
            got == status && message.contains(words),
            "{method} {route}: {got} {body}"
        );
    };
    refused(
        "POST",
        "containers/create",
        json!({ "Image": "nosuch" }),
        404,
        "No such image",
    );
    refused(
        "POST",
        "containers/create",
        json!({ "Image": "bb", "Shell": ["a"] }),
        501,
        "Shell",
    );
    refused(
        "POST",
        "containers/create?name=x",
        none_network("bb", &["true"]),
        400,
        "name",
    );
    refused(
        "GET",
        "containers/nosuch/json",
        json!({}),
        404,
        "No such container",
    );
    refused("POST", "swarm/init", json!({}), 501, "is not answered");
    let id = engine.create(none_network("bb", &["nosuch"]));
    let start = format!("containers/{id}/start");
    refused("POST", &start, json!({}), 400, "executable file not found");
    refused(
        "GET",
        &format!("containers/{id}/logs"),
        json!({}),
        400,
        "at least one stream",
    );
    assert_eq!(
        engine.curl(&[
            "-I",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://x/_ping"
        ]),
        b"200"
    );
    let second = format!("--listen={}", engine.socket.display());
    host.refused(&["api", &second], 1, "in use");
}
