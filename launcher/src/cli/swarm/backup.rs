//! `hawser swarm backup` and `hawser swarm restore`.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use api::client::escape;
use api::path::{SWARM_BACKUP, SWARM_RESTORE};
use api::swarm::Membership;
use clap::Args;

use super::run_replicas;
use crate::cli::ask;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::load;
use crate::cli::output;

/// `hawser swarm backup`.
#[derive(Debug, Clone, Args)]
pub struct BackupFlags {
    /// File that does not exist yet. Whoever reads it can rule the cluster
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `hawser swarm restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreFlags {
    /// Leave the cluster that this host is in
    #[arg(short, long)]
    pub force: bool,
    /// Address at which others reach this host, if it is not the one of the backup: IP[:PORT] or
    /// INTERFACE[:PORT]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_addr: Option<String>,
    /// Ask for the unlock key, which the backup of a cluster that is locked needs
    #[arg(long)]
    pub unlock: bool,
    /// What "hawser swarm backup" wrote; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

pub(super) fn backup(context: &Context, flags: &BackupFlags) -> Result<i32, CliError> {
    let path = &flags.file;
    let failed = |op| {
        let path = path.clone();
        move |source| CliError::File { op, path, source }
    };
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(failed("create"))?;
    let written = context.client().get_into(SWARM_BACKUP, &mut file);
    let written = written.map_err(CliError::from);
    let written = written.and_then(|()| file.sync_all().map_err(failed("write")));
    if written.is_err() {
        // Half a backup is none.
        fs::remove_file(path).map_err(failed("remove"))?;
    }
    written?;
    Ok(0)
}

pub(super) fn restore(context: &Context, flags: &RestoreFlags) -> Result<i32, CliError> {
    let mut key = String::new();
    if flags.unlock {
        if flags.file == Path::new("-") {
            return Err(CliError::Conflict(
                "--unlock reads the key from standard input: name the file",
            ));
        }
        key = ask::secret("Please enter unlock key: ")?;
        key.push('\n');
    }
    let text = load::open(Some(&flags.file))?;
    let mut text = key.as_bytes().chain(text);
    let mut route = format!("{SWARM_RESTORE}?force={}", flags.force);
    if let Some(address) = &flags.advertise_addr {
        route.push_str("&advertise=");
        route.push_str(&escape(address));
    }
    let member: Membership = context.client().post_stream(&route, &mut text)?;
    let node = &member.node;
    output::line(format_args!(
        "Swarm initialized: current node ({node}) is now a manager."
    ))?;
    run_replicas(context)
}
