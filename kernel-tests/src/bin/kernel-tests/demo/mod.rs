//! `cargo xtask demo`: the main job on this very host, step by step, each with its result.
//!
//! The daemon is an instance of its own in two directories that the demo owns; an earlier demo
//! that was cut short is cleaned up first. Nothing that was there before is changed, and the last
//! step checks that nothing stays.

mod data_path;
mod firewall;
mod narrator;
mod restart;
mod settings;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernel_tests::{Daemon, Directories, Host, Outside, image, leftovers, outside, wait};

use self::data_path::Traces;
use self::firewall::Passage;
use self::narrator::Narrator;
use self::settings::Settings;

/// Everything of the demo, so that the next one finds what a killed one left.
const ROOT: &str = "/var/lib/hawser-demo";
const PORT: u16 = 18080;
const PAGE: &str = "<h1>Fresh rope, three ways laid</h1>";
const TOOLS: &str = "demo-tools";
const WEB: &str = "demo-web";

/// A name and an address are published before an attach returns, and a server needs a moment to
/// listen.
const SOON: Duration = Duration::from_secs(10);
/// Removing a namespace is deferred by the kernel.
const GONE: Duration = Duration::from_secs(15);
/// How much of the daemon's log a failure shows.
const LOG_LINES: usize = 20;

/// Runs all steps and cleans up, whatever happens.
pub(crate) fn run() -> Result<()> {
    let _lock = lock()?;
    let host = Arc::new(Host::real());
    clean_up_after_an_earlier_demo(&host)?;
    refuse_a_busy_host(&host)?;
    let _settings = Settings::keep()?;
    let before = leftovers::observe(&host)?;
    let traces = Traces::observe(&host)?;

    let narrator = Narrator::default();
    let shown = show(&host, &traces, &narrator);
    if let Err(error) = &shown {
        eprintln!("\nthe demo failed: {error:#}\n{}", end_of_log());
    }
    narrator.step("What is left");
    fs::remove_dir_all(ROOT).context(ROOT)?;
    check_leftovers(&host, &before)?;
    narrator.result("no interface, mount, pin, nft table, control group or process is left");
    shown?;
    println!("\nThe demo is over; everything worked.");
    Ok(())
}

/// The last words of the daemon, for the report of a failure.
fn end_of_log() -> String {
    let path = Path::new(ROOT).join("hawserd.log");
    let log = fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Other daemons on this machine may come and go meanwhile; their processes are not ours.
fn is_foreign(object: &str) -> bool {
    object.starts_with("process ") && !object.contains(ROOT)
}

fn check_leftovers(host: &Host, before: &BTreeSet<String>) -> Result<()> {
    let mut left = Vec::new();
    let gone = wait::until(GONE, "nothing is left", || {
        let now = leftovers::observe(host).ok()?;
        left = now
            .difference(before)
            .filter(|object| !is_foreign(object))
            .cloned()
            .collect();
        left.is_empty().then_some(())
    });
    gone.with_context(|| format!("left behind: {}", left.join(", ")))
}

/// One demo at a time.
fn lock() -> Result<File> {
    let path = "/run/hawser-demo.lock";
    let file = File::create(path).context(path)?;
    ensure!(
        file.try_lock().is_ok(),
        "another demo runs on this host (it holds {path})"
    );
    Ok(file)
}

fn clean_up_after_an_earlier_demo(host: &Arc<Host>) -> Result<()> {
    let root = Path::new(ROOT);
    if !root.exists() {
        return Ok(());
    }
    println!("cleaning up after a demo that was cut short");
    // The daemon adopts what is there, and removes it.
    Daemon::take_over(Arc::clone(host), Directories::new(root)?)?.clean()?;
    fs::remove_dir_all(root).context(ROOT)
}

/// One network namespace has one table `inet hawser` and one bridge `hawser0`.
fn refuse_a_busy_host(host: &Host) -> Result<()> {
    if host.output("ip", &["link", "show", "hawser0"]).is_ok() {
        bail!("a hawserd works on this host already (there is a bridge hawser0); stop it first");
    }
    if data_path::listens(PORT)? {
        bail!("a program listens on port {PORT}, which the demo publishes; stop it first");
    }
    Ok(())
}

/// What the steps work with.
struct Demo<'a> {
    narrator: &'a Narrator,
    host: Arc<Host>,
    passage: Passage,
    daemon: Daemon,
    outside: Outside,
}

