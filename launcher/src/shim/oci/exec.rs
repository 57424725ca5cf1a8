//! `exec` of the OCI runtime command line: one more process in a container.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use std::os::fd::AsFd;

use super::command::init_of;
use super::{OciError, container, failed, filters, read_json};
use crate::shim::exec::joining::{maps_of, member};
use crate::shim::hold::reap;

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// File with the process as the specification describes it
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File for the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not wait for the process
    #[arg(short, long)]
    detach: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// Variable: NAME=VALUE
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Working directory inside
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// User and group by number: UID[:GID]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// The process gains no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// How many descriptors above 2 to pass on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: i32,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// Returns the exit code of the process, or 0 if nobody waits for it.
pub(super) fn run(root: &Path, found: &Container, asked: &Exec) -> Result<i32, OciError> {
    if !found.can_exec() {
        return Err(OciError::NotRunning {
            id: asked.id.clone(),
        });
    }
    let config = read_json(&found.bundle().join("config.json"))?;
    let process = match &asked.process {
        Some(path) => read_json(path)?,
        None => process(&config["process"], asked)?,
    };
    let init = init_of(found)?;
    let maps = maps_of(init)?;
    let (process, workload) = member(process, &config, init, maps.as_ref(), &filters(root))?;
    let file = root
        .join(&asked.id)
        .join(format!("exec-{}.json", std::process::id()));
    fs::write(&file, process.to_string()).map_err(failed("write", &file))?;
    let joined = ContainerBuilder::new(asked.id.clone(), SyscallType::default())
        .with_root_path(root)
        .and_then(|builder| builder.with_pid_file(asked.pid_file.clone()))
        .and_then(|builder| {
            builder
                .with_console_socket(asked.console_socket.clone())
                .with_preserved_fds(asked.preserve_fds)
                .with_executor(workload)
                .as_tenant()
                .with_detach(true)
                .with_process(Some(&file))
                .build()
        });
    fs::remove_file(&file).map_err(failed("remove", &file))?;
    let pid = joined.map_err(container("exec"))?;
    if asked.detach {
        return Ok(0);
    }
    let wait = || {
        let pid = Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
        reap(pidfd_open(pid, PidfdFlags::empty())?.as_fd())
    };
    wait().map_err(|source| OciError::Wait {
        id: asked.id.clone(),
        source,
    })
}

/// The container's own process, changed by the flags.
fn process(own: &Value, asked: &Exec) -> Result<Value, OciError> {
    if asked.command.is_empty() {
        return Err(OciError::NoCommand);
    }
    let mut process = own.clone();
    process["args"] = json!(asked.command);
    process["terminal"] = json!(asked.tty);
    if let Some(dir) = &asked.cwd {
        process["cwd"] = json!(dir);
    }
    if let Some(env) = process["env"].as_array_mut() {
        env.extend(asked.env.iter().map(|variable| json!(variable)));
    }
    if asked.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(user) = &asked.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        let number = |text: &str| {
            text.parse::<u32>()
                .map_err(|_no_number| OciError::User { text: user.clone() })
        };
        process["user"] = json!({ "uid": number(uid)?, "gid": number(gid)? });
    }
    Ok(process)
}
