//! From flags and an image to what a container will be: pure, so that every bad flag is refused
//! before anything is changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use api::daemon::Logging;
use api::id::{ContainerName, InvalidId};

use crate::cli::image::config::Section;
use crate::container::{Config, HostConfig, LogConfig, NetworkRequest, Recursion, Resources};
use crate::log::option::{LogOptionError, Settings};

use super::env::{self, EnvError, Environment};
use super::flags::CreateFlags;
use super::health::HealthError;
use super::limit::{self, LimitError};
use super::mount::{self, MountError, MountSpec, Source, VolumeSpec};
use super::namespace::{self, NamespaceError};
use super::network::{self, NetworkError};
use super::port::{self, PortError};
use super::resource::{self, Machine, ResourceError};

const SHM_SIZE: u64 = 64 << 20;
const OOM_SCORES: std::ops::RangeInclusive<i32> = -1000..=1000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error(transparent)]
    Resource(#[from] ResourceError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Name(#[from] InvalidId),
    #[error("no command specified: the image has neither CMD nor ENTRYPOINT; add a command")]
    NoCommand,
    #[error("the working directory {0:?} is invalid, it needs to be an absolute path")]
    Workdir(String),
    #[error("invalid hostname: {0:?}")]
    Hostname(String),
    #[error("conflicting options: cannot specify both --restart and --rm")]
    RestartAndRemove,
    #[error("invalid --add-host {0:?}: expected NAME:ADDRESS")]
    AddHost(String),
    #[error("invalid --dns {0:?}: expected an IP address")]
    Dns(String),
    #[error("invalid {flag} {text:?}: expected NAME=VALUE")]
    Pair { flag: &'static str, text: String },
    #[error(transparent)]
    Log(#[from] LogOptionError),
    #[error("invalid --oom-score-adj {0}: expected -1000 to 1000")]
    OomScore(i32),
}

/// What was read from files and the caller's environment.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `--env-file` variables, in order.
    pub env_file: Vec<String>,
    /// `--label-file` labels, in order.
    pub label_file: Vec<String>,
    /// The caller's environment.
    pub environment: BTreeMap<String, String>,
    /// What relative paths are relative to.
    pub directory: std::path::PathBuf,
    /// What there is to limit.
    pub machine: Machine,
    /// Where output goes unless the flags say otherwise.
    pub logging: Logging,
}

/// What a container will be, without id, image id and mounted paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub name: Option<ContainerName>,
    pub config: Config,
    pub host_config: HostConfig,
    pub mounts: Vec<MountSpec>,
    pub networks: Vec<NetworkRequest>,
    /// Containers as typed, with their aliases.
    pub links: Vec<(String, String)>,
    /// Of a runtime that has its name from the daemon's configuration.
    pub runtime_program: Option<std::path::PathBuf>,
    /// For the user, once everything else is fine.
    pub warnings: Vec<String>,
}

/// # Errors
/// [`DraftError`] names the first flag that cannot be.
pub fn draft(
    flags: &CreateFlags,
    image: &Section,
    around: &Surroundings,
) -> Result<Draft, DraftError> {
    let name = flags
        .name
        .as_deref()
        .map(ContainerName::parse)
        .transpose()?;
    let connection = network::connection(flags)?;
    let mut host_config = host_config(flags, &around.logging)?;
    host_config.network_mode = connection.mode;
    namespace::choose(flags, &mut host_config)?;
    let (resources, resource_warnings) = resources(flags, &around.machine)?;
    host_config.resources = resources;
    let mut warnings = connection.warnings;
    warnings.extend(resource_warnings);
    let mounts = mounts(flags, image, &host_config, &around.directory)?;
    Ok(Draft {
        name,
        config: config(flags, image, around)?,
        host_config,
        mounts,
        networks: connection.networks,
        links: connection.links,
        runtime_program: None,
        warnings,
    })
}

