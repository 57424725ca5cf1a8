//! Drives the real programs on this host: what `cargo xtask demo`, `bench` and `test` start once
//! everything is built.

mod acceptance;
mod bench;
mod demo;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kernel_tests::{Host, leftovers};

/// Started by `cargo xtask`, which says in the environment where things are.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the main job on this host.
    Demo,
    /// Measure against peers.
    Bench {
        names: Vec<String>,
        #[arg(long)]
        json: Option<PathBuf>,
        #[command(flatten)]
        sizes: bench::Sizes,
    },
    /// Run the acceptance scripts of DIR against a daemon of their own.
    Acceptance {
        dir: PathBuf,
        /// Scripts that cannot pass yet: name and reason a line.
        pending: PathBuf,
    },
    /// List what of ours is on this host.
    Leftovers,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Bench { names, json, sizes } => bench::run(&names, json.as_deref(), sizes),
        Command::Acceptance { dir, pending } => acceptance::run(&dir, &pending),
        Command::Leftovers => list_leftovers(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list_leftovers() -> anyhow::Result<()> {
    for object in leftovers::observe(&Host::real())? {
        println!("{object}");
    }
    Ok(())
}
