//! The flags that say what the replicas of a service are, how many, and how they are replaced.

use std::time::Duration;

use api::service::ServiceSpec;
use api::task::{
    ContainerSpec, LogDriver, Preference, RestartCondition, ServiceMode, Spread, TaskMount,
    TaskTemplate,
};
use clap::{Args, ValueEnum};

use super::ServiceFlagError;
use super::step::{ROLLBACK, Steps, UPDATE, set_span, value};
use crate::agent::constraint;
use crate::cli::error::CliError;
use crate::cli::run::create::read_pairs;
use crate::cli::run::draft::pairs;
use crate::cli::run::{env, limit, mount};
use crate::cli::usage::truth;

/// Docker's: containers are told to stop ten seconds before they are made to.
const GRACE: Duration = Duration::from_secs(10);

/// Of `--cap-add` and `--cap-drop`.
const RESET: &str = "RESET";

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskMode {
    /// So many as --replicas says
    Replicated,
    /// One on every host
    Global,
}

/// Flags of `service create` alone: of an update, `-add` and `-rm` take their place.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Replicas")]
pub struct NewTaskFlags {
    /// How replicas are spread
    #[arg(long, value_name = "MODE")]
    pub mode: Option<TaskMode>,
    /// Set an environment variable: NAME=VALUE, or NAME for the caller's own value; values may have
    /// {{.Service.Name}}, {{.Task.Slot}}, {{.Node.Hostname}} and their like
    #[arg(short, long, value_name = "VARIABLE")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<std::path::PathBuf>,
    /// Mount by fields: type=volume|bind|tmpfs,source=…,target=…[,readonly]…
    #[arg(long, value_name = "FIELDS")]
    pub mount: Vec<String>,
    /// Label of the containers: NAME[=VALUE]
    #[arg(long, value_name = "LABEL")]
    pub container_label: Vec<String>,
    /// Further group of the user
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Where replicas may run: node.hostname==NAME, node.labels.NAME!=VALUE, and so on
    #[arg(long, value_name = "CONSTRAINT")]
    pub constraint: Vec<String>,
    /// Over the values of which label replicas are spread evenly: spread=node.labels.NAME; the first
    /// of several counts most
    #[arg(long, value_name = "PREFERENCE")]
    pub placement_pref: Vec<String>,
    /// Line for /etc/hosts: NAME:ADDRESS
    #[arg(
        id = "extra-host",
        long = "host",
        visible_alias = "add-host",
        value_name = "NAME:ADDRESS"
    )]
    pub add_host: Vec<String>,
    /// DNS server
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Resolver option, such as ndots:1
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Kernel parameter of the containers' namespaces: NAME=VALUE
    #[arg(long, value_name = "PARAMETER")]
    pub sysctl: Vec<String>,
    /// Resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
}

