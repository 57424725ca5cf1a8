//! `cargo xtask bench`: figures against peers, measured in the same run.
//!
//! Ours and the peer take turns, each on a throwaway host of its own, and the order turns with
//! every repeat. A row states the medians, their quartiles and the median of the ratios of the
//! repeats: hosts change speed while they run, so absolute figures mean little.

mod cluster;
mod cni;
mod containers;
mod docker;
mod engine;
mod life;
mod memory;
mod names;
mod overlay;
mod packets;
mod ports;
mod published;
mod resolver;
mod row;
mod sizes;
mod soak;
mod storage;
mod town;
mod turns;
mod volumes;

use std::cell::OnceCell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernel_tests::host::Namespaces;
use kernel_tests::{Host, Shop, wait};

use self::docker::Docker;
use self::row::Row;
pub(crate) use self::sizes::Sizes;
use self::turns::Figures;

/// Repeats of a row that takes milliseconds, and of one that takes seconds.
const MANY: usize = 25;
const FEW: usize = 7;
/// Repeats where a sample is a second or less on a machine that changes its speed.
const NINE: usize = 9;
/// How long the kernel may take to remove thousands of namespaces.
const REMOVAL_LIMIT: Duration = Duration::from_secs(300);
/// What takes minutes is measured only when it is named.
const LONG: &str = "scale";

/// Rows to measure together. The name selects them.
struct Bench {
    name: &'static str,
    measure: fn(&Scene) -> Result<Vec<Row>>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "cni-add",
        measure: cni::empty_host,
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
        name: "exec-true",
        measure: life::exec,
    },
    Bench {
        name: "log-json-file",
        measure: life::log,
    },
    Bench {
        name: "shim-memory",
        measure: life::shim,
    },
    Bench {
        name: "pull-30-layers",
        measure: life::pull,
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
        name: "overlay-throughput",
        measure: overlay::throughput,
    },
    Bench {
        name: "packets",
        measure: packets::rows,
    },
    Bench {
        name: "names",
        measure: names::lookups,
    },
    Bench {
        name: "scale-import",
        measure: storage::import,
    },
    Bench {
        name: "storage-rootfs",
        measure: storage::rootfs,
    },
    Bench {
        name: "storage-copy-up",
        measure: storage::copy_up,
    },
    Bench {
        name: "storage-commit",
        measure: storage::commit,
    },
    Bench {
        name: "storage-volumes",
        measure: storage::volumes,
    },
    Bench {
        name: "storage-mount",
        measure: volumes::mounts,
    },
    Bench {
        name: "storage-podman",
        measure: volumes::podman,
    },
    Bench {
        name: "storage-restart",
        measure: volumes::restart,
    },
    Bench {
        name: "storage-copies",
        measure: volumes::copies,
    },
    Bench {
        name: "scale-attach",
        measure: cni::curve,
    },
    Bench {
        name: "scale-range",
        measure: cni::range,
    },
    Bench {
        name: "scale-memory",
        measure: memory::rows,
    },
    Bench {
        name: "scale-names",
        measure: resolver::rows,
    },
    Bench {
        name: "scale-ports-throughput",
        measure: ports::throughput,
    },
    Bench {
        name: "scale-ports-streams",
        measure: ports::streams,
    },
    Bench {
        name: "scale-ports-connections",
        measure: ports::connections,
    },
    Bench {
        name: "scale-ports-requests",
        measure: ports::requests,
    },
    Bench {
        name: "scale-cluster",
        measure: cluster::rows,
    },
    Bench {
        name: "scale-soak-kills",
        measure: soak::kills,
    },
    Bench {
        name: "scale-soak-churn",
        measure: soak::churn,
    },
];

/// What the rows measure; what only some need is opened by the first that does.
struct Scene {
    sizes: Sizes,
    shop: OnceCell<Shop>,
    /// Why dockerd cannot run here, otherwise.
    docker: OnceCell<Result<Docker>>,
}

impl Scene {
    fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            shop: OnceCell::new(),
            docker: OnceCell::new(),
        }
    }

    fn shop(&self) -> &Shop {
        self.shop.get_or_init(|| {
            let shop = Shop::open();
            shop.hawser(&["network", "create", "bench"]);
            shop
        })
    }

    fn docker(&self) -> Result<&Docker, String> {
        self.docker
            .get_or_init(Docker::start)
            .as_ref()
            .map_err(|error| format!("dockerd cannot run here: {error:#}"))
    }
}

/// One of the figures that each turn yields.
fn column<const N: usize>(figures: &Figures<[f64; N]>, place: usize) -> Figures<f64> {
    let figures = figures.as_ref().map_err(Clone::clone)?;
    Ok(figures.iter().map(|figure| figure[place]).collect())
}

/// Measures the rows that `names` select, or all that do not take long.
pub(crate) fn run(names: &[String], json: Option<&Path>, sizes: Sizes) -> Result<()> {
    let benches: Vec<&Bench> = BENCHES
        .iter()
        .filter(|bench| is_wanted(bench.name, names))
        .collect();
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
    ensure!(
        !benches.is_empty(),
        "no such row; there are: {}",
        known.join(", ")
    );
    let scene = Scene::new(sizes);
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for bench in benches {
        eprintln!("measuring {}", bench.name);
        // The rows measured so far are worth more than a clean end.
        match (bench.measure)(&scene) {
            Ok(measured) => {
                // A later one may take long, or be cut short.
                eprintln!("{}", row::table(&measured));
                rows.extend(measured);
            }
            Err(error) => failed.push(format!("{}: {error:#}", bench.name)),
        }
        let_namespaces_go()?;
    }
    println!("{}", row::table(&rows));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&rows).context("rows as JSON")?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Waits until the kernel has removed the namespaces of the rows before: thousands take it seconds,
/// with the lock held that all changes of links need.
fn let_namespaces_go() -> Result<()> {
    const LINK: &str = "last0";
    let host = Host::throwaway()?;
    let last = Namespaces::new(&["--net"])?;
    let pid = last.pid().to_string();
    let pair = ["type", "veth", "peer", "name", "eth0", "netns", &pid];
    host.output("ip", &[&["link", "add", LINK][..], &pair].concat())?;
    drop(last);
    // One worker removes them in their order (net/core/net_namespace.c, cleanup_net), and a pair
    // goes with either namespace.
    wait::until(REMOVAL_LIMIT, "the kernel removes namespaces", || {
        host.output("ip", &["link", "show", LINK]).err()
    })
    .map(drop)
}

/// Whether the rows called `bench` are asked for: a name selects every one that it is a part of,
/// of those that take long only when it says so.
fn is_wanted(bench: &str, names: &[String]) -> bool {
    let is_long = bench.starts_with(LONG);
    if names.is_empty() {
        return !is_long;
    }
    names
        .iter()
        .any(|name| name.starts_with(LONG) == is_long && bench.contains(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_named() {
        let wanted = |names: &[&str]| -> Vec<&str> {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            BENCHES
                .iter()
                .map(|bench| bench.name)
                .filter(|name| is_wanted(name, &names))
                .collect()
        };
        assert!(wanted(&[]).iter().all(|name| !name.starts_with(LONG)));
        assert!(wanted(&["scale"]).iter().all(|name| name.starts_with(LONG)));
        assert_eq!(wanted(&["scale-range"]), ["scale-range"]);
        assert_eq!(wanted(&["names"]), ["names"]);
        assert!(wanted(&["nothing"]).is_empty());
    }
}
