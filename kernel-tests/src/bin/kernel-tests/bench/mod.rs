//! `cargo xtask bench`: figures against peers, measured in the same run.
//!
//! Ours and the peer take turns, each on a throwaway host of its own, and the order turns with
//! every repeat. A row states the medians, their quartiles and the median of the ratios of the
//! repeats: hosts change speed while they run, so absolute figures mean little.

mod cni;
mod containers;
mod docker;
mod names;
mod published;
mod row;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kernel_tests::Shop;

use self::docker::Docker;
use self::row::Row;

/// Directory of the unpacked peers, as `cargo xtask` leaves it.
const PEERS_ENV: &str = "HAWSER_PEERS";
/// Repeats of a row that takes milliseconds, and of one that takes seconds.
const MANY: usize = 25;
const FEW: usize = 7;

/// A row to measure. The name selects it, so that one row can be measured alone.
struct Bench {
    name: &'static str,
    measure: fn(&Scene) -> Result<Row>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "cni-add",
        measure: cni::add,
    },
    Bench {
        name: "run-true",
        measure: containers::run_true,
    },
    Bench {
        name: "run-true-network",
        measure: containers::run_true_network,
    },
    Bench {
        name: "published-throughput",
        measure: published::throughput,
    },
    Bench {
        name: "published-requests",
        measure: published::requests,
    },
    Bench {
        name: "published-connections",
        measure: published::connections,
    },
    Bench {
        name: "own-port-throughput",
        measure: published::own_throughput,
    },
    Bench {
        name: "names",
        measure: names::lookups,
    },
];

/// What the rows measure.
struct Scene {
    shop: Shop,
    /// Why dockerd cannot run here, otherwise.
    docker: Result<Docker>,
}

impl Scene {
    fn open() -> Result<Self> {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "bench"]);
        Ok(Self {
            docker: Docker::start(),
            shop,
        })
    }

    fn docker(&self) -> Result<&Docker, String> {
        self.docker
            .as_ref()
            .map_err(|error| format!("dockerd cannot run here: {error:#}"))
    }
}

/// A file of the unpacked peers.
fn peer(path: &str) -> Result<PathBuf> {
    let root = std::env::var_os(PEERS_ENV)
        .with_context(|| format!("{PEERS_ENV} is not set; run this through `cargo xtask bench`"))?;
    let file = Path::new(&root).join(path);
    ensure!(file.exists(), "{} does not exist", file.display());
    Ok(file)
}

/// Measures the rows whose name contains one of `names`, or all.
pub(crate) fn run(names: &[String], json: Option<&Path>) -> Result<()> {
    let wanted = |bench: &&Bench| {
        names.is_empty() || names.iter().any(|name| bench.name.contains(name.as_str()))
    };
    let benches: Vec<&Bench> = BENCHES.iter().filter(wanted).collect();
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
    ensure!(
        !benches.is_empty(),
        "no such row; there are: {}",
        known.join(", ")
    );
    let scene = Scene::open()?;
    let mut rows = Vec::new();
    for bench in benches {
        eprintln!("measuring {}", bench.name);
        rows.push((bench.measure)(&scene).with_context(|| bench.name)?);
    }
    println!("{}", row::table(&rows));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&rows).context("rows as JSON")?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}
