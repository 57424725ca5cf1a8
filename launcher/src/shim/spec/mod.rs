//! What a container's record means as an OCI runtime specification (`config.json`).
//!
//! Pure: everything that must be looked up first (the user, volumes' mountpoints, the host's
//! limits) is in [`Input`]. The document is written as the JSON that it becomes, because the
//! specification is defined as JSON; the tests parse it with the runtime's own types.
//! Defaults are Docker's.

pub(crate) mod capability;
mod mount;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::container::Record;
use capability::Mask;
use process::HardLimits;
use user::User;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("no command specified: the image has none; give one after its name")]
    NoCommand,
    #[error("invalid capability {name:?}: see capabilities(7) for their names")]
    Capability { name: String },
    #[error("capability {name} is not available on this host")]
    CapabilityUnavailable { name: &'static str },
    #[error("invalid ulimit {name:?}: see setrlimit(2) for their names, in lower case")]
    Ulimit { name: String },
    #[error("invalid security option {option:?}: supported are no-new-privileges and seccomp=")]
    SecurityOption { option: String },
    #[error("seccomp profile {}: {reason}", path.display())]
    SeccompProfile { path: PathBuf, reason: String },
    #[error("working directory {dir:?} is not an absolute path")]
    WorkingDir { dir: String },
}

/// Which network namespace the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkNamespace {
    New,
    Host,
    /// Another container's.
    At(PathBuf),
}

/// A record with what was looked up for this start.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) record: &'a Record,
    pub(crate) rootfs: &'a Path,
    pub(crate) user: &'a User,
    pub(crate) network: NetworkNamespace,
    /// Where each volume is mounted on the host, by destination.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    /// Variables that tell of linked containers.
    pub(crate) link_env: &'a [String],
    /// Host files that become `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub(crate) etc: &'a EtcFiles,
    pub(crate) limits: &'a HardLimits,
    /// What a process of this host can hold.
    pub(crate) available: Mask,
    pub(crate) security: &'a Security,
    pub(crate) cgroups: &'a Cgroups,
}

/// How the host mounts its control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// Version 2 alone.
    Unified,
    /// Version 1, by hierarchy; one of them may be version 2.
    Split(Vec<String>),
}

/// Files bind-mounted into `/etc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcFiles {
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// `--security-opt`, understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: SeccompChoice,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum SeccompChoice {
    #[default]
    Default,
    Unconfined,
    /// An OCI `linux.seccomp` object.
    Profile(Value),
}

impl Security {
    /// Reads the options; `read` fetches a profile file.
    pub(crate) fn parse(
        options: &[String],
        read: impl Fn(&Path) -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, SpecError> {
        let mut security = Self::default();
        for option in options {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
            match (key, value) {
                ("no-new-privileges", "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = SeccompChoice::Unconfined,
                ("seccomp", "builtin") => security.seccomp = SeccompChoice::Default,
                ("seccomp", path) => {
                    security.seccomp = SeccompChoice::Profile(profile(Path::new(path), &read)?);
                }
                // What this host lacks is off already; switching it off is no error.
                ("apparmor" | "label" | "systempaths", _) if is_off(value) => {}
                _ => {
                    return Err(SpecError::SecurityOption {
                        option: option.clone(),
                    });
                }
            }
        }
        Ok(security)
    }
}

fn is_off(value: &str) -> bool {
    matches!(value, "unconfined" | "disable")
}

fn profile(
    path: &Path,
    read: impl Fn(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<Value, SpecError> {
    let failed = |reason: String| SpecError::SeccompProfile {
        path: path.to_owned(),
        reason,
    };
    let text = read(path).map_err(|error| failed(error.to_string()))?;
    let profile: Value =
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    if profile.get("defaultAction").is_none() {
        return Err(failed("it has no \"defaultAction\"".to_owned()));
    }
    Ok(profile)
}

/// `config.json`, and warnings for the user.
pub(crate) fn config(input: &Input<'_>) -> Result<(Value, Vec<String>), SpecError> {
    let record = input.record;
    let host = &record.host_config;
    let capabilities = capability::of(host, input.available)?;
    let (rlimits, warnings) = process::rlimits(host.ulimits.as_deref(), input.limits)?;
    let mut process = json!({
        "terminal": record.config.tty,
        "user": input.user.to_json(),
        "args": process::arguments(&record.config)?,
        "env": process::environment(
            &record.config, hostname(record), &input.user.home, input.link_env
        ),
        "cwd": process::working_dir(&record.config)?,
        "capabilities": capability::to_json(&capabilities),
        "rlimits": rlimits,
    });
    // The runtime loads the filter before it drops privileges only if this member is absent.
    if input.security.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if host.oom_score_adj != 0 {
        process["oomScoreAdj"] = json!(host.oom_score_adj);
    }
    let config = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": input.rootfs, "readonly": host.readonly_rootfs },
        "hostname": hostname(record),
        "domainname": record.config.domainname,
        "mounts": mount::all(input),
        "linux": linux(input, &capabilities),
    });
    Ok((config, warnings))
}

/// What the container calls itself.
pub(crate) fn hostname(record: &Record) -> &str {
    match record.config.hostname.as_str() {
        "" => record.id.short(),
        name => name,
    }
}

fn linux(input: &Input<'_>, capabilities: &[&'static str]) -> Value {
    let host = &input.record.host_config;
    let mut linux = json!({
        "cgroupsPath": format!("/hawser/{}", input.record.id),
        "namespaces": namespaces(input),
        "resources": { "devices": [{ "allow": host.privileged, "access": "rwm" }] },
        "sysctl": host.sysctls.clone().unwrap_or_default(),
    });
    if host.privileged {
        return linux;
    }
    linux["maskedPaths"] = json!(MASKED_PATHS);
    linux["readonlyPaths"] = json!(readonly_paths(input.cgroups));
    match &input.security.seccomp {
        SeccompChoice::Default => linux["seccomp"] = seccomp::default_profile(capabilities),
        SeccompChoice::Profile(profile) => linux["seccomp"] = profile.clone(),
        SeccompChoice::Unconfined => {}
    }
    linux
}

fn namespaces(input: &Input<'_>) -> Value {
    let mut namespaces = vec![
        json!({ "type": "mount" }),
        json!({ "type": "uts" }),
        json!({ "type": "ipc" }),
        json!({ "type": "pid" }),
    ];
    match &input.network {
        NetworkNamespace::New => namespaces.push(json!({ "type": "network" })),
        NetworkNamespace::At(path) => {
            namespaces.push(json!({ "type": "network", "path": path }));
        }
        NetworkNamespace::Host => {}
    }
    // As Docker: private on the unified hierarchy only.
    if *input.cgroups == Cgroups::Unified && !input.record.host_config.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    Value::Array(namespaces)
}

/// Parts of `/proc` and `/sys` that tell about the host or bypass its security.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Parts of `/proc` that would change the host.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// libcontainer mounts the hierarchies of version 1 writable whatever the mount's options say
/// (`setup_emulated_subsystem`), and a container could write its own `devices.allow`.
fn readonly_paths(cgroups: &Cgroups) -> Vec<String> {
    let mut paths: Vec<String> = READONLY_PATHS.map(str::to_owned).to_vec();
    if let Cgroups::Split(hierarchies) = cgroups {
        let mounts = hierarchies
            .iter()
            .map(|name| format!("{CGROUP_DIR}/{name}"));
        paths.extend(mounts);
        paths.push(CGROUP_DIR.to_owned());
    }
    paths
}

const CGROUP_DIR: &str = "/sys/fs/cgroup";

#[cfg(test)]
mod tests;