fn config(
    flags: &CreateFlags,
    image: &Section,
    around: &Surroundings,
) -> Result<Config, DraftError> {
    let (entrypoint, cmd) = command(flags, image)?;
    let mut exposed_ports = image.exposed_ports.clone();
    exposed_ports.extend(port::exposed(&flags.expose)?);
    for key in port::published(&flags.publish)?.into_keys() {
        exposed_ports.entry(key).or_default();
    }
    let stop_signal = match &flags.stop_signal {
        Some(signal) => Some(signal.clone()),
        None => Some(image.stop_signal.clone()).filter(|signal| !signal.is_empty()),
    };
    if let Some(signal) = &stop_signal {
        limit::signal(signal)?;
    }
    Ok(Config {
        hostname: hostname(flags)?,
        domainname: flags.domainname.clone().unwrap_or_default(),
        user: flags.user.clone().unwrap_or_else(|| image.user.clone()),
        attach_stdin: false,
        attach_stdout: false,
        attach_stderr: false,
        exposed_ports,
        tty: flags.tty,
        open_stdin: flags.interactive,
        stdin_once: false,
        env: environment(flags, image, around)?,
        cmd,
        image: flags.image().to_owned(),
        volumes: (!image.volumes.is_empty()).then(|| image.volumes.clone()),
        working_dir: workdir(flags, image)?,
        entrypoint,
        labels: labels(flags, image, around),
        healthcheck: flags.health.over(image.healthcheck.as_ref())?,
        stop_signal,
        stop_timeout: flags.stop_timeout,
    })
}

type Words = Option<Vec<String>>;

/// Entrypoint and command. A new entrypoint drops the image's command, which was meant for the old.
fn command(flags: &CreateFlags, image: &Section) -> Result<(Words, Words), DraftError> {
    let (entrypoint, mut cmd) = match flags.entrypoint.as_deref() {
        None => (image.entrypoint.clone(), image.cmd.clone()),
        Some("") => (None, None),
        Some(program) => (Some(vec![program.to_owned()]), None),
    };
    if !flags.command().is_empty() {
        cmd = Some(flags.command().to_vec());
    }
    let is_empty = |words: &Words| words.as_ref().is_none_or(Vec::is_empty);
    if is_empty(&entrypoint) && is_empty(&cmd) {
        return Err(DraftError::NoCommand);
    }
    Ok((entrypoint, cmd))
}

fn hostname(flags: &CreateFlags) -> Result<String, DraftError> {
    let Some(name) = &flags.hostname else {
        return Ok(String::new());
    };
    // sethostname(2) takes 64 bytes; Docker lets through whatever has no blanks and slashes.
    let fits = (1..=64).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !fits {
        return Err(DraftError::Hostname(name.clone()));
    }
    Ok(name.clone())
}

fn environment(
    flags: &CreateFlags,
    image: &Section,
    around: &Surroundings,
) -> Result<Vec<String>, DraftError> {
    let mut environment = Environment::new(image.env.clone());
    let own = |name: &str| around.environment.get(name).cloned();
    env::apply(&mut environment, &around.env_file, own)?;
    env::apply(&mut environment, &flags.env, own)?;
    Ok(environment.into_pairs())
}

fn workdir(flags: &CreateFlags, image: &Section) -> Result<String, DraftError> {
    let Some(path) = &flags.workdir else {
        return Ok(image.working_dir.clone());
    };
    if !path.starts_with('/') {
        return Err(DraftError::Workdir(path.clone()));
    }
    Ok(mount::clean(Path::new(path)).display().to_string())
}

fn labels(flags: &CreateFlags, image: &Section, around: &Surroundings) -> BTreeMap<String, String> {
    let mut labels = image.labels.clone();
    labels.extend(env::labels(&around.label_file));
    labels.extend(env::labels(&flags.label));
    labels
}

fn resources(
    flags: &CreateFlags,
    machine: &Machine,
) -> Result<(Resources, Vec<String>), ResourceError> {
    let mut resources = Resources::default();
    flags.limits.change(&mut resources)?;
    flags.fixed_limits.change(&mut resources)?;
    let warnings = resource::check(&mut resources, machine)?;
    Ok((resources, warnings))
}