fn show(host: &Arc<Host>, traces: &Traces, narrator: &Narrator) -> Result<()> {
    narrator.step("A daemon in directories of its own");
    let daemon = Daemon::start_in(Arc::clone(host), Directories::new(Path::new(ROOT))?)?;
    narrator.result(&format!(
        "hawserd answers on {}",
        daemon.directories().socket().display()
    ));
    let outside = Outside::new(Arc::clone(host))?;
    narrator.result(&format!(
        "an outside host is at {}, behind {}",
        outside.v4, outside.interface
    ));
    let passage = Passage::observe(host);
    if passage.is_needed() {
        passage.admit(&outside.interface)?;
        narrator.result("this host drops forwarded packets; those of the demo are let through");
    }
    let mut demo = Demo {
        narrator,
        host: Arc::clone(host),
        passage,
        daemon,
        outside,
    };
    demo.images()?;
    demo.network_and_volume()?;
    demo.web_server()?;
    demo.names()?;
    demo.isolation()?;
    demo.published_port(traces)?;
    demo.daemon_dies()?;
    demo.data_outlives_the_container()?;
    demo.remove_everything()
}

impl Demo<'_> {
    /// Prints and runs `hawser ARGUMENTS`, which must succeed.
    fn hawser(&self, arguments: &[&str]) -> Result<String> {
        self.narrator.command(arguments);
        let text = self.daemon.hawser(arguments)?;
        self.narrator.output(&text);
        Ok(text)
    }

    fn images(&self) -> Result<()> {
        self.narrator
            .step("Two images from Debian's packages, without a registry");
        let archive = Path::new(ROOT).join("image.tar");
        let path = archive.display().to_string();
        image::busybox(&archive)?;
        self.hawser(&["image", "import", &path, TOOLS])?;
        image::web_server(&archive)?;
        let command = r#"CMD ["nginx", "-g", "daemon off;"]"#;
        self.hawser(&["image", "import", "--change", command, &path, WEB])?;
        fs::remove_file(&archive).context("image archive")?;
        self.hawser(&["image", "ls"])?;
        Ok(())
    }

    /// Creates a network whose packets the host's firewall lets through.
    fn network(&self, arguments: &[&str]) -> Result<()> {
        let id = self.hawser(&[&["network", "create"], arguments].concat())?;
        let bridge = format!(
            "br-{}",
            id.get(..12).context("a network's id has 64 digits")?
        );
        self.passage.admit_within(&bridge)
    }

    fn network_and_volume(&self) -> Result<()> {
        self.narrator
            .step("A network, and a volume with a page that a container writes into it");
        self.network(&["-d", "bridge", "shop"])?;
        self.hawser(&["volume", "create", "site"])?;
        let write = format!(
            "echo '{PAGE}' >/srv/index.html && \
             dd if=/dev/urandom of=/srv/big bs=1M count=32 2>/dev/null && sha256sum </srv/big"
        );
        self.hawser(&["run", "--rm", "-v", "site:/srv", TOOLS, "sh", "-c", &write])?;
        Ok(())
    }

    fn start_web_server(&self) -> Result<String> {
        let publish = format!("{PORT}:80");
        #[rustfmt::skip]
        let id = self.hawser(&[
            "run", "-d", "--name", "web", "--network", "shop", "--network-alias", "www",
            "-v", "site:/srv", "-p", &publish, WEB,
        ])?;
        Ok(id)
    }

    fn web_server(&self) -> Result<()> {
        self.narrator
            .step("A web server on that network, with that volume, published");
        let id = self.start_web_server()?;
        ensure!(
            id.len() == 64,
            "`run -d` prints the container's id, not {id:?}"
        );
        self.hawser(&["ps"])?;
        Ok(())
    }

    fn names(&self) -> Result<()> {
        self.narrator
            .step("A second container finds it by name and by alias, and fetches the page");
        let resolver = self.hawser(&[
            "run",
            "--rm",
            "--network",
            "shop",
            TOOLS,
            "cat",
            "/etc/resolv.conf",
        ])?;
        ensure!(
            resolver.contains("nameserver 127.0.0.11"),
            "resolv.conf: {resolver}"
        );
        for name in ["web", "www"] {
            let page = wait::until(SOON, &format!("the page of {name}"), || {
                self.daemon
                    .hawser(&["run", "--rm", "--network", "shop", TOOLS, "fetch", name])
                    .ok()
            })?;
            ensure!(page == PAGE, "{name} sent {page:?}");
            self.narrator.result(&format!("fetch {name}: {page}"));
        }
        Ok(())
    }

    fn isolation(&self) -> Result<()> {
        self.narrator
            .step("It neither resolves a name on another network nor reaches its address");
        self.network(&["vault"])?;
        let serve = "mkdir /srv; echo secret >/srv/index.html; exec httpd -f -p 80 -h /srv";
        #[rustfmt::skip]
        self.hawser(&["run", "-d", "--name", "safe", "--network", "vault", TOOLS, "sh", "-c", serve])?;
        let format = "{{.NetworkSettings.Networks.vault.IPAddress}}";
        let address = self.hawser(&["inspect", "--format", format, "safe"])?;
        let fetch = |network: &str, target: &str| {
            self.daemon
                .run(&["run", "--rm", "--network", network, TOOLS, "fetch", target])
        };
        wait::until(SOON, "safe serves its own network", || {
            (fetch("vault", "safe").ok()?.code == 0).then_some(())
        })?;
        for target in ["safe", &address] {
            let ran = fetch("shop", target)?;
            ensure!(
                ran.code != 0,
                "a container on shop reached {target} on vault: {}",
                ran.stdout
            );
            self.narrator
                .result(&format!("fetch {target} from shop: {}", ran.stderr.trim()));
        }
        ensure!(
            fetch("vault", "web")?.code != 0,
            "a container on vault resolved web on shop"
        );
        self.narrator
            .result("from vault it works, and vault does not find web");
        Ok(())
    }

    fn published_port(&self, traces: &Traces) -> Result<()> {
        self.narrator
            .step("The host and an outside host fetch the page through the published port");
        for url in [
            format!("http://127.0.0.1:{PORT}"),
            format!("http://[::1]:{PORT}"),
        ] {
            let page = outside::fetch_on(&self.host, &url)?;
            self.expect_page(&format!("host, {url}"), &page)?;
        }
        let url = format!("http://{}:{PORT}", self.outside.host_v4);
        let page = self.outside.fetch(&url)?;
        self.expect_page(&format!("outside host, {url}"), &page)?;
        let client = self.outside.v4.to_string();
        wait::until(SOON, "the server's log names the outside host", || {
            let log = self.daemon.hawser(&["logs", "web"]).ok()?;
            log.lines()
                .any(|line| line.starts_with(&client))
                .then_some(())
        })?;
        self.narrator.result(&format!(
            "the server's log shows {client}, the client's own address"
        ));
        traces.check(&self.host, PORT)?;
        self.narrator
            .result("no DNAT or redirect rule was added, and no process listens on the port");
        Ok(())
    }

    fn expect_page(&self, who: &str, page: &str) -> Result<()> {
        ensure!(page == PAGE, "{who}: got {page:?}");
        self.narrator.result(&format!("{who}: {page}"));
        Ok(())
    }

    fn data_outlives_the_container(&self) -> Result<()> {
        self.narrator
            .step("The volume outlives the container; a new one serves the page");
        self.hawser(&["stop", "web"])?;
        self.hawser(&["rm", "web"])?;
        let page = self.hawser(&[
            "run",
            "--rm",
            "-v",
            "site:/srv:ro",
            TOOLS,
            "cat",
            "/srv/index.html",
        ])?;
        ensure!(page == PAGE, "the volume holds {page:?}");
        self.start_web_server()?;
        let url = format!("http://127.0.0.1:{PORT}");
        let page = wait::until(SOON, "the new web server answers", || {
            outside::fetch_on(&self.host, &url).ok()
        })?;
        self.expect_page("the new container", &page)
    }

    fn remove_everything(&mut self) -> Result<()> {
        self.narrator.step("Everything is removed");
        self.hawser(&["rm", "-f", "web", "safe"])?;
        self.hawser(&["network", "rm", "shop", "vault"])?;
        self.hawser(&["volume", "rm", "site"])?;
        self.daemon.clean()
    }
}