/// Flags of both: what is not given stays, or is the default.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Replicas")]
pub struct TaskFlags {
    /// How many replicas, 1 unless given
    #[arg(long, value_name = "NUMBER")]
    pub replicas: Option<u64>,
    /// Host name inside the containers
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// User, and optionally group: NAME|UID[:GROUP|GID]
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Replace the image's entrypoint, by words as a shell reads them
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub entrypoint: Option<String>,
    /// Signal that stops the containers
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL, 10s unless given
    #[arg(long, value_name = "DURATION")]
    pub stop_grace_period: Option<String>,
    /// Allocate a terminal
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = truth)]
    pub tty: Option<bool>,
    /// Mount the root file system read-only
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = truth)]
    pub read_only: Option<bool>,
    /// Run an init as the first process, which forwards signals and reaps what is orphaned
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = truth)]
    pub init: Option<bool>,
    /// Add a capability, or ALL; in an update one that was dropped is as by default again, and RESET
    /// takes back all that were added
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL; in an update one that was added is as by default again, and RESET
    /// takes back all that were dropped
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Where output goes: json-file, local, journald, syslog or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of the log driver: NAME=VALUE
    #[arg(long, value_name = "OPTION")]
    pub log_opt: Vec<String>,
    /// CPUs of a container at most, such as 0.5
    #[arg(long, value_name = "NUMBER")]
    pub limit_cpu: Option<String>,
    /// Memory of a container at most, such as 512m
    #[arg(long, value_name = "SIZE")]
    pub limit_memory: Option<String>,
    /// Processes of a container at most
    #[arg(long, value_name = "NUMBER")]
    pub limit_pids: Option<u64>,
    /// CPUs that a host of a cluster must have left for a container
    #[arg(long, value_name = "NUMBER")]
    pub reserve_cpu: Option<String>,
    /// Memory that a host of a cluster must have left for a container, and that it keeps when the host
    /// is short of it
    #[arg(long, value_name = "SIZE")]
    pub reserve_memory: Option<String>,
    /// Replicas on one host at most; 0 is no limit
    #[arg(long, value_name = "NUMBER")]
    pub replicas_max_per_node: Option<u64>,
    /// When a replica that ended is replaced: none, on-failure, any; any unless given
    #[arg(long, value_name = "CONDITION")]
    pub restart_condition: Option<String>,
    /// Time before a replica that ended is replaced, 5s unless given
    #[arg(long, value_name = "DURATION")]
    pub restart_delay: Option<String>,
    /// How often a replica that ended is replaced; always unless given
    #[arg(long, value_name = "NUMBER")]
    pub restart_max_attempts: Option<u64>,
    /// Time in which replacements are counted
    #[arg(long, value_name = "DURATION")]
    pub restart_window: Option<String>,
    /// Replicas that are replaced at a time in an update, 1 unless given; 0 is all
    #[arg(long, value_name = "NUMBER")]
    pub update_parallelism: Option<u64>,
    /// Time between two, 0s unless given
    #[arg(long, value_name = "DURATION")]
    pub update_delay: Option<String>,
    /// Time after a replica's start in which its end is a failure of the update, 5s unless given
    #[arg(long, value_name = "DURATION")]
    pub update_monitor: Option<String>,
    /// What follows a failure: pause, continue or rollback; pause unless given
    #[arg(long, value_name = "ACTION")]
    pub update_failure_action: Option<String>,
    /// Part of the replicas that may fail, 0 unless given
    #[arg(long, value_name = "RATIO")]
    pub update_max_failure_ratio: Option<f64>,
    /// Whether the old replica stops first or the new one starts first: stop-first unless given
    #[arg(long, value_name = "ORDER")]
    pub update_order: Option<String>,
    /// As --update-parallelism, of a rollback
    #[arg(long, value_name = "NUMBER")]
    pub rollback_parallelism: Option<u64>,
    /// As --update-delay, of a rollback
    #[arg(long, value_name = "DURATION")]
    pub rollback_delay: Option<String>,
    /// As --update-monitor, of a rollback
    #[arg(long, value_name = "DURATION")]
    pub rollback_monitor: Option<String>,
    /// What follows a failure of a rollback: pause or continue
    #[arg(long, value_name = "ACTION")]
    pub rollback_failure_action: Option<String>,
    /// As --update-max-failure-ratio, of a rollback
    #[arg(long, value_name = "RATIO")]
    pub rollback_max_failure_ratio: Option<f64>,
    /// As --update-order, of a rollback
    #[arg(long, value_name = "ORDER")]
    pub rollback_order: Option<String>,
    /// Send the caller's login for the image's registry to the hosts that pull it, which use their own
    /// otherwise
    #[arg(long)]
    pub with_registry_auth: bool,
    /// Let each host find by itself which image the tag means, instead of naming it by digest
    #[arg(long)]
    pub no_resolve_image: bool,
}

/// Refuses flags of replicas for a service that has none.
///
/// # Errors
/// [`ServiceFlagError::NoImage`] when any is given.
pub fn unused<F: Default + PartialEq>(flags: &F) -> Result<(), CliError> {
    if *flags == F::default() {
        return Ok(());
    }
    Err(ServiceFlagError::NoImage.into())
}

impl NewTaskFlags {
    /// The template of a new service's replicas.
    ///
    /// # Errors
    /// A flag that cannot be, or a file that cannot be read.
    pub fn template(&self, image: &str, args: &[String]) -> Result<TaskTemplate, CliError> {
        let mut template = TaskTemplate::default();
        let spec = &mut template.container_spec;
        image.clone_into(&mut spec.image);
        spec.args = args.to_vec();
        spec.stop_grace_period = GRACE;
        let mut variables = env::Environment::new(Vec::new());
        let own = |name: &str| std::env::var(name).ok();
        for file in &self.env_file {
            env::apply(&mut variables, &read_pairs(file)?, own)?;
        }
        env::apply(&mut variables, &self.env, own)?;
        spec.env = variables.into_pairs();
        spec.mounts = mounts(&self.mount)?;
        spec.labels = env::labels(&self.container_label);
        spec.groups.clone_from(&self.group);
        spec.hosts.clone_from(&self.add_host);
        spec.dns.nameservers.clone_from(&self.dns);
        spec.dns.search.clone_from(&self.dns_search);
        spec.dns.options.clone_from(&self.dns_option);
        spec.sysctls = pairs("--sysctl", &self.sysctl)?;
        spec.ulimits.clone_from(&self.ulimit);
        constraint::check(&self.constraint).map_err(ServiceFlagError::from)?;
        template.placement.constraints.clone_from(&self.constraint);
        template.placement.preferences = preferences(&self.placement_pref)?;
        Ok(template)
    }

