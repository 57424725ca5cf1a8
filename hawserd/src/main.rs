//! The daemon of Hawser: one process that opens the two subsystems and serves them on sockets.
//!
//! This crate is the composition root. It holds configuration, sockets, signals, logging and
//! metrics; what networks and storage are is in `netd` and `storaged`.
//!
//! **Invariants**
//! * The daemon is optional for traffic: starting, stopping and killing it disturbs no container.
//! * A request can fail; it cannot take the daemon with it.

mod alone;
mod cgroup;
mod config;
mod daemon;
mod database;
mod events;
mod extract;
mod failure;
mod flags;
mod listen;
mod lock;
mod log;
mod metrics;
mod news;
mod occurrence;
mod outgoing;
mod plugin;
mod pools;
mod request_log;
mod routes;
mod run;
mod server;
mod shutdown;
mod start;
mod swarm;
mod systemd;
mod turns;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use config::Config;
use flags::Flags;
use start::Claim;

fn main() -> ExitCode {
    let outcome = match Flags::try_parse() {
        Ok(flags) => act(&flags),
        Err(error) => flags::explain(&error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hawserd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(flags: &Flags) -> Result<(), Box<dyn Error>> {
    let config = Config::load(flags)?;
    if flags.check_config {
        println!("{}: the configuration is valid", config.source());
        return Ok(());
    }
    let level = log::start(&config)?;
    if flags.uninstall {
        for removed in Claim::take(&config)?.uninstall(&config)? {
            println!("removed {removed}");
        }
        return Ok(());
    }
    if flags.rebuild_database {
        let adopted = Claim::rebuild(&config)?;
        println!("the database was made anew: {adopted}");
        return Ok(());
    }
    Ok(run::run(&config, flags, &level)?)
}
