//! The daemon is killed while a download runs: the download does not notice, and the next daemon
//! adopts everything.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use kernel_tests::{outside, wait};

use super::{Demo, PORT, ROOT, SOON, TOOLS};

/// Slow enough that the download outlasts the daemon's death and rebirth.
const RATE: &str = "6M";
/// The download is under way when so much has arrived.
const UNDER_WAY: u64 = 2 << 20;

impl Demo<'_> {
    pub(super) fn daemon_dies(&mut self) -> Result<()> {
        self.narrator
            .step("hawserd is killed with -9 while the outside host downloads 32 MB");
        let sum = self
            .daemon
            .hawser(&["exec", "web", "sha256sum", "/srv/big"])?;
        let sum = sum.split(' ').next().unwrap_or_default().to_owned();
        let file = Path::new(ROOT).join("download");
        let mut download = self.download(&file)?;
        wait::until(SOON, "the download is under way", || {
            fs::metadata(&file)
                .ok()
                .filter(|file| file.len() > UNDER_WAY)
        })?;
        self.daemon.kill()?;
        ensure!(
            download.try_wait().context("curl")?.is_none(),
            "the download ended before hawserd was killed"
        );
        self.narrator
            .result("hawserd is dead; the download goes on");
        let url = format!("http://127.0.0.1:{PORT}");
        let page = outside::fetch_on(&self.host, &url)?;
        self.expect_page("a new connection without hawserd", &page)?;
        self.daemon.launch()?;
        self.narrator
            .result("hawserd is back, while the download still runs");
        ensure!(
            download.wait().context("curl")?.success(),
            "the download was cut"
        );
        let got = self
            .host
            .output("sha256sum", &[&file.display().to_string()])?;
        ensure!(
            got.starts_with(&sum),
            "the download is damaged: {got}, not {sum}"
        );
        self.narrator
            .result("the download is complete, to the last bit");
        self.adopted()
    }

    fn download(&self, file: &Path) -> Result<Child> {
        let url = format!("http://{}:{PORT}/big", self.outside.host_v4);
        self.outside
            .command("curl")
            .args(["--silent", "--fail", "--noproxy", "*", "--limit-rate", RATE])
            .arg("--output")
            .args([file.as_os_str(), url.as_ref()])
            .stdin(Stdio::null())
            .spawn()
            .context("curl")
    }

    fn adopted(&self) -> Result<()> {
        let listing = self.hawser(&["ps"])?;
        for name in ["web", "safe"] {
            ensure!(listing.contains(name), "{name} is not running: {listing}");
        }
        let networks = self.daemon.hawser(&["network", "ls"])?;
        ensure!(networks.contains("shop"), "the network is gone: {networks}");
        let page =
            self.daemon
                .hawser(&["run", "--rm", "--network", "shop", TOOLS, "fetch", "www"])?;
        self.expect_page("a new container finds www and fetches", &page)?;
        let page = self
            .outside
            .fetch(&format!("http://{}:{PORT}", self.outside.host_v4))?;
        self.expect_page("the outside host", &page)
    }
}
