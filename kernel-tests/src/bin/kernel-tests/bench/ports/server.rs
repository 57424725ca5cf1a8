//! nginx and iperf3 in a sandbox's network: the same programs on every side, so that images and
//! control groups make no difference.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_tests::{image, program, wait};

use super::{STREAM_TO, Side, WEB};

const SOON: Duration = Duration::from_secs(10);

/// Ended when dropped.
pub(super) struct Servers {
    children: Vec<Child>,
    /// Removed after them.
    _scratch: tempfile::TempDir,
}

impl Servers {
    pub(super) fn start(side: &dyn Side) -> Result<Self> {
        let scratch = tempfile::tempdir().context("scratch directory")?;
        let sandbox = side.sandbox()?;
        let config = config(scratch.path())?;
        let nginx = nginx()?;
        let mut servers = Self {
            children: Vec::new(),
            _scratch: scratch,
        };
        // The package's nginx keeps what it buffers at a place of the host's.
        let script = "mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/nginx && exec \"$0\" \"$@\"";
        let mut web = entered(&sandbox, "unshare");
        web.args(["--mount", "sh", "-c", script]).arg(nginx);
        web.args(["-e", "stderr", "-c"]).arg(config);
        servers.spawn(web)?;
        let mut stream = entered(&sandbox, "iperf3");
        stream.args(["--server", "--port", &STREAM_TO.0.to_string()]);
        servers.spawn(stream)?;
        let (address, is_published) = side.target();
        let port = if is_published { WEB.1 } else { WEB.0 };
        let url = format!("http://{address}:{port}/");
        wait::until(SOON, "nginx answers", || side.outside().fetch(&url).ok())?;
        wait::until(SOON, "iperf3 listens", || listens(&sandbox).ok())?;
        Ok(servers)
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("{:?}", command.get_program()))?;
        self.children.push(child);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already is what is wanted.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// `program` in a sandbox's network, on the last processor.
fn entered(sandbox: &Path, program: &str) -> Command {
    let last = thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", sandbox.display()));
    command.args(["taskset", "--cpu-list", &last.to_string(), program]);
    command
}

/// Without a connection, which iperf3 would take for its client.
fn listens(sandbox: &Path) -> Result<()> {
    let filter = format!("sport = {}", STREAM_TO.0);
    let mut ss = entered(sandbox, "ss");
    let said = program::output(ss.args(["-Hltn", &filter]))?;
    anyhow::ensure!(!said.is_empty(), "nobody listens");
    Ok(())
}

fn nginx() -> Result<PathBuf> {
    let packages = std::env::var_os(image::WEB_SERVER_ENV).map(PathBuf::from);
    let packages = packages.with_context(|| {
        format!(
            "{} is not set; run this through `cargo xtask`",
            image::WEB_SERVER_ENV
        )
    })?;
    Ok(packages.join("usr/sbin/nginx"))
}

/// One process, which ends with a signal.
fn config(dir: &Path) -> Result<PathBuf> {
    let shown = dir.display();
    let text = format!(
        "daemon off; master_process off; user root; pid {shown}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    server {{ listen {port} backlog=4096; root {shown}; }}
}}
",
        port = WEB.0
    );
    let path = dir.join("nginx.conf");
    fs::write(&path, text).context("configuration of nginx")?;
    fs::write(dir.join("index.html"), "hello\n").context("page of nginx")?;
    Ok(path)
}
