//! `cargo xtask test`: every check in the order of its price. All stages run, so that one run
//! shows everything that is broken; the last line counts.

mod scripts;
mod tally;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use self::tally::Nextest;
pub(crate) use self::tally::Tally;
use crate::build;
use crate::process;
use crate::setup::{self, Purpose};
use crate::stories;
use crate::tidy;
use crate::vm;
use crate::workspace::{self, EVERY_CRATE};

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Everything, as CI does.
    All,
    /// tidy, rustfmt and clippy. Needs no root.
    Lint,
    /// The tests inside the crates that touch neither kernel nor disk, and the documentation's.
    Unit,
    /// Unit tests and tests in throwaway namespaces, with the eBPF programs.
    Host,
    /// The real programs together, in throwaway namespaces.
    Stories,
    /// The acceptance scripts beside the checkout.
    Acceptance,
    /// Stories under other kernels, in virtual machines; the few of `--quick` are part of the whole.
    Vm,
}

/// Scripts that describe the finished product; they are kept outside the tree.
const ACCEPTANCE: &str = "../shared/acceptance";
/// Those of them that cannot pass yet, with reasons.
const PENDING: &str = "kernel-tests/acceptance-pending.txt";

/// How long removal may go on after the last test.
const GONE: Duration = Duration::from_secs(10);

struct Stage {
    name: &'static str,
    tiers: &'static [Tier],
    run: Run,
}

enum Run {
    /// Within the crates.
    Crates(fn() -> Result<Tally>),
    /// With the programs in this directory.
    Programs(fn(&Path) -> Result<Tally>),
}

const STAGES: &[Stage] = &[
    Stage {
        name: "tidy",
        tiers: &[Tier::Lint],
        run: Run::Crates(run_tidy),
    },
    Stage {
        name: "rustfmt",
        tiers: &[Tier::Lint],
        run: Run::Crates(run_rustfmt),
    },
    Stage {
        name: "clippy",
        tiers: &[Tier::Lint],
        run: Run::Crates(run_clippy),
    },
    Stage {
        name: "scripts",
        tiers: &[Tier::Host],
        run: Run::Crates(scripts::run),
    },
    Stage {
        name: "unit tests",
        tiers: &[Tier::Unit],
        run: Run::Crates(run_unit_tests),
    },
    Stage {
        name: "tests",
        tiers: &[Tier::Host],
        run: Run::Crates(run_tests),
    },
    Stage {
        name: "containers as before Linux 5.12",
        tiers: &[Tier::Host],
        run: Run::Crates(run_older),
    },
    Stage {
        name: "documentation tests",
        tiers: &[Tier::Unit, Tier::Host],
        run: Run::Crates(run_doc_tests),
    },
    Stage {
        name: "stories",
        tiers: &[Tier::Stories],
        run: Run::Programs(run_stories),
    },
    Stage {
        name: "acceptance",
        tiers: &[Tier::Acceptance],
        run: Run::Programs(run_acceptance),
    },
    Stage {
        name: "guests",
        // `Tier::Vm` runs what it is told to instead.
        tiers: &[],
        run: Run::Programs(vm::run_quick),
    },
];

impl Stage {
    fn is_in(&self, tier: Tier) -> bool {
        // All unit tests are among the tests already.
        let all = tier == Tier::All && self.tiers != [Tier::Unit];
        all || self.tiers.contains(&tier)
    }
}

pub(crate) fn run(tier: Tier, release: bool, guests: &vm::Options) -> Result<()> {
    if tier != Tier::Vm && !guests.is_empty() {
        anyhow::bail!("kernels, stories and programs are chosen for `cargo xtask test vm` only");
    }
    if tier != Tier::Lint {
        process::require_root("`cargo xtask test` (`cargo xtask test lint` does not)")?;
        setup::run(Purpose::Test)?;
    }
    let before = leftovers(tier)?;
    let mut total = Tally::default();
    if tier == Tier::Vm {
        total += run_named("guests", || vm::run(&build::programs(release)?, guests));
    }
    for stage in STAGES.iter().filter(|stage| stage.is_in(tier)) {
        total += run_named(stage.name, || match stage.run {
            Run::Crates(run) => run(),
            Run::Programs(run) => run(&build::programs(release)?),
        });
    }
    if let Some(before) = before {
        total += run_named("leftovers", || nothing_left(&before));
    }
    println!("{total}");
    if total.failed > 0 {
        anyhow::bail!("{} failed", total.failed);
    }
    Ok(())
}