    /// # Errors
    /// [`ServiceFlagError::Both`].
    pub fn mode(&self, replicas: Option<u64>) -> Result<ServiceMode, ServiceFlagError> {
        match (self.mode, replicas) {
            (Some(TaskMode::Global), Some(_)) => {
                Err(ServiceFlagError::Both("--mode global", "--replicas"))
            }
            (Some(TaskMode::Global), None) => Ok(ServiceMode::Global {}),
            (_, Some(replicas)) => Ok(ServiceMode::Replicated { replicas }),
            _ => Ok(ServiceMode::default()),
        }
    }
}

pub(super) fn preferences(texts: &[String]) -> Result<Vec<Preference>, ServiceFlagError> {
    let mut preferences = Vec::new();
    for text in texts {
        let spread_descriptor = constraint::preference(text)?.to_owned();
        preferences.push(Preference {
            spread: Spread { spread_descriptor },
        });
    }
    Ok(preferences)
}

impl TaskFlags {
    /// Lays the flags over a service that has a template.
    ///
    /// # Errors
    /// A flag that cannot be.
    pub fn change(&self, spec: &mut ServiceSpec) -> Result<(), CliError> {
        let Some(template) = &mut spec.task_template else {
            return unused(self);
        };
        self.change_container(template)?;
        self.change_restart(template)?;
        if let Some(most) = self.replicas_max_per_node {
            template.placement.max_replicas = most;
        }
        if let Some(replicas) = self.replicas {
            match &mut spec.mode {
                Some(ServiceMode::Global {}) => return Err(ServiceFlagError::GlobalReplicas.into()),
                mode => *mode = Some(ServiceMode::Replicated { replicas }),
            }
        }
        let update = spec.update_config.get_or_insert_default();
        self.update().change(update)?;
        let rollback = spec.rollback_config.get_or_insert_default();
        self.rollback().change(rollback)?;
        Ok(())
    }

    fn change_container(&self, template: &mut TaskTemplate) -> Result<(), CliError> {
        let spec = &mut template.container_spec;
        for (given, field) in [
            (&self.hostname, &mut spec.hostname),
            (&self.workdir, &mut spec.dir),
            (&self.user, &mut spec.user),
            (&self.stop_signal, &mut spec.stop_signal),
        ] {
            if let Some(text) = given {
                field.clone_from(text);
            }
        }
        if self.entrypoint.is_some() {
            spec.entrypoint.clone_from(&self.entrypoint);
        }
        set_span(
            "--stop-grace-period",
            &self.stop_grace_period,
            &mut spec.stop_grace_period,
        )?;
        spec.tty = self.tty.unwrap_or(spec.tty);
        spec.read_only = self.read_only.unwrap_or(spec.read_only);
        spec.init = self.init.unwrap_or(spec.init);
        change_capabilities(spec, (&self.cap_add, &self.cap_drop));
        if let Some(name) = &self.log_driver {
            template.log_driver = Some(LogDriver {
                name: name.clone(),
                ..LogDriver::default()
            });
        }
        if !self.log_opt.is_empty() {
            let driver = template.log_driver.get_or_insert_default();
            driver.options.extend(env::labels(&self.log_opt));
        }
        let resources = &mut template.resources;
        for (flag, text, amounts) in [
            (
                "--limit-cpu",
                &self.limit_cpu,
                &mut resources.limits.nano_cpus,
            ),
            (
                "--reserve-cpu",
                &self.reserve_cpu,
                &mut resources.reservations.nano_cpus,
            ),
        ] {
            if let Some(text) = text {
                *amounts = cpus(flag, text)?;
            }
        }
        for (flag, text, amount) in [
            (
                "--limit-memory",
                &self.limit_memory,
                &mut resources.limits.memory_bytes,
            ),
            (
                "--reserve-memory",
                &self.reserve_memory,
                &mut resources.reservations.memory_bytes,
            ),
        ] {
            if let Some(text) = text {
                *amount = limit::size(flag, text)?;
            }
        }
        if let Some(pids) = self.limit_pids {
            resources.limits.pids = pids;
        }
        Ok(())
    }

    fn change_restart(&self, template: &mut TaskTemplate) -> Result<(), ServiceFlagError> {
        let restart = &mut template.restart_policy;
        if let Some(text) = &self.restart_condition {
            restart.condition = match text.as_str() {
                "none" => RestartCondition::None,
                "on-failure" => RestartCondition::OnFailure,
                "any" => RestartCondition::Any,
                _ => {
                    return Err(value(
                        "--restart-condition",
                        text,
                        "none, on-failure or any",
                    ));
                }
            };
        }
        set_span("--restart-delay", &self.restart_delay, &mut restart.delay)?;
        set_span(
            "--restart-window",
            &self.restart_window,
            &mut restart.window,
        )?;
        if let Some(attempts) = self.restart_max_attempts {
            restart.max_attempts = attempts;
        }
        Ok(())
    }

