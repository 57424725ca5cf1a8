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

use super::device::Node;
use crate::cgroup::{self, Cgroups};
use crate::container::{DeviceRule, Mount, Record};
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
    #[error(
        "invalid security option {option:?}: expected no-new-privileges, seccomp=, apparmor=, \
         label= or systempaths=unconfined"
    )]
    SecurityOption { option: String },
    #[error("security option {option:?}: this host has no {module}")]
    NoModule {
        option: String,
        module: &'static str,
    },
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
    /// None while it is mounted nowhere.
    pub(crate) rootfs: Option<&'a Path>,
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
    /// Device nodes that are no container's own.
    pub(crate) devices: &'a [Node],
    pub(crate) shared: &'a Shared,
    /// Whether what is mounted below a read-only mount can be made so with it.
    pub(crate) read_only_below: bool,
}

/// What of other containers is joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Namespaces, as files.
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    /// The mount that is `/dev/shm`, if it is not this container's alone.
    pub(crate) shm: Option<PathBuf>,
}

/// Says that the first process is to be an init. An annotation, so that a runtime that knows
/// nothing of it runs the command as it is.
pub(crate) const INIT_ANNOTATION: &str = "io.hawser.init";

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
    /// A profile that is loaded.
    pub(crate) apparmor: Option<String>,
    pub(crate) label: Label,
    /// Nothing of `/proc` and `/sys` is masked or read-only.
    pub(crate) bares_system_paths: bool,
}

/// What of a SELinux context was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) user: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) level: Option<String>,
}

impl Label {
    /// The context of the processes, with the usual parts for what was not asked for.
    fn context(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let part =
            |part: &Option<String>, usual: &str| part.clone().unwrap_or_else(|| usual.to_owned());
        Some(format!(
            "{}:{}:{}:{}",
            part(&self.user, "system_u"),
            part(&self.role, "system_r"),
            part(&self.kind, "container_t"),
            part(&self.level, "s0"),
        ))
    }
}

/// AppArmor's profile of containers that ask for none (`assets/hawser-default.apparmor`).
const APPARMOR_DEFAULT: &str = "hawser-default";

/// The kernel's mandatory access control, as far as it is on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Modules {
    pub(crate) apparmor: bool,
    /// The profile of our own is loaded.
    pub(crate) apparmor_default: bool,
    pub(crate) selinux: bool,
}