fn run_named(name: &str, run: impl FnOnce() -> Result<Tally>) -> Tally {
    println!("\n== {name}");
    let begin = Instant::now();
    let tally = run().unwrap_or_else(|error| {
        println!("{error:#}");
        Tally::FAILED
    });
    println!("== {name}: {tally} ({} s)", begin.elapsed().as_secs());
    tally
}

fn run_tidy() -> Result<Tally> {
    tidy::run().map(|()| Tally::PASSED)
}

fn run_rustfmt() -> Result<Tally> {
    process::run(workspace::cargo().args(["fmt", "--all", "--check"])).map(|()| Tally::PASSED)
}

fn run_clippy() -> Result<Tally> {
    let mut clippy = workspace::cargo();
    clippy
        .args(["clippy", "--all-targets", "--quiet"])
        .args(EVERY_CRATE);
    process::run(clippy.args(["--", "--deny", "warnings"])).map(|()| Tally::PASSED)
}

/// In nextest's language.
const STORIES: &str = "package(kernel-tests)";

fn nextest(arguments: &[&str], environment: &[(&str, &Path)]) -> Result<Tally> {
    let mut nextest = workspace::cargo();
    nextest
        .args(["nextest", "run", "--no-fail-fast"])
        .args(EVERY_CRATE)
        .args(arguments);
    nextest.envs(environment.iter().copied());
    let mut report = Nextest::default();
    let succeeded = process::watch(&mut nextest, |line| report.read(line))?;
    // As TAP, like the acceptance scripts, for whoever reads the end of a long log.
    for name in &report.flaky {
        println!("ok - {name} # flaky: passed at the second try only");
    }
    for name in &report.failed {
        println!("not ok - {name}");
    }
    // A test binary that does not compile has no summary.
    let tally = report.tally.unwrap_or_default();
    if !succeeded && tally.failed == 0 {
        return Ok(tally + Tally::FAILED);
    }
    Ok(tally)
}

fn run_unit_tests() -> Result<Tally> {
    nextest(&["--lib", "--bins"], &[])
}

fn run_tests() -> Result<Tally> {
    let (peers, tree) = stories::peers()?;
    nextest(
        &["--filterset", &format!("not ({STORIES})")],
        &[(peers, &tree)],
    )
}

/// The launcher's own stories once more, where it makes its mounts by itself.
fn run_older() -> Result<Tally> {
    let (peers, tree) = stories::peers()?;
    nextest(
        &["--filterset", "package(launcher) & kind(test)"],
        &[(peers, &tree), ("HAWSER_TEST_OLDER_KERNEL", Path::new("1"))],
    )
}

fn run_doc_tests() -> Result<Tally> {
    process::run(
        workspace::cargo()
            .args(["test", "--doc", "--quiet"])
            .args(EVERY_CRATE),
    )
    .map(|()| Tally::PASSED)
}

fn run_stories(bin: &Path) -> Result<Tally> {
    let web_server = stories::web_server()?;
    let peers = stories::peers()?;
    let runtime_tools = stories::runtime_tools()?;
    nextest(
        &["--filterset", STORIES],
        &[
            ("HAWSER_BIN_DIR", bin),
            (web_server.0, &web_server.1),
            (peers.0, &peers.1),
            (runtime_tools.0, &runtime_tools.1),
        ],
    )
}

fn run_acceptance(bin: &Path) -> Result<Tally> {
    let dir = workspace::root().join(ACCEPTANCE);
    if !dir.join("run").is_file() {
        println!("no acceptance scripts at {}: nothing to run", dir.display());
        return Ok(Tally::default());
    }
    let passed = stories::acceptance(bin, &dir, &workspace::root().join(PENDING))?;
    Ok(if passed { Tally::PASSED } else { Tally::FAILED })
}

/// What of ours is on the host already, when this tier can leave something behind.
fn leftovers(tier: Tier) -> Result<Option<Vec<String>>> {
    if matches!(tier, Tier::Lint | Tier::Unit | Tier::Vm) {
        return Ok(None);
    }
    stories::leftovers().map(Some)
}

/// Nothing of ours is on the host that was not there when the suite began.
fn nothing_left(before: &[String]) -> Result<Tally> {
    // The kernel removes a namespace's interfaces some time after its last process.
    let deadline = Instant::now() + GONE;
    loop {
        let now = stories::leftovers()?;
        let left: Vec<&String> = now
            .iter()
            .filter(|object| !before.contains(object))
            .collect();
        if left.is_empty() {
            return Ok(Tally::PASSED);
        }
        if Instant::now() > deadline {
            left.iter()
                .for_each(|object| println!("left behind: {object}"));
            return Ok(Tally::FAILED);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
