//! Name lookups a second: the embedded server against aardvark-dns, both asked by dnsperf from a
//! network namespace beside theirs.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_tests::docker::peer;
use kernel_tests::{Host, Outside, Stray, program, shop, wait};

use super::published::number_after;
use super::row::{Goal, Row, Subject, compare};
use super::{FEW, Scene};

const SECONDS: &str = "2";
const PEER_PORT: &str = "5353";
const SOON: Duration = Duration::from_secs(10);

pub(crate) fn lookups(scene: &Scene) -> Result<Vec<Row>> {
    let subject = Subject::new("names", "1/s", Goal::AtLeast(1.0));
    let asker = Asker::new(scene)?;
    let aardvark = Aardvark::start();
    let peer = aardvark.as_ref().map_err(|error| format!("{error:#}"));
    compare(
        subject,
        scene.sizes.runs(FEW),
        Box::new(|| asker.ask()),
        "aardvark-dns 2.1",
        peer.map(|aardvark| Box::new(|| aardvark.ask()) as _),
    )
}

/// A container that asks for its own name.
struct Asker<'a> {
    scene: &'a Scene,
    pid: String,
    queries: String,
}

impl<'a> Asker<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        let shop = scene.shop();
        shop.hawser(&[
            "run",
            "-d",
            "--name",
            "asked",
            "--network",
            "bench",
            shop::TOOLS,
            "sleep",
            "3600",
        ]);
        let pid = shop.inspect("asked", "{{.State.Pid}}");
        let queries = shop.daemon.directories().root().join("queries");
        fs::write(&queries, "asked A\n").context("queries")?;
        Ok(Self {
            scene,
            pid,
            queries: queries.display().to_string(),
        })
    }

    fn ask(&self) -> Result<f64> {
        // The socket hooks act by network namespace, so that a program of the host that enters
        // the sandbox's network is answered like the container.
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={}", self.pid), "--net", "dnsperf"]);
        dnsperf(command.args(["-s", "127.0.0.11", "-d", &self.queries]))
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.scene.shop().hawser(&["rm", "-f", "asked"]);
    }
}

/// aardvark-dns on a throwaway host, asked by a host outside.
struct Aardvark {
    /// Ended before its directory goes.
    _process: Stray,
    outside: Outside,
    queries: tempfile::NamedTempFile,
    _directory: tempfile::TempDir,
}

impl Aardvark {
    fn start() -> Result<Self> {
        let host = Arc::new(Host::throwaway()?);
        let outside = Outside::new(Arc::clone(&host))?;
        let directory = tempfile::tempdir().context("directory of aardvark-dns")?;
        let root = directory.path();
        // One file a network: the addresses to listen on, then a line a container.
        let id = "0123456789ab";
        let network = format!("{}\n{id} {}  asked,{id}\n", outside.host_v4, outside.v4);
        fs::write(root.join("bench"), network).context("network of aardvark-dns")?;
        // Not beside the network: every file there is one.
        let queries = tempfile::NamedTempFile::new().context("queries")?;
        fs::write(queries.path(), "asked.dns.podman A\n").context("queries")?;
        let mut starter = host
            .command(peer("usr/local/bin/aardvark-dns")?)
            .arg("--config")
            .arg(root)
            .args(["--port", PEER_PORT, "run"])
            .stdin(Stdio::null())
            .spawn()
            .context("aardvark-dns")?;
        // It forks, and the server writes its process id beside its networks.
        let pid_file = root.join("aardvark.pid");
        let process = wait::until(SOON, "aardvark-dns starts", || {
            Stray::new(&pid_file, "aardvark-dns").ok()
        })?;
        starter.wait().context("aardvark-dns")?;
        let aardvark = Self {
            _process: process,
            outside,
            queries,
            _directory: directory,
        };
        wait::until(SOON, "aardvark-dns answers", || aardvark.ask().ok())?;
        Ok(aardvark)
    }

    fn ask(&self) -> Result<f64> {
        let address = self.outside.host_v4.to_string();
        let mut command = self.outside.command("dnsperf");
        dnsperf(
            command
                .args(["-s", &address, "-p", PEER_PORT, "-d"])
                .arg(self.queries.path()),
        )
    }
}

/// Answers a second, at full speed.
fn dnsperf(command: &mut Command) -> Result<f64> {
    let text = program::output(command.args(["-l", SECONDS, "-c", "4", "-T", "1"]))?;
    let completed = number_after(&text, "Queries completed:")?;
    anyhow::ensure!(completed > 0.0, "no query was answered: {text}");
    number_after(&text, "Queries per second:")
}