    fn update(&self) -> Steps<'_> {
        Steps {
            flags: &UPDATE,
            parallelism: self.update_parallelism,
            delay: &self.update_delay,
            monitor: &self.update_monitor,
            failure_action: &self.update_failure_action,
            max_failure_ratio: self.update_max_failure_ratio,
            order: &self.update_order,
        }
    }

    fn rollback(&self) -> Steps<'_> {
        Steps {
            flags: &ROLLBACK,
            parallelism: self.rollback_parallelism,
            delay: &self.rollback_delay,
            monitor: &self.rollback_monitor,
            failure_action: &self.rollback_failure_action,
            max_failure_ratio: self.rollback_max_failure_ratio,
            order: &self.rollback_order,
        }
    }
}

/// Docker's way, which has three states of a capability: one that is dropped is by adding it as by
/// default, and added by adding it once more.
fn change_capabilities(spec: &mut ContainerSpec, (add, drop): (&[String], &[String])) {
    let names = |texts: &[String]| -> Vec<String> { texts.iter().map(|t| whole_name(t)).collect() };
    let (add, mut drop) = (names(add), names(drop));
    drop.retain(|name| !add.contains(name));
    let (added, dropped) = (&mut spec.capability_add, &mut spec.capability_drop);
    move_capabilities(drop, dropped, added);
    move_capabilities(add, added, dropped);
}

fn move_capabilities(names: Vec<String>, own: &mut Vec<String>, other: &mut Vec<String>) {
    if names.iter().any(|name| name == RESET) {
        own.clear();
    }
    for name in names.into_iter().filter(|name| name != RESET) {
        let before = other.len();
        other.retain(|known| whole_name(known) != name);
        if other.len() == before && own.iter().all(|known| whole_name(known) != name) {
            own.push(name);
        }
    }
}

/// `net_admin` and `CAP_NET_ADMIN` are one.
fn whole_name(capability: &str) -> String {
    let upper = capability.to_ascii_uppercase();
    match upper.as_str() {
        RESET | "ALL" => upper,
        name if name.starts_with("CAP_") => upper,
        name => format!("CAP_{name}"),
    }
}

/// `0.5` in billionths of a CPU.
fn cpus(flag: &'static str, text: &str) -> Result<u64, ServiceFlagError> {
    let invalid = || value(flag, text, "a number of CPUs such as 0.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if part.len() > 9 || !digits(part) || !digits(whole) || (whole.is_empty() && part.is_empty()) {
        return Err(invalid());
    }
    let whole: u64 = format!("0{whole}")
        .parse()
        .map_err(|_too_large| invalid())?;
    let part: u64 = format!("{part:0<9}").parse().map_err(|_not| invalid())?;
    let nano = whole.checked_mul(1_000_000_000);
    nano.and_then(|nano| nano.checked_add(part))
        .ok_or_else(invalid)
}

pub(super) fn mounts(texts: &[String]) -> Result<Vec<TaskMount>, CliError> {
    let here = std::env::current_dir().map_err(|source| CliError::Io {
        op: "find the current directory",
        source,
    })?;
    let mut mounts = Vec::new();
    for text in texts {
        let spec =
            mount::parse_long(text, &here).map_err(crate::cli::run::draft::DraftError::from)?;
        let (kind, source) = match &spec.source {
            mount::Source::Bind { path, .. } => ("bind", path.display().to_string()),
            mount::Source::Tmpfs { .. } => ("tmpfs", String::new()),
            mount::Source::Volume(volume) => {
                let name = volume.name.as_ref();
                ("volume", name.map(ToString::to_string).unwrap_or_default())
            }
        };
        mounts.push(TaskMount {
            kind: kind.to_owned(),
            source,
            target: spec.destination,
            read_only: spec.read_only,
            fields: text.clone(),
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_three_states() {
        let mut spec = ContainerSpec::default();
        let mut change = |add: &[&str], drop: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            change_capabilities(&mut spec, (&texts(add), &texts(drop)));
            (
                spec.capability_add.join(" "),
                spec.capability_drop.join(" "),
            )
        };
        let are = |add: &str, drop: &str| (add.to_owned(), drop.to_owned());
        assert_eq!(
            change(&["net_admin"], &["ALL"]),
            are("CAP_NET_ADMIN", "ALL")
        );
        assert_eq!(change(&[], &["CAP_NET_ADMIN"]), are("", "ALL"));
        assert_eq!(
            change(&[], &["net_admin", "NET_ADMIN"]),
            are("", "ALL CAP_NET_ADMIN")
        );
        assert_eq!(
            change(&["SYS_TIME"], &["sys_time", "reset"]),
            are("CAP_SYS_TIME", "")
        );
        assert_eq!(change(&["RESET"], &[]), are("", ""));
    }
}
