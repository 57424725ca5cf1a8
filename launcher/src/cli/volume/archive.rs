//! `hawser volume export` and `hawser volume import`.

use std::path::PathBuf;

use api::client::escape;
use api::path::{VOLUME_ARCHIVE, VOLUMES};
use api::storage::{Volume, VolumeImport};
use clap::Args;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::image::{load, save};
use super::super::output;
use super::super::run::env;

/// `hawser volume export`.
#[derive(Debug, Clone, Args)]
pub struct ExportFlags {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also while a container has the volume mounted: files may then be of different moments
    #[arg(long)]
    pub live: bool,
    /// Volume to export
    pub volume: String,
}

/// `hawser volume import`.
#[derive(Debug, Clone, Args)]
pub struct ImportFlags {
    /// Option of the volume instead of those it had: NAME=VALUE
    #[arg(short, long = "opt", value_name = "OPTION")]
    pub opt: Vec<String>,
    /// Label beside those it had: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Name of the new volume
    pub volume: String,
    /// What "hawser volume export" wrote; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

pub(super) fn export(context: &Context, flags: &ExportFlags) -> Result<i32, CliError> {
    let route = format!("{}?live={}", route(&flags.volume), flags.live);
    save::download(context, &route, flags.output.as_deref())?;
    Ok(0)
}

pub(super) fn import(context: &Context, flags: &ImportFlags) -> Result<i32, CliError> {
    let failed = |source| CliError::Import {
        file: flags.file.clone(),
        source,
    };
    let request = VolumeImport {
        options: env::labels(&flags.opt),
        labels: env::labels(&flags.label),
    };
    let request = serde_json::to_string(&request).map_err(|source| CliError::Io {
        op: "encode the request",
        source: source.into(),
    })?;
    let route = format!("{}?request={}", route(&flags.volume), escape(&request));
    let mut stream = load::open(Some(&flags.file))?;
    let volume: Volume = context
        .client()
        .post_stream(&route, &mut stream)
        .map_err(failed)?;
    output::line(volume.name)?;
    Ok(0)
}

fn route(volume: &str) -> String {
    format!("{VOLUMES}/{}/{VOLUME_ARCHIVE}", escape(volume))
}