fn host_config(flags: &CreateFlags, logging: &Logging) -> Result<HostConfig, DraftError> {
    let restart_policy = limit::restart_policy(flags.restart.as_deref().unwrap_or("no"))?;
    if flags.rm && restart_policy.name != "no" {
        return Err(DraftError::RestartAndRemove);
    }
    let shm_size = match &flags.shm_size {
        Some(text) => limit::size("--shm-size", text)?,
        None => SHM_SIZE,
    };
    let oom_score_adj = flags.oom_score_adj.unwrap_or_default();
    if !OOM_SCORES.contains(&oom_score_adj) {
        return Err(DraftError::OomScore(oom_score_adj));
    }
    let ulimits = flags
        .ulimit
        .iter()
        .map(|text| limit::ulimit(text))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(HostConfig {
        binds: some(flags.volume.clone()),
        port_bindings: port::published(&flags.publish)?,
        publish_all_ports: flags.publish_all,
        auto_remove: flags.rm,
        cap_add: some(flags.cap_add.clone()),
        cap_drop: some(flags.cap_drop.clone()),
        dns: dns(flags)?,
        dns_options: flags.dns_option.clone(),
        dns_search: flags.dns_search.clone(),
        extra_hosts: some(extra_hosts(flags)?),
        privileged: flags.privileged,
        readonly_rootfs: flags.read_only,
        security_opt: some(flags.security_opt.clone()),
        tmpfs: some_map(tmpfs(flags)?),
        shm_size,
        init: flags.init.then_some(true),
        runtime: flags.runtime.clone().unwrap_or_default(),
        log_config: log_config(flags, logging)?,
        restart_policy,
        group_add: some(flags.group_add.clone()),
        oom_score_adj,
        storage_opt: some_map(pairs("--storage-opt", &flags.storage_opt)?),
        sysctls: some_map(pairs("--sysctl", &flags.sysctl)?),
        ulimits: some(ulimits),
        ..HostConfig::default()
    })
}

fn some<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

fn some_map(values: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!values.is_empty()).then_some(values)
}

fn dns(flags: &CreateFlags) -> Result<Vec<String>, DraftError> {
    match flags
        .dns
        .iter()
        .find(|text| text.parse::<IpAddr>().is_err())
    {
        Some(bad) => Err(DraftError::Dns(bad.clone())),
        None => Ok(flags.dns.clone()),
    }
}

/// Docker keeps `NAME:ADDRESS`, and also takes `NAME=ADDRESS` and an address in brackets.
fn extra_hosts(flags: &CreateFlags) -> Result<Vec<String>, DraftError> {
    let parse = |text: &String| {
        let invalid = || DraftError::AddHost(text.clone());
        let (name, address) = text.split_once(['=', ':']).ok_or_else(invalid)?;
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() || (bare != "host-gateway" && bare.parse::<IpAddr>().is_err()) {
            return Err(invalid());
        }
        Ok(format!("{name}:{bare}"))
    };
    flags.add_host.iter().map(parse).collect()
}

fn tmpfs(flags: &CreateFlags) -> Result<BTreeMap<String, String>, DraftError> {
    let mut mounts = BTreeMap::new();
    for spec in &flags.tmpfs {
        let (path, options) = mount::parse_tmpfs(spec)?;
        if mounts.insert(path.clone(), options).is_some() {
            return Err(MountError::Duplicate { destination: path }.into());
        }
    }
    Ok(mounts)
}

/// The daemon's options are for its own driver, and a flag goes before each.
fn log_config(flags: &CreateFlags, usual: &Logging) -> Result<LogConfig, DraftError> {
    let given = pairs("--log-opt", &flags.log_opt)?;
    let driver = flags.log_driver.as_ref().unwrap_or(&usual.driver);
    let mut config = match *driver == usual.driver {
        true => usual.options.clone(),
        false => BTreeMap::new(),
    };
    config.extend(given);
    let config = LogConfig {
        driver: driver.clone(),
        config,
    };
    Settings::parse(&config)?;
    Ok(config)
}

