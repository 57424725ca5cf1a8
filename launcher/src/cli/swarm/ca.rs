//! `hawser swarm ca`.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use api::path::{SWARM, SWARM_CA};
use api::storage::Secret;
use api::swarm::{RotationProgress, Swarm, SwarmRotation};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::trace::duration;

const TICK: Duration = Duration::from_millis(250);
/// How long the daemon may have nothing to say: managers start their etcd again meanwhile.
const SILENCE: Duration = Duration::from_secs(60);

/// `hawser swarm ca`.
#[derive(Debug, Clone, Args)]
pub struct CaFlags {
    /// Replace the authority, by a new one unless one is given
    #[arg(long)]
    pub rotate: bool,
    /// The certificate of the next authority (PEM), which has signed itself
    #[arg(long, value_name = "FILE", requires_all = ["rotate", "ca_key"])]
    pub ca_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["rotate", "ca_cert"])]
    pub ca_key: Option<PathBuf>,
    /// How long the certificates of hosts are good for
    #[arg(long, value_name = "DURATION", requires = "rotate", value_parser = duration)]
    pub cert_expiry: Option<Duration>,
    /// Do not wait until all hosts have done their part
    #[arg(short, long)]
    pub detach: bool,
    /// Wait without a word
    #[arg(short, long)]
    pub quiet: bool,
}

pub(super) fn ca(context: &Context, flags: &CaFlags) -> Result<i32, CliError> {
    if flags.rotate {
        rotate(context, flags)?;
        if flags.detach {
            return Ok(0);
        }
        wait(context, flags.quiet)?;
        if flags.quiet {
            return Ok(0);
        }
    }
    let swarm: Swarm = context.client().get(SWARM)?;
    output::line(swarm.tls.trust_root.trim_end())?;
    Ok(0)
}

fn rotate(context: &Context, flags: &CaFlags) -> Result<(), CliError> {
    let request = SwarmRotation {
        ca_cert: flags.ca_cert.as_deref().map(read).transpose()?,
        ca_key: flags
            .ca_key
            .as_deref()
            .map(read)
            .transpose()?
            .map(Secret::new),
        cert_expiry: flags.cert_expiry.map(|expiry| expiry.as_secs()),
    };
    Ok(context.client().post::<()>(SWARM_CA, &request)?)
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| CliError::File {
        op: "read",
        path: path.to_owned(),
        source,
    })
}

/// Waits until every host trusts the next authority alone, and tells how far they are.
fn wait(context: &Context, quiet: bool) -> Result<(), CliError> {
    let is_terminal = io::stdout().is_terminal();
    let mut shown: Vec<String> = Vec::new();
    let mut heard = Instant::now();
    loop {
        let swarm: Swarm = match context.client().get(SWARM) {
            Ok(swarm) => swarm,
            Err(error) if error.is_unavailable() && heard.elapsed() < SILENCE => {
                thread::sleep(TICK);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        heard = Instant::now();
        let lines = overview(&swarm.rotation);
        if !quiet && lines != shown {
            output::write(drawn(&lines, &shown, is_terminal))?;
            shown = lines;
        }
        if !swarm.root_rotation_in_progress && swarm.rotation.waits.is_empty() {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}

/// Docker's words, and who is waited for.
fn overview(progress: &RotationProgress) -> Vec<String> {
    let nodes = progress.nodes;
    let mut waits = progress.waits.join(", ");
    if waits.is_empty() {
        waits.push_str("nobody");
    }
    vec![
        format!("desired root digest: sha256:{}", progress.digest),
        format!(
            "  rotated TLS certificates:  {}/{nodes} nodes",
            progress.certificates
        ),
        format!(
            "  rotated CA certificates:   {}/{nodes} nodes",
            progress.roots
        ),
        format!("  waiting for:               {waits}"),
    ]
}

/// Over the lines before on a terminal; elsewhere those that have changed.
fn drawn(lines: &[String], before: &[String], is_terminal: bool) -> String {
    if !is_terminal {
        let new = lines.iter().filter(|line| !before.contains(line));
        return new.map(|line| format!("{line}\n")).collect();
    }
    let up = match before.len() {
        0 => String::new(),
        count => format!("\x1b[{count}A"),
    };
    let lines = lines.iter().map(|line| format!("\x1b[2K\r{line}\n"));
    up + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_told_and_drawn_over_on_a_terminal() {
        let mut progress = RotationProgress {
            digest: "ab".to_owned(),
            nodes: 2,
            waits: vec!["n2".to_owned()],
            ..RotationProgress::default()
        };
        let before = overview(&progress);
        assert_eq!(
            drawn(&before, &[], false),
            "desired root digest: sha256:ab\n\
             \x20 rotated TLS certificates:  0/2 nodes\n\
             \x20 rotated CA certificates:   0/2 nodes\n\
             \x20 waiting for:               n2\n"
        );
        progress.certificates = 1;
        let after = overview(&progress);
        let line = "  rotated TLS certificates:  1/2 nodes";
        assert_eq!(drawn(&after, &before, false), format!("{line}\n"));
        let over = drawn(&after, &before, true);
        assert!(over.starts_with("\x1b[4A\x1b[2K\rdesired"), "{over:?}");
        assert!(over.contains(&format!("\x1b[2K\r{line}\n")), "{over:?}");
    }
}
