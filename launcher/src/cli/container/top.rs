//! `hawser top`: the processes of a container, as the host sees them.

use std::collections::BTreeSet;
use std::io;
use std::process::Command;

use clap::Args;

use crate::cgroup::Group;
use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::output;
use crate::container::Status;
use crate::format::table::aligned;
use crate::store::ContainerDir;

/// `hawser top`.
#[derive(Debug, Clone, Args)]
pub struct TopFlags {
    /// Container whose processes to show
    pub container: String,
    /// Options of ps(1); -ef unless given
    #[arg(
        value_name = "PS-OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub options: Vec<String>,
}

/// # Errors
/// It does not run, or ps(1) cannot show process ids with these options.
pub fn top(context: &Context, flags: &TopFlags) -> Result<i32, CliError> {
    let container = context.container(&flags.container)?;
    output::write(aligned(&listing(
        &container,
        &flags.container,
        &flags.options,
    )?))?;
    Ok(0)
}

/// The header and the processes of a container, which the user calls `key`, with tabs between the
/// columns.
///
/// # Errors
/// As [`top`].
pub(crate) fn listing(
    container: &ContainerDir,
    key: &str,
    options: &[String],
) -> Result<Vec<String>, CliError> {
    if container.state()?.status != Status::Running {
        return Err(ContainerError::NotRunning(key.to_owned()).into());
    }
    let group = Group::of(&container.record()?);
    let processes = group.and_then(|group| group.processes());
    let processes = processes.map_err(|source| CliError::Io {
        op: "read the container's control group",
        source,
    })?;
    let listing = ps(options)?;
    filtered(&listing, &processes.into_iter().collect()).ok_or(CliError::NoPidColumn)
}

fn ps(options: &[String]) -> Result<String, CliError> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let failed = |source| CliError::Io {
        op: "run ps(1), of the package procps",
        source,
    };
    let output = command.output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().find(|line| !line.trim().is_empty());
    Err(failed(io::Error::other(
        first.unwrap_or("it failed").trim().to_owned(),
    )))
}

/// The header and the lines of these processes, with tabs between the columns. The last column may
/// hold blanks.
fn filtered(listing: &str, processes: &BTreeSet<u32>) -> Option<Vec<String>> {
    let mut lines = listing.lines();
    let header: Vec<&str> = lines.next()?.split_whitespace().collect();
    let pid = header.iter().position(|title| *title == "PID")?;
    let mut shown = vec![header.join("\t")];
    for line in lines {
        let fields = columns(line, header.len());
        let is_ours = fields
            .get(pid)
            .and_then(|text| text.parse().ok())
            .is_some_and(|number| processes.contains(&number));
        if is_ours {
            shown.push(fields.join("\t"));
        }
    }
    Some(shown)
}

/// At most `count` columns; the last one keeps its blanks.
fn columns(line: &str, count: usize) -> Vec<&str> {
    let (mut fields, mut rest) = (Vec::new(), line.trim());
    while fields.len() + 1 < count
        && let Some((field, more)) = rest.split_once(char::is_whitespace)
    {
        fields.push(field);
        rest = more.trim_start();
    }
    fields.push(rest);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown_with_whole_commands() {
        let listing = "UID          PID    PPID  C STIME TTY          TIME CMD\n\
                       root           1       0  0 10:00 ?        00:00:01 /sbin/init\n\
                       root         712     700  0 10:02 ?        00:00:00 sleep 10 20\n";
        let shown = filtered(listing, &BTreeSet::from([712])).unwrap();
        assert_eq!(
            shown,
            [
                "UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD",
                "root\t712\t700\t0\t10:02\t?\t00:00:00\tsleep 10 20"
            ]
        );
        assert_eq!(filtered("COMMAND\nsleep\n", &BTreeSet::new()), None);
    }
}
