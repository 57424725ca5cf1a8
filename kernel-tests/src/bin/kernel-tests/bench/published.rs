//! A published port against docker's: DNAT from outside, docker-proxy from the host itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_tests::{Host, Outside, image, program, shop, wait};

use super::row::{Goal, Row, Subject, compare};
use super::turns::Sample;
use super::{FEW, Scene, docker};

/// Seconds of one repeat.
const SECONDS: &str = "2";
const WEB: &str = "web";
const WEB_PORT: u16 = 18080;
pub(crate) const STREAM_PORT: u16 = 15201;
const SOON: Duration = Duration::from_secs(10);

const DNAT: &str = "docker, DNAT";
const PROXY: &str = "docker-proxy";

pub(crate) fn throughput(scene: &Scene) -> Result<Vec<Row>> {
    let subject = Subject::new("published-throughput", "Gbit/s", Goal::AtLeast(0.98));
    measure(scene, subject, DNAT, stream_server, |side| {
        side.stream_from_outside()
    })
}

pub(crate) fn own_throughput(scene: &Scene) -> Result<Vec<Row>> {
    let subject = Subject::new("own-port-throughput", "Gbit/s", Goal::AtLeast(1.8));
    measure(scene, subject, PROXY, stream_server, |side| {
        side.stream_from_host()
    })
}

pub(crate) fn requests(scene: &Scene) -> Result<Vec<Row>> {
    let subject = Subject::new("published-requests", "1/s", Goal::AtLeast(1.0));
    measure(scene, subject, DNAT, web_server, |side| {
        side.load("Connection: keep-alive")
    })
}

pub(crate) fn connections(scene: &Scene) -> Result<Vec<Row>> {
    let subject = Subject::new("published-connections", "1/s", Goal::AtLeast(0.97));
    measure(scene, subject, DNAT, web_server, |side| {
        side.load("Connection: close")
    })
}

/// Runs the engine's command line, which must succeed.
type CommandLine<'a> = dyn Fn(&[&str]) -> Result<String> + 'a;

/// One of the two hosts, with the ways to run its command line.
struct Side<'a> {
    host: &'a Host,
    outside: &'a Outside,
    command: Box<CommandLine<'a>>,
    tools: &'static str,
    /// Where the engine keeps files that may go with it.
    scratch: &'a Path,
}

fn ours(scene: &Scene) -> Side<'_> {
    Side {
        host: &scene.shop().host,
        outside: &scene.shop().outside,
        command: Box::new(|arguments| scene.shop().daemon.hawser(arguments)),
        tools: shop::TOOLS,
        scratch: scene.shop().daemon.directories().root(),
    }
}

fn theirs(scene: &Scene) -> Result<Side<'_>, String> {
    scene.docker().map(|docker| Side {
        host: docker.host(),
        outside: &docker.outside,
        command: Box::new(|arguments| docker.output(arguments)),
        tools: docker::TOOLS,
        scratch: docker.directory(),
    })
}

/// Serves on both sides and lets them take turns.
fn measure(
    scene: &Scene,
    subject: Subject,
    peer_name: &str,
    serve: impl Fn(Side<'_>) -> Result<Server<'_>>,
    sample: impl Fn(&Side<'_>) -> Result<f64>,
) -> Result<Vec<Row>> {
    let ours = serve(ours(scene))?;
    let theirs = theirs(scene)
        .and_then(|side| serve(side).map_err(|error| format!("docker cannot serve: {error:#}")));
    let peer = match &theirs {
        Ok(server) => Ok(Box::new(|| sample(&server.side)) as Sample<'_, f64>),
        Err(why) => Err(why.clone()),
    };
    let ours = Box::new(|| sample(&ours.side));
    compare(subject, scene.sizes.runs(FEW), ours, peer_name, peer)
}

/// A container that goes with its row.
struct Server<'a> {
    side: Side<'a>,
    name: &'static str,
    program: Option<Child>,
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            drop(program.kill());
            drop(program.wait());
        }
        if let Err(error) = (self.side.command)(&["rm", "-f", self.name]) {
            eprintln!("clean-up of {}: {error:#}", self.name);
        }
    }
}

/// iperf3 of the host inside the network of a container: images need no such program.
fn stream_server(side: Side<'_>) -> Result<Server<'_>> {
    let publish = format!("{STREAM_PORT}:5201");
    let run = [
        "run", "-d", "--name", "stream", "-p", &publish, side.tools, "sleep", "3600",
    ];
    (side.command)(&run)?;
    let mut server = Server {
        side,
        name: "stream",
        program: None,
    };
    let pid = (server.side.command)(&["inspect", "--format", "{{.State.Pid}}", "stream"])?;
    let program = Command::new("nsenter")
        .args([&format!("--target={pid}"), "--net", "iperf3", "--server"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("iperf3")?;
    server.program = Some(program);
    wait::until(SOON, "iperf3 answers", || {
        server.side.stream_from_outside().ok()
    })?;
    Ok(server)
}

fn web_server(side: Side<'_>) -> Result<Server<'_>> {
    let archive = side.scratch.join("web.tar");
    image::web_server(&archive)?;
    let change = r#"CMD ["nginx", "-g", "daemon off;"]"#;
    let path = archive.display().to_string();
    (side.command)(&["image", "import", "--change", change, &path, WEB])?;
    let publish = format!("{WEB_PORT}:80");
    let flags = ["--log-driver", "none", "-p", &publish];
    (side.command)(&[&["run", "-d", "--name", "web"][..], &flags, &[WEB]].concat())?;
    let server = Server {
        side,
        name: "web",
        program: None,
    };
    (server.side.command)(&["exec", "web", "sh", "-c", "echo hello >/srv/index.html"])?;
    let side = &server.side;
    wait::until(SOON, "nginx answers", || {
        side.outside.fetch(&side.url()).ok()
    })?;
    Ok(server)
}

impl Side<'_> {
    fn stream_from_outside(&self) -> Result<f64> {
        gigabits(
            self.outside.command("iperf3"),
            &self.outside.host_v4.to_string(),
        )
    }

    fn stream_from_host(&self) -> Result<f64> {
        gigabits(self.host.command("iperf3"), "127.0.0.1")
    }

    fn url(&self) -> String {
        format!("http://{}:{WEB_PORT}/index.html", self.outside.host_v4)
    }

    /// Requests a second.
    fn load(&self, header: &str) -> Result<f64> {
        let mut wrk = self.outside.command("wrk");
        wrk.args([
            "-t1",
            "-c32",
            &format!("-d{SECONDS}s"),
            "-H",
            header,
            &self.url(),
        ]);
        let text = program::output(&mut wrk)?;
        number_after(&text, "Requests/sec:")
    }
}

pub(crate) fn gigabits(mut iperf: Command, address: &str) -> Result<f64> {
    iperf.args(["--client", address, "--port", &STREAM_PORT.to_string()]);
    let text = program::output(iperf.args(["--time", SECONDS, "--json"]))?;
    let report: serde_json::Value = serde_json::from_str(&text).context("report of iperf3")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("no throughput in iperf3's report: {text}"))? / 1e9)
}

/// The number that follows `label` in the output of a load generator.
pub(crate) fn number_after(text: &str, label: &str) -> Result<f64> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {label:?} in: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_number_after_a_label() {
        let text = "  123 requests in 2.00s\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n";
        assert_eq!(number_after(text, "Requests/sec:").unwrap(), 12345.67);
        assert!(number_after("", "Requests/sec:").is_err());
    }
}
