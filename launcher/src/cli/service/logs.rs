//! `hawser service logs`: the output of all replicas, each line with the replica it came from.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use api::service::Service;
use api::work::OutputRequest;
use clap::Args;

use super::{ServiceFlagError, find, remote};
use crate::agent::crew::Replicas;
use crate::agent::task::Task;
use crate::cli::container::logs;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::store::StoreError;

/// How often new replicas are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// `hawser service logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsFlags {
    /// Go on as output comes, also of replicas that start later
    #[arg(short, long)]
    pub follow: bool,
    /// Show the last N lines of each replica only
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    pub tail: String,
    /// Show output since a time (2026-01-02T15:04:05Z) or for a span (10m)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Show the time of every line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show the lines alone, without the replicas they came from
    #[arg(long)]
    pub raw: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Show ids of services and hosts instead of their names
    #[arg(long)]
    pub no_resolve: bool,
    /// Leave the replicas' ids out
    #[arg(long)]
    pub no_task_ids: bool,
    /// Show the labels and variables that the logs were told to keep
    #[arg(long)]
    pub details: bool,
    /// Service, or the id of one of its replicas
    pub service: String,
}

/// # Errors
/// There is no such service, a log cannot be read, or the output is closed.
pub fn logs(context: &Context, flags: &LogsFlags) -> Result<i32, CliError> {
    let (service, only) = which(context, &flags.service)?;
    let (send, failures) = mpsc::channel();
    let mut seen = BTreeSet::new();
    let mut exit_code = 0;
    loop {
        let replicas = Replicas::read(context, [&service])?;
        let all = replicas.of(&service);
        let is_over = all.is_empty() && find(context, service.id.as_str()).is_err();
        for task in all {
            let is_meant = only.as_ref().is_none_or(|only| *only == task.id);
            if !is_meant || task.container.is_none() || !seen.insert(task.id.clone()) {
                continue;
            }
            let shown = Shown {
                prefix: prefix(flags, &service, task, replicas.host(task)),
                is_here: replicas.is_here(task),
                task: task.clone(),
            };
            if !flags.follow {
                exit_code |= shown.show(context, flags)?;
                continue;
            }
            let (context, flags, send) = (context.another(), flags.clone(), send.clone());
            thread::spawn(move || {
                if let Err(error) = shown.show(&context, &flags) {
                    // Nobody listens when another one has failed.
                    drop(send.send(error));
                }
            });
        }
        if !flags.follow || is_over {
            return Ok(exit_code);
        }
        if let Ok(error) = failures.recv_timeout(LOOK) {
            return Err(error);
        }
    }
}

/// The service, and the replica if the key is one's id.
fn which(context: &Context, key: &str) -> Result<(Service, Option<String>), CliError> {
    let missing = match find(context, key) {
        Ok(service) if service.spec.task_template.is_none() => {
            return Err(ServiceFlagError::Joined(key.to_owned()).into());
        }
        Ok(service) => return Ok((service, None)),
        Err(error) => error,
    };
    let services: Vec<Service> = context.client().get(api::path::SERVICES)?;
    let replicas = Replicas::read(context, &services)?;
    for service in services {
        let tasks = replicas.of(&service).iter();
        let mut fitting = tasks.filter(|task| task.id.starts_with(key));
        if let (Some(task), None) = (fitting.next(), fitting.next()) {
            let task = task.id.clone();
            return Ok((service, Some(task)));
        }
    }
    Err(missing)
}

fn prefix(flags: &LogsFlags, service: &Service, task: &Task, node: &str) -> String {
    if flags.raw {
        return String::new();
    }
    let length = if flags.no_trunc { usize::MAX } else { 12 };
    let id: String = task.id.chars().take(length).collect();
    let (service, node) = match flags.no_resolve {
        true => (service.id.as_str(), task.node.as_str()),
        false => (service.spec.name.as_str(), node),
    };
    let name = match (task.slot, flags.no_task_ids) {
        (0, true) => service.to_owned(),
        (0, false) => format!("{service}.{id}"),
        (slot, true) => format!("{service}.{slot}"),
        (slot, false) => format!("{service}.{slot}.{id}"),
    };
    format!("{name}@{node}    | ")
}

/// A replica whose log is shown.
struct Shown {
    task: Task,
    prefix: String,
    is_here: bool,
}

impl Shown {
    /// One that is gone has no log. What is wrong with another host is said, and no reason to leave the
    /// others out: the exit code tells it.
    fn show(&self, context: &Context, flags: &LogsFlags) -> Result<i32, CliError> {
        let streams = (
            Prefixed::new(&self.prefix, io::stdout()),
            Prefixed::new(&self.prefix, io::stderr()),
        );
        let wanted = OutputRequest {
            task: self.task.id.clone(),
            follow: flags.follow,
            tail: flags.tail.clone(),
            since: flags.since.clone(),
            timestamps: flags.timestamps,
            details: flags.details,
        };
        if self.is_here {
            return self.show_own(context, wanted, streams);
        }
        match remote::write(context, &self.task.node, &wanted, streams) {
            Err(CliError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
                Err(CliError::Io {
                    op: "write the log",
                    source,
                })
            }
            Err(error) => {
                output::warn(format_args!("{}: {error}", self.task.name));
                Ok(1)
            }
            Ok(()) => Ok(0),
        }
    }

    fn show_own(
        &self,
        context: &Context,
        wanted: OutputRequest,
        streams: (impl Write, impl Write),
    ) -> Result<i32, CliError> {
        let wanted = logs::LogsFlags::of_task(wanted, self.task.name.clone());
        let written = context
            .container(&self.task.name)
            .and_then(|container| logs::write(&container, &wanted, streams));
        match written {
            Err(CliError::Store(StoreError::NotFound { .. })) => Ok(0),
            outcome => outcome.map(|()| 0),
        }
    }
}

/// Passes whole lines on, each with its prefix and in one piece: other replicas write too.
struct Prefixed<'a, W: Write> {
    prefix: &'a str,
    /// A line whose end is still to come.
    partial: Vec<u8>,
    out: W,
}

impl<'a, W: Write> Prefixed<'a, W> {
    fn new(prefix: &'a str, out: W) -> Self {
        Self {
            prefix,
            partial: Vec::new(),
            out,
        }
    }
}

impl<W: Write> Write for Prefixed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = [self.prefix.as_bytes(), &self.partial].concat();
                self.partial.clear();
                self.out.write_all(&line)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Drop for Prefixed<'_, W> {
    /// A last line without an end is a line too.
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            drop(self.write(b"\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_prefix_once() {
        let mut out = Vec::new();
        let mut prefixed = Prefixed::new("web.1 | ", &mut out);
        for piece in ["one\ntw", "o\n", "three"] {
            prefixed.write_all(piece.as_bytes()).unwrap();
            prefixed.flush().unwrap();
        }
        drop(prefixed);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "web.1 | one\nweb.1 | two\nweb.1 | three\n"
        );
    }
}