impl Modules {
    pub(crate) fn observe() -> Self {
        let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        let apparmor = apparmor.is_ok_and(|text| text.trim() == "Y");
        let profiles = || std::fs::read_to_string("/sys/kernel/security/apparmor/profiles");
        Self {
            apparmor,
            apparmor_default: apparmor && profiles().is_ok_and(|profiles| has_default(&profiles)),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// `NAME (MODE)` a line.
fn has_default(profiles: &str) -> bool {
    let mut names = profiles.lines().filter_map(|line| line.split(' ').next());
    names.any(|name| name == APPARMOR_DEFAULT)
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
        modules: Modules,
        read: impl Fn(&Path) -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, SpecError> {
        let usual = modules
            .apparmor_default
            .then(|| APPARMOR_DEFAULT.to_owned());
        let mut security = Self {
            apparmor: usual,
            ..Self::default()
        };
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
                ("systempaths", "unconfined") => security.bares_system_paths = true,
                // What this host lacks is off already; switching it off is no error.
                ("apparmor", _) if is_off(value) => security.apparmor = None,
                ("label", _) if is_off(value) => {}
                ("apparmor", _) if !modules.apparmor => {
                    return Err(no_module(option, "AppArmor"));
                }
                ("label", _) if !modules.selinux => {
                    return Err(no_module(option, "SELinux"));
                }
                ("apparmor", profile) => security.apparmor = Some(profile.to_owned()),
                ("label", part) if security.label.set(part) => {}
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

impl Label {
    /// Takes `user:`, `role:`, `type:` or `level:` with a value; false for anything else.
    fn set(&mut self, text: &str) -> bool {
        let Some((part, value)) = text.split_once(':') else {
            return false;
        };
        let place = match part {
            "user" => &mut self.user,
            "role" => &mut self.role,
            "type" => &mut self.kind,
            "level" => &mut self.level,
            _ => return false,
        };
        *place = Some(value.to_owned());
        !value.is_empty()
    }
}

fn no_module(option: &str, module: &'static str) -> SpecError {
    SpecError::NoModule {
        option: option.to_owned(),
        module,
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
    let lifted = |profile: &&String| host.privileged && *profile == APPARMOR_DEFAULT;
    if let Some(profile) = input.security.apparmor.as_ref().filter(|it| !lifted(it)) {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(context) = input.security.label.context() {
        process["selinuxLabel"] = json!(context);
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": input.rootfs, "readonly": host.readonly_rootfs },
        "mounts": mount::all(input),
        "linux": linux(input, &capabilities),
    });
    // The host's own are not the container's to change.
    if host.uts_mode != "host" {
        config["hostname"] = json!(hostname(record));
        config["domainname"] = json!(record.config.domainname);
    }
    if host.init == Some(true) {
        config["annotations"] = json!({ INIT_ANNOTATION: "true" });
    }
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
        "cgroupsPath": cgroup::path_of(input.record),
        "namespaces": namespaces(input),
        // Everything else is written by us, at every update as at the start.
        "resources": { "devices": device_policy(input) },
        "sysctl": host.sysctls.clone().unwrap_or_default(),
    });
    if !input.devices.is_empty() {
        linux["devices"] = input.devices.iter().map(device_node).collect();
    }
    let passes_up = |mount: &Mount| ["shared", "rshared"].contains(&mount.propagation.as_str());
    if input.record.mounts.iter().any(passes_up) {
        // Else the runtime cuts every mount off from the host's before it binds them.
        linux["rootfsPropagation"] = json!("shared");
    }
    if host.privileged {
        return linux;
    }
    if !input.security.bares_system_paths {
        linux["maskedPaths"] = json!(MASKED_PATHS);
        linux["readonlyPaths"] = json!(readonly_paths(input.cgroups));
    }
    match &input.security.seccomp {
        SeccompChoice::Default => linux["seccomp"] = seccomp::default_profile(capabilities),
        SeccompChoice::Profile(profile) => linux["seccomp"] = profile.clone(),
        SeccompChoice::Unconfined => {}
    }
    linux
}

fn device_node(node: &Node) -> Value {
    json!({
        "path": node.path, "type": node.kind.to_string(), "major": node.major,
        "minor": node.minor, "fileMode": node.mode, "uid": node.uid, "gid": node.gid,
    })
}

/// Rules in the order in which they count: nothing, or everything, and then the exceptions.
fn device_policy(input: &Input<'_>) -> Value {
    let host = &input.record.host_config;
    let mut rules = vec![json!({ "allow": host.privileged, "access": "rwm" })];
    if host.privileged {
        return rules.into();
    }
    rules.extend(input.devices.iter().map(|node| {
        json!({
            "allow": true, "type": node.kind.to_string(), "major": node.major,
            "minor": node.minor, "access": node.access,
        })
    }));
    let asked = host.resources.device_cgroup_rules.iter().flatten();
    rules.extend(
        asked
            .filter_map(|text| DeviceRule::parse(text))
            .map(|rule| {
                let mut value = json!({
                    "allow": true, "type": rule.kind.to_string(), "access": rule.access,
                });
                if let Some(major) = rule.major {
                    value["major"] = json!(major);
                }
                if let Some(minor) = rule.minor {
                    value["minor"] = json!(minor);
                }
                value
            }),
    );
    rules.into()
}

fn namespaces(input: &Input<'_>) -> Value {
    let host = &input.record.host_config;
    let mut namespaces = vec![json!({ "type": "mount" })];
    if host.uts_mode != "host" {
        namespaces.push(json!({ "type": "uts" }));
    }
    for (kind, mode, path) in [
        ("ipc", &host.ipc_mode, &input.shared.ipc),
        ("pid", &host.pid_mode, &input.shared.pid),
    ] {
        match path {
            Some(path) => namespaces.push(json!({ "type": kind, "path": path })),
            None if mode == "host" => {}
            None => namespaces.push(json!({ "type": kind })),
        }
    }
    match &input.network {
        NetworkNamespace::New => namespaces.push(json!({ "type": "network" })),
        NetworkNamespace::At(path) => {
            namespaces.push(json!({ "type": "network", "path": path }));
        }
        NetworkNamespace::Host => {}
    }
    // As Docker: private on the unified hierarchy only, unless told otherwise.
    let usual = *input.cgroups == Cgroups::Unified && !host.privileged;
    if host.cgroupns_mode == "private" || (usual && host.cgroupns_mode.is_empty()) {
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