pub(crate) fn pairs(
    flag: &'static str,
    texts: &[String],
) -> Result<BTreeMap<String, String>, DraftError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(DraftError::Pair {
            flag,
            text: text.clone(),
        }),
    };
    texts.iter().map(pair).collect()
}

/// The mounts of the flags, then the image's volumes at places that are still free.
fn mounts(
    flags: &CreateFlags,
    image: &Section,
    host: &HostConfig,
    directory: &Path,
) -> Result<Vec<MountSpec>, DraftError> {
    let driver = flags.volume_driver.as_deref().unwrap_or_default();
    let mut mounts = Vec::new();
    for spec in &flags.volume {
        mounts.push(mount::parse_short(spec, driver, directory)?);
    }
    for spec in &flags.mount {
        mounts.push(mount::parse_long(spec, directory)?);
    }
    let tmpfs: Vec<&str> = host
        .tmpfs
        .iter()
        .flatten()
        .map(|(path, _)| path.as_str())
        .collect();
    let named = mounts.iter().map(|mount| mount.destination.as_str());
    mount::check_distinct(named.chain(tmpfs.iter().copied()))?;
    for path in image.volumes.keys() {
        let destination = mount::clean(Path::new(path)).display().to_string();
        let taken = mounts.iter().any(|mount| mount.destination == destination)
            || tmpfs.contains(&destination.as_str());
        if taken || destination == "/" {
            continue;
        }
        mounts.push(MountSpec {
            source: Source::Volume(VolumeSpec::default()),
            destination,
            read_only: false,
            mode: String::new(),
            propagation: String::new(),
            recursion: Recursion::default(),
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use crate::container::Empty;

    use super::*;

    fn flags(arguments: &[&str]) -> CreateFlags {
        #[derive(clap::Parser)]
        #[command(disable_help_flag = true)]
        struct Line {
            #[command(flatten)]
            flags: CreateFlags,
        }
        let line = ["run"].iter().chain(arguments);
        <Line as clap::Parser>::try_parse_from(line).unwrap().flags
    }

    fn image() -> Section {
        Section {
            env: vec!["A=image".into()],
            cmd: Some(vec!["serve".into()]),
            entrypoint: Some(vec!["/start".into()]),
            volumes: BTreeMap::from([("/data/".into(), Empty {}), ("/logs".into(), Empty {})]),
            exposed_ports: BTreeMap::from([("443/tcp".into(), Empty {})]),
            labels: BTreeMap::from([("l1".into(), "image".into())]),
            working_dir: "/srv".into(),
            ..Section::default()
        }
    }

    fn drafted(arguments: &[&str]) -> Result<Draft, DraftError> {
        let around = Surroundings {
            directory: "/here".into(),
            ..Surroundings::default()
        };
        draft(&flags(arguments), &image(), &around)
    }

    #[test]
    fn the_daemons_log_options_are_for_its_own_driver() {
        let around = Surroundings {
            directory: "/here".into(),
            logging: Logging {
                options: [("max-size".to_owned(), "1m".to_owned())].into(),
                ..Logging::default()
            },
            ..Surroundings::default()
        };
        let config = |arguments: &[&str]| {
            let draft = draft(&flags(arguments), &image(), &around).unwrap();
            let config = draft.host_config.log_config;
            let options = config.config.into_iter().map(|(k, v)| format!("{k}={v}"));
            (config.driver, options.collect::<Vec<_>>().join(" "))
        };
        let file = |options: &str| ("json-file".to_owned(), options.to_owned());
        assert_eq!(config(&["img"]), file("max-size=1m"));
        let own = ["--log-opt", "max-size=2m", "--log-opt", "max-file=2", "img"];
        assert_eq!(config(&own), file("max-file=2 max-size=2m"));
        let none = ("none".to_owned(), String::new());
        assert_eq!(config(&["--log-driver", "none", "img"]), none);
    }

    #[test]
    fn flags_go_before_the_image_only() {
        let draft = drafted(&["-it", "img", "-c", "ls", "--rm", "-d"]).unwrap();
        assert_eq!(draft.config.cmd.unwrap(), ["-c", "ls", "--rm", "-d"]);
        assert_eq!(draft.config.entrypoint.unwrap(), ["/start"]);
        assert!(draft.config.tty && draft.config.open_stdin && !draft.host_config.auto_remove);
    }

    #[test]
    fn the_images_settings_are_defaults() {
        let draft = drafted(&["-e", "B=2", "-l", "l1=flag", "-p", "80:80", "img"]).unwrap();
        assert_eq!(draft.config.env, ["A=image", "B=2"]);
        assert_eq!(draft.config.cmd.unwrap(), ["serve"]);
        assert_eq!(draft.config.labels["l1"], "flag");
        assert_eq!(draft.config.working_dir, "/srv");
        let ports: Vec<_> = draft.config.exposed_ports.into_keys().collect();
        assert_eq!(ports, ["443/tcp", "80/tcp"]);
        assert_eq!(draft.host_config.shm_size, 64 << 20);
    }

    #[test]
    fn a_new_entrypoint_drops_the_images_command() {
        let draft = drafted(&["--entrypoint", "echo", "img"]).unwrap();
        assert_eq!(
            (draft.config.entrypoint.unwrap(), draft.config.cmd),
            (vec!["echo".into()], None)
        );
        assert_eq!(
            drafted(&["--entrypoint", "", "img"]),
            Err(DraftError::NoCommand)
        );
    }

    #[test]
    fn the_images_volumes_fill_free_places() {
        let draft = drafted(&["-v", "mine:/data", "--tmpfs", "/logs", "img"]).unwrap();
        let places: Vec<_> = draft
            .mounts
            .iter()
            .map(|m| m.destination.as_str())
            .collect();
        assert_eq!(places, ["/data"]);
        assert_eq!(drafted(&["img"]).unwrap().mounts.len(), 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (arguments, part) in [
            (&["-w", "relative", "img"][..], "absolute path"),
            (&["--name", "a/b", "img"], "invalid container name"),
            (&["--hostname", "a b", "img"], "invalid hostname"),
            (
                &["--rm", "--restart", "always", "img"],
                "conflicting options",
            ),
            (&["--restart", "sometimes", "img"], "invalid restart policy"),
            (&["--add-host", "x", "img"], "invalid --add-host"),
            (&["--add-host", "x:y", "img"], "invalid --add-host"),
            (&["--dns", "x", "img"], "invalid --dns"),
            (&["--sysctl", "x", "img"], "invalid --sysctl"),
            (&["--storage-opt", "x", "img"], "invalid --storage-opt"),
            (&["--shm-size", "x", "img"], "invalid size"),
            (&["--oom-score-adj", "-2000", "img"], "--oom-score-adj"),
            (&["--stop-signal", "LOUD", "img"], "invalid signal"),
            (
                &["-v", "va:/m", "-v", "/b:/m", "img"],
                "duplicate mount point: /m",
            ),
            (
                &["-v", "va:/m", "--tmpfs", "/m", "img"],
                "duplicate mount point: /m",
            ),
            (
                &["--tmpfs", "/m", "--tmpfs", "/m", "img"],
                "duplicate mount point: /m",
            ),
            (&["-p", "x", "img"], "invalid port"),
            (&["-e", "=x", "img"], "invalid environment variable"),
        ] {
            let message = drafted(arguments).unwrap_err().to_string();
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn hosts_may_be_written_in_three_ways() {
        let flags = flags(&[
            "--add-host",
            "a:1.2.3.4",
            "--add-host",
            "b=::1",
            "--add-host",
            "c:[::2]",
            "img",
        ]);
        assert_eq!(
            extra_hosts(&flags).unwrap(),
            ["a:1.2.3.4", "b:::1", "c:::2"]
        );
    }
}
