//! `hawser service logs`: the output of all replicas, each line with the replica it came from.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use api::service::Service;
use clap::Args;

use super::{ServiceFlagError, find, tasks};
use crate::agent::task::Task;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

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
    /// Leave the replicas' ids out
    #[arg(long)]
    pub no_task_ids: bool,
    /// Taken for Docker's sake: lines have no further details
    #[arg(long, hide = true)]
    pub details: bool,
    /// Service, or the id of one of its replicas
    pub service: String,
}

/// One line, with whether it is of standard error.
type Line = (String, bool, String);

/// # Errors
/// There is no such service, or standard output is closed.
pub fn logs(context: &Context, flags: &LogsFlags) -> Result<i32, CliError> {
    let (service, only) = which(context, &flags.service)?;
    let node = context.info()?.name.clone();
    let (send, lines) = mpsc::channel::<Line>();
    let mut readers: BTreeMap<String, Child> = BTreeMap::new();
    loop {
        for task in tasks(context, &service)? {
            let is_meant = only.as_ref().is_none_or(|only| *only == task.id);
            if !is_meant || task.container.is_none() || readers.contains_key(&task.id) {
                continue;
            }
            let prefix = prefix(flags, &service, &task, &node);
            let reader = read(context, flags, &task, prefix, send.clone())?;
            readers.insert(task.id, reader);
        }
        if !flags.follow {
            break;
        }
        let deadline = std::time::Instant::now() + LOOK;
        while let Some(left) = deadline.checked_duration_since(std::time::Instant::now()) {
            match lines.recv_timeout(left) {
                Ok(line) => show(line)?,
                Err(_none_in_time) => break,
            }
        }
    }
    drop(send);
    lines.iter().try_for_each(show)?;
    for reader in readers.values_mut() {
        reader.wait().map_err(failed)?;
    }
    Ok(0)
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
    for service in services {
        let tasks = tasks(context, &service)?;
        let mut fitting = tasks.into_iter().filter(|task| task.id.starts_with(key));
        if let (Some(task), None) = (fitting.next(), fitting.next()) {
            return Ok((service, Some(task.id)));
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
    let name = match (task.slot, flags.no_task_ids) {
        (0, true) => service.spec.name.clone(),
        (0, false) => format!("{}.{id}", service.spec.name),
        (slot, true) => format!("{}.{slot}", service.spec.name),
        (slot, false) => format!("{}.{slot}.{id}", service.spec.name),
    };
    format!("{name}@{node}    | ")
}

/// `hawser logs` of one replica, whose lines go to `lines`.
fn read(
    context: &Context,
    flags: &LogsFlags,
    task: &Task,
    prefix: String,
    lines: mpsc::Sender<Line>,
) -> Result<Child, CliError> {
    let mut host = std::ffi::OsString::from("unix://");
    host.push(context.client().socket());
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .arg("--host")
        .arg(host)
        .args(["logs", "--tail", &flags.tail]);
    if flags.follow {
        command.arg("--follow");
    }
    if flags.timestamps {
        command.arg("--timestamps");
    }
    if let Some(since) = &flags.since {
        command.args(["--since", since]);
    }
    command.arg(&task.name);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    if let Some(stdout) = stdout {
        pass_on(stdout, false, prefix.clone(), lines.clone());
    }
    if let Some(stderr) = stderr {
        pass_on(stderr, true, prefix, lines);
    }
    Ok(child)
}

fn pass_on(
    stream: impl io::Read + Send + 'static,
    is_error: bool,
    prefix: String,
    lines: mpsc::Sender<Line>,
) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if lines.send((prefix.clone(), is_error, text)).is_err() {
                return;
            }
        }
    });
}

fn show((prefix, is_error, text): Line) -> Result<(), CliError> {
    if is_error {
        let mut stderr = io::stderr().lock();
        return writeln!(stderr, "{prefix}{text}").map_err(failed);
    }
    output::line(format_args!("{prefix}{text}"))
}

fn failed(source: io::Error) -> CliError {
    CliError::Io {
        op: "read the replicas' output",
        source,
    }
}
