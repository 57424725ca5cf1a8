//! The CNI plugin for all drivers, installed as `/opt/cni/bin/hawser`.

use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let lookup = |name: &str| std::env::var(name).ok();
    let outcome = cni_plugins::run(&lookup, &mut io::stdin().lock());
    let written = match outcome.reply.as_str() {
        "" => Ok(()),
        reply => writeln!(io::stdout().lock(), "{reply}"),
    };
    // A runtime that closed its end must not take a result it never read for a success.
    if outcome.success && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
