//! The one build, test, demo and bench entry point: `cargo xtask COMMAND`.
//!
//! It builds with nothing but the Rust toolchain, because `setup` is what installs the rest.
//! What needs the project's own code (the demo, the benches, the acceptance daemon) lives in
//! `kernel-tests` and is built and started from here.

mod apt;
mod build;
mod fuzz;
mod install;
mod packages;
mod process;
mod setup;
mod stories;
mod test;
mod tidy;
mod vm;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Purpose;
use crate::test::Tier;

/// Build, test and try Hawser.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing: system packages, the eBPF toolchain, bpf-linker.
    Setup {
        /// What the machine is to be able to do.
        #[arg(value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// Build the programs.
    Build {
        /// With optimisation, into target/release.
        #[arg(long)]
        release: bool,
    },
    /// Build in release and install: programs, CNI plugin, systemd unit.
    Install {
        /// Directory whose bin/ gets the programs.
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
        /// Directory that stands for / (for packaging).
        #[arg(long, default_value = "/")]
        root: PathBuf,
    },
    /// Check the rules of the tree that no compiler checks.
    Tidy,
    /// Run the tests; without a tier all of them, as CI does. Needs root.
    Test {
        #[arg(value_enum, default_value_t = Tier::All)]
        tier: Tier,
        /// Stories and acceptance scripts with optimised programs, which take minutes more to build.
        #[arg(long)]
        release: bool,
        #[command(flatten)]
        guests: vm::Options,
    },
    /// Feed a fuzz target with what libFuzzer makes of its corpus. Needs the nightly toolchain.
    Fuzz {
        /// A file of fuzz/fuzz_targets: api_request, cni_stdin, dns, image, layer, log, volume.
        target: String,
        #[arg(long, default_value_t = 300)]
        seconds: u32,
    },
    /// Show the main job on this host: containers that find each other by name, a published port,
    /// a volume that outlives them. Needs root.
    Demo,
    /// Measure against peers in the same run and print a table. Needs root.
    Bench {
        /// Rows whose name contains one of these; all that do not take long when absent. `scale`
        /// are those on crowded hosts, some twenty minutes.
        names: Vec<String>,
        /// Write the rows as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Sizes for the measuring program: `-- --runs 3 --endpoints 0,10`; `-- --help` lists them.
        #[arg(last = true)]
        sizes: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup { purpose } => setup::run(purpose),
        Command::Build { release } => build::run(release),
        Command::Install { prefix, root } => install::run(&prefix, &root),
        Command::Tidy => tidy::run(),
        Command::Test {
            tier,
            release,
            guests,
        } => test::run(tier, release, &guests),
        Command::Fuzz { target, seconds } => fuzz::run(&target, seconds),
        Command::Demo => stories::demo(),
        Command::Bench { names, json, sizes } => stories::bench(&names, json.as_deref(), &sizes),
    }
}
