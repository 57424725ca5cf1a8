//! `hawser-shim`: the process that holds one container.
//!
//! ```text
//! hawser run ──spawns──▶ hawser-shim run ──┬─▶ daemon: root file system, volumes
//!     ▲   report pipe, shim.sock  │        ├─▶ a copy of itself: create|delete (libcontainer)
//!     └───────────────────────────┘        └─▶ CNI plugins
//! ```
//!
//! It is small, has one thread and outlives whoever started it; a restart of the daemon does not
//! touch it. It holds the container's streams, log and exit status, serves clients on a socket
//! ([`crate::stream`]) and undoes everything when the container ends. A container whose shim is
//! killed ends with it, so that a dead shim always means a dead container.
//!
//! The same program is an OCI runtime for others ([`oci::command`]).

mod arguments;
mod clients;
mod daemon;
mod device;
mod drain;
pub(crate) mod etc;
mod exec;
mod executor;
mod filter;
pub(crate) mod foreign;
mod freezer;
mod guard;
mod health;
mod healthcheck;
mod hold;
mod init;
pub mod launch;
mod log;
mod loopback;
mod oci;
pub mod restart;
pub(crate) mod rootfs;
mod run;
mod runtime;
mod setup;
mod spec;
mod stage;
mod streams;
mod teller;
mod title;

use std::ffi::OsString;

use arguments::{Arguments, Grammar, UsageError};
use exec::terminal::{HOLD_TERMINAL, hold as hold_terminal};
use launch::{EXIT_DAEMON, Places};
pub(crate) use spec::Modules;

const PLACES: [&str; 5] = [
    "--container-dir",
    "--run-dir",
    "--host",
    "--plugin-dir",
    "--cni-bin",
];
const RUN: Grammar = Grammar {
    options: &PLACES,
    switches: &["--wait-attach"],
};
const CLEAN: Grammar = Grammar {
    options: &PLACES,
    switches: &[],
};
const EXEC: Grammar = Grammar {
    options: &[
        "--container-dir",
        "--run-dir",
        "--host",
        "--plugin-dir",
        "--cni-bin",
        "--user",
        "--env",
        "--workdir",
        "--timeout-ms",
        "--detach-keys",
    ],
    switches: &["--tty", "--interactive", "--detach", "--privileged"],
};
/// The program; returns its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    dispatch(arguments).unwrap_or_else(|error| {
        eprintln!("hawser-shim: {error}");
        EXIT_DAEMON
    })
}

fn dispatch(arguments: impl IntoIterator<Item = OsString>) -> Result<i32, UsageError> {
    let mut arguments = arguments.into_iter();
    let verb = arguments.next().unwrap_or_default();
    match verb.to_str() {
        Some("run") => {
            let arguments = Arguments::parse(arguments, RUN)?;
            Ok(run::main(&places(&arguments)?, &arguments))
        }
        Some("guard") => Ok(guard::main(&places(&Arguments::parse(arguments, CLEAN)?)?)),
        Some("clean") => Ok(run::clean(&places(&Arguments::parse(arguments, CLEAN)?)?)),
        Some("join") => {
            let arguments = Arguments::parse(arguments, EXEC)?;
            Ok(exec::main(&places(&arguments)?, &arguments))
        }
        Some(HOLD_TERMINAL) => Ok(hold_terminal()),
        Some(oci::mounts::VERB) => Ok(oci::mounts::main(arguments)),
        Some(oci::hook::VERB) => Ok(oci::hook::main(arguments)),
        Some(first) if oci::command::is_meant(first) => {
            Ok(oci::command::main(std::iter::once(verb).chain(arguments)))
        }
        _ => Err(UsageError::Words {
            expected: "run, join or clean as the first argument, or a verb of OCI runtimes",
        }),
    }
}

fn places(arguments: &Arguments) -> Result<Places, UsageError> {
    let host = arguments.required("--host")?;
    let socket = host.strip_prefix("unix://").unwrap_or(host);
    Ok(Places {
        container_dir: arguments.path("--container-dir")?,
        run_dir: arguments.path("--run-dir")?,
        socket: socket.into(),
        plugin_dir: arguments.path("--plugin-dir")?,
        cni_bin_dir: arguments.path("--cni-bin")?,
    })
}
