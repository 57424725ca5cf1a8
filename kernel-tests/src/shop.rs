//! Where the stories play: a throwaway host with a daemon, an outside host, and one image.
//!
//! Its functions panic with the whole chain of errors: they are for tests only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::program::Ran;
use crate::{Daemon, Host, Outside, image, outside, wait};

/// The busybox image.
pub const TOOLS: &str = "tools";
/// How long something that is under way may take: long enough for a loaded machine, and a test that
/// works does not wait.
pub const SOON: Duration = Duration::from_secs(30);
/// Serves the page in the container's variable PAGE on port 80 and logs its clients.
const SERVE: &str = "mkdir -p /srv; echo $PAGE >/srv/index.html; exec httpd -f -vv -p 80 -h /srv";

/// Dropped in this order: first what the daemon made, then the hosts.
#[derive(Debug)]
pub struct Shop {
    pub daemon: Daemon,
    pub outside: Outside,
    pub host: Arc<Host>,
}

/// Of two members, one is missed by so many tries once in a million.
const TRIES: usize = 21;

/// The pages that as many fetches get as it takes to meet all members.
pub fn pages(mut fetch: impl FnMut() -> Result<String>) -> BTreeSet<String> {
    (0..TRIES)
        .map(|_| fetch().unwrap_or_else(|error| format!("{error:#}")))
        .collect()
}

/// What [`pages`] should be.
pub fn set(pages: &[&str]) -> BTreeSet<String> {
    pages.iter().map(|page| (*page).to_owned()).collect()
}

/// Fetches without end while `act` runs: how often, and what failed.
pub fn fetch_during(
    fetch: impl Fn() -> Result<String> + Sync,
    act: impl FnOnce(),
) -> (usize, Vec<anyhow::Error>) {
    /// Set also when `act` panics, so that the client ends.
    struct Ending<'a>(&'a AtomicBool);

    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut asked, mut failed) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                asked += 1;
                failed.extend(fetch().err());
            }
            (asked, failed)
        });
        let ending = Ending(&done);
        act();
        drop(ending);
        client.join().expect("the client ends")
    })
}

#[track_caller]
fn must<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}

impl Shop {
    #[track_caller]
    pub fn open() -> Self {
        Self::configured("")
    }

    /// With `settings` in the daemon's configuration.
    #[track_caller]
    pub fn configured(settings: &str) -> Self {
        Self::on(Arc::new(must(Host::throwaway())), settings)
    }

    /// On a host that has been prepared.
    #[track_caller]
    pub fn on(host: Arc<Host>, settings: &str) -> Self {
        let daemon = must(Daemon::configured(Arc::clone(&host), settings));
        let outside = must(Outside::new(Arc::clone(&host)));
        let shop = Self {
            daemon,
            outside,
            host,
        };
        let archive = shop.daemon.directories().root().join("tools.tar");
        must(image::busybox(&archive));
        shop.hawser(&["image", "import", &archive.display().to_string(), TOOLS]);
        shop
    }

    /// Runs `hawser ARGUMENTS`, which must succeed; returns its standard output.
    #[track_caller]
    pub fn hawser(&self, arguments: &[&str]) -> String {
        must(self.daemon.hawser(arguments))
    }

    /// Runs `hawser WORDS`, which must succeed, as typed but for quotes; returns its standard
    /// output.
    #[track_caller]
    pub fn type_(&self, words: &str) -> String {
        self.hawser(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `hawser WORDS`, which must fail with `code` and one line that has `part`.
    #[track_caller]
    pub fn refuses(&self, words: &str, code: i32, part: &str) {
        let ran = self.run(&words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(part), "no {part:?}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }

    /// A container in the background that does nothing.
    #[track_caller]
    pub fn idle(&self, name: &str, flags: &str) {
        self.type_(&format!("run -d --name {name} {flags} {TOOLS} sleep 600"));
    }

    /// As [`Self::idle`], of one that is refused at first.
    #[track_caller]
    pub fn idle_soon(&self, name: &str, flags: &str) {
        let words = format!("run -d --name {name} {flags} {TOOLS} sleep 600");
        let words: Vec<&str> = words.split_whitespace().collect();
        self.soon("it starts", || self.daemon.hawser(&words));
    }

    /// A container's address on a network.
    #[track_caller]
    pub fn address(&self, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        self.inspect(container, &format)
    }

    /// What `sh -c SCRIPT` in a container says; it must succeed.
    #[track_caller]
    pub fn inside(&self, container: &str, script: &str) -> String {
        self.hawser(&["exec", container, "sh", "-c", script])
    }

    /// The exit code and all output of `sh -c SCRIPT` in a container.
    #[track_caller]
    pub fn try_inside(&self, container: &str, script: &str) -> Ran {
        self.run(&["exec", container, "sh", "-c", script])
    }

    /// Runs `hawser ARGUMENTS` to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        must(self.daemon.run(arguments))
    }

    /// A container in the background that serves `page`; waits until it listens.
    #[track_caller]
    pub fn serve(&self, name: &str, page: &str, flags: &[&str]) {
        let page = format!("PAGE={page}");
        let head = ["run", "-d", "--name", name, "-e", &page];
        self.hawser(&[&head, flags, &[TOOLS, "sh", "-c", SERVE]].concat());
        self.soon("the server listens", || {
            self.daemon.hawser(&["exec", name, "fetch", "127.0.0.1"])
        });
    }

    /// A container writes a page into a volume.
    #[track_caller]
    pub fn write_page(&self, volume: &str, text: &str) {
        let script = format!("echo {text} >/d/page");
        let mount = format!("{volume}:/d");
        self.hawser(&["run", "--rm", "-v", &mount, TOOLS, "sh", "-c", &script]);
    }

    /// The page in a volume, as a container sees it.
    #[track_caller]
    pub fn page(&self, volume: &str) -> String {
        self.type_(&format!("run --rm -v {volume}:/d {TOOLS} cat /d/page"))
    }

    /// What a new container on `network` gets from `target`.
    #[track_caller]
    pub fn fetch(&self, network: &str, target: &str) -> Ran {
        self.run(&["run", "--rm", "--network", network, TOOLS, "fetch", target])
    }

    /// The page at `url`, seen from the host.
    ///
    /// # Errors
    /// When there is none.
    pub fn fetch_on_host(&self, url: &str) -> Result<String> {
        outside::fetch_on(&self.host, url)
    }

    /// What `hawser inspect` says of `object`.
    #[track_caller]
    pub fn inspect(&self, object: &str, format: &str) -> String {
        self.hawser(&["inspect", "--format", format, object])
    }

    /// Polls until `probe` succeeds.
    #[track_caller]
    pub fn soon<T>(&self, what: &str, mut probe: impl FnMut() -> Result<T>) -> T {
        let mut last = None;
        let value = wait::until(SOON, what, || {
            probe().map_err(|error| last = Some(error)).ok()
        });
        value.unwrap_or_else(|late| panic!("{late:#}; last: {last:?}"))
    }
}
