//! `hawser storage …`: the store as a whole.

use api::doctor::{Difference, Treatment};
use api::path::STORAGE_CHECK;
use api::storage::{StorageCheck, StorageReport};
use clap::{Args, Subcommand};

use super::context::Context;
use super::error::CliError;
use super::output;

/// `hawser storage`.
#[derive(Debug, Clone, Subcommand)]
pub enum StorageCommand {
    /// Compare images, layers and volumes on record with what is on disk
    Check(CheckFlags),
}

/// `hawser storage check`.
#[derive(Debug, Clone, Args)]
pub struct CheckFlags {
    /// Read every byte of every layer
    #[arg(long)]
    pub deep: bool,
    /// Repair what can be repaired; what cannot is marked, and loading the image again replaces it
    #[arg(long)]
    pub repair: bool,
    /// json
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub format: Option<String>,
}

/// # Errors
/// [`CliError`] of the command.
pub fn run(context: &Context, command: &StorageCommand) -> Result<i32, CliError> {
    match command {
        StorageCommand::Check(flags) => check(context, flags),
    }
}

/// Exits 1 while something differs.
fn check(context: &Context, flags: &CheckFlags) -> Result<i32, CliError> {
    let request = StorageCheck {
        deep: flags.deep,
        repair: flags.repair,
    };
    let report: StorageReport = context.client().post(STORAGE_CHECK, &request)?;
    if flags.format.is_some() {
        output::line(serde_json::json!(report))?;
    } else {
        lines(&report).iter().try_for_each(output::line)?;
    }
    Ok(i32::from(!report.is_well()))
}

fn lines(report: &StorageReport) -> Vec<String> {
    let mut lines: Vec<String> = report.differences.iter().map(difference).collect();
    let StorageReport {
        layers,
        images,
        rootfs,
        volumes,
        ..
    } = report;
    let how = if report.deep { "read" } else { "looked at" };
    let verdict = match report.differences.len() {
        0 => "all is well".to_owned(),
        1 => "1 difference".to_owned(),
        count => format!("{count} differences"),
    };
    lines.push(format!(
        "{how} {layers} layers, {images} images, {rootfs} root filesystems, {volumes} volumes: {verdict}"
    ));
    lines
}

fn difference(difference: &Difference) -> String {
    let Difference {
        what,
        remedy,
        state,
        error,
    } = difference;
    match state {
        Treatment::Found => format!("{what}; {remedy}"),
        Treatment::Repaired => format!("{what}; repaired: {remedy}"),
        Treatment::Failed => format!("{what}; could not {remedy}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_a_line_and_the_last_one_counts() {
        let report = StorageReport {
            differences: vec![Difference {
                what: "volume data: its directory is missing".to_owned(),
                remedy: "remove the volume".to_owned(),
                state: Treatment::Found,
                error: String::new(),
            }],
            volumes: 1,
            ..StorageReport::default()
        };
        assert_eq!(
            lines(&report),
            [
                "volume data: its directory is missing; remove the volume",
                "looked at 0 layers, 0 images, 0 root filesystems, 1 volumes: 1 difference",
            ]
        );
        assert!(!report.is_well());
    }
}
