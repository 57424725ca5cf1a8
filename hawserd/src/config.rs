//! `hawserd.toml` and the command line, made into one checked configuration.
//!
//! Unknown keys are errors. Every message names the file, the line and the key. Reading has no
//! effect but the read; [`crate::start`] makes the directories.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::daemon::{Logging, Registries, Runtime};
use netd::{NetConfig, PIN_SCHEMA};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use storaged::StorageConfig;

use crate::flags::{Flags, LogFormat};

const PIN_ROOT: &str = "/sys/fs/bpf/hawser";
const INSTANCE_MAX: usize = 32;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(
        "containers.runtimes: {0:?} cannot name a runtime: expected a name without a slash, and not \
         {OWN_RUNTIME}"
    )]
    Runtime(String),
    #[error("cannot read configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}, in {text:?}", path.display())]
    Parse {
        path: PathBuf,
        line: usize,
        message: String,
        text: String,
    },
    #[error("{key}: {} is not an absolute path", path.display())]
    Relative { key: &'static str, path: PathBuf },
    #[error("instance {0:?}: expected 1 to {INSTANCE_MAX} of a-z, 0-9 and '-'")]
    Instance(String),
    #[error("log level {level:?}: {source}")]
    LogLevel {
        level: String,
        source: tracing_subscriber::filter::ParseError,
    },
}

/// What the launcher calls its own.
const OWN_RUNTIME: &str = "hawser-shim";

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct File {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    plugin_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    cni_bin_dir: Option<PathBuf>,
    instance: Option<String>,
    group: Option<String>,
    log: LogFile,
    network: NetConfig,
    storage: StorageConfig,
    registry: RegistryFile,
    swarm: SwarmFile,
    containers: ContainersFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct RegistryFile {
    insecure: Vec<String>,
    mirrors: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct SwarmFile {
    etcd: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct ContainersFile {
    log_driver: Option<String>,
    log_opts: BTreeMap<String, String>,
    userns_remap: Option<String>,
    runtimes: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct LogFile {
    level: Option<String>,
    format: LogFormat,
}

/// What the daemon runs with. All paths are absolute.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where it was read from, for a reload.
    pub(crate) file: Option<PathBuf>,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) plugin_dir: PathBuf,
    pub(crate) pin_dir: PathBuf,
    pub(crate) cni_bin_dir: PathBuf,
    pub(crate) instance: String,
    /// Members may use the API socket.
    pub(crate) group: String,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    pub(crate) network: NetConfig,
    pub(crate) storage: StorageConfig,
    /// The program that managers keep a cluster with.
    pub(crate) etcd: PathBuf,
    /// For the launcher, as is what follows.
    pub(crate) registries: Registries,
    pub(crate) logging: Logging,
    pub(crate) runtimes: BTreeMap<String, Runtime>,
}

impl Config {
    /// Reads the file that `flags` name, else the default one if it exists.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let default = Path::new(api::path::CONFIG_FILE);
        let path = flags.config.as_deref().unwrap_or(default);
        match fs::read_to_string(path) {
            Ok(text) => Self::resolve(parse(path, &text)?, flags, Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && flags.config.is_none() => {
                Self::resolve(File::default(), flags, None)
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The file's name, for people.
    pub(crate) fn source(&self) -> String {
        match &self.file {
            Some(path) => path.display().to_string(),
            None => format!("defaults ({} does not exist)", api::path::CONFIG_FILE),
        }
    }

    fn resolve(file: File, flags: &Flags, path: Option<&Path>) -> Result<Self, ConfigError> {
        let pick = |key, flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            absolute(key, flag.clone().or(file).unwrap_or_else(|| default.into()))
        };
        let state_dir = pick(
            "state-dir",
            &flags.state_dir,
            file.state_dir,
            api::path::STATE_DIR,
        )?;
        let instance = match flags.instance.clone().or(file.instance) {
            Some(name) if is_instance(&name) => name,
            Some(name) => return Err(ConfigError::Instance(name)),
            None => instance_of(&state_dir),
        };
        let pins = format!("{PIN_ROOT}/{instance}/{PIN_SCHEMA}");
        let log_level = flags
            .log_level
            .clone()
            .or(file.log.level)
            .unwrap_or_else(|| "info".to_owned());
        crate::log::check_level(&log_level)?;
        Ok(Self {
            file: path.map(Path::to_owned),
            run_dir: pick("run-dir", &flags.run_dir, file.run_dir, api::path::RUN_DIR)?,
            plugin_dir: pick(
                "plugin-dir",
                &flags.plugin_dir,
                file.plugin_dir,
                api::path::VOLUME_PLUGIN_DIR,
            )?,
            pin_dir: pick("pin-dir", &flags.pin_dir, file.pin_dir, &pins)?,
            cni_bin_dir: pick(
                "cni-bin-dir",
                &None,
                file.cni_bin_dir,
                api::path::CNI_BIN_DIR,
            )?,
            state_dir,
            instance,
            group: file.group.unwrap_or_else(|| "hawser".to_owned()),
            log_level,
            log_format: flags.log_format.unwrap_or(file.log.format),
            network: file.network,
            storage: StorageConfig {
                driver: flags.storage_driver.or(file.storage.driver),
                opts: [file.storage.opts, flags.storage_opts.clone()].concat(),
                userns_remap: file.containers.userns_remap,
                ..file.storage
            },
            etcd: file.swarm.etcd.unwrap_or_else(|| "etcd".into()),
            registries: Registries {
                insecure: file.registry.insecure,
                mirrors: file.registry.mirrors,
            },
            logging: Logging {
                driver: file
                    .containers
                    .log_driver
                    .unwrap_or_else(|| Logging::default().driver),
                options: file.containers.log_opts,
            },
            runtimes: runtimes(file.containers.runtimes)?,
        })
    }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..start]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        ConfigError::Parse {
            path: path.to_owned(),
            line: line + 1,
            // What serde calls a field, a user of the file calls a key.
            message: error
                .message()
                .replace('\n', "; ")
                .replace("unknown field", "unknown key"),
            text: text.lines().nth(line).unwrap_or_default().trim().to_owned(),
        }
    })
}

/// A relative path on the command line would mean something else after a restart by systemd.
fn runtimes(named: BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Runtime>, ConfigError> {
    let named = named.into_iter().map(|(name, path)| {
        // Names with a slash are paths, and one is our own.
        if name.is_empty() || name.contains('/') || name == OWN_RUNTIME {
            return Err(ConfigError::Runtime(name));
        }
        let path = absolute("containers.runtimes", path)?;
        Ok((name, Runtime { path }))
    });
    named.collect()
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(ConfigError::Relative { key, path })
    }
}

/// The name is a directory below bpffs, where dots are not allowed (`bpf_lookup` in the kernel's
/// `kernel/bpf/inode.c`).
fn is_instance(name: &str) -> bool {
    (1..=INSTANCE_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// `default`, or a short hash that the same state directory always has.
fn instance_of(state_dir: &Path) -> String {
    if state_dir == Path::new(api::path::STATE_DIR) {
        return "default".to_owned();
    }
    let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let error = parse(Path::new("hawserd.toml"), text).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    fn resolve(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        use clap::Parser;
        let flags = Flags::try_parse_from([&["hawserd"], flags].concat()).unwrap();
        Config::resolve(
            parse(Path::new("hawserd.toml"), text).unwrap(),
            &flags,
            None,
        )
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        check_error(
            "# a comment\nstate-dri = \"/x\"\n",
            "hawserd.toml:2: unknown key `state-dri`, expected one of `state-dir`, `run-dir`, \
             `plugin-dir`, `pin-dir`, `cni-bin-dir`, `instance`, `group`, `log`, `network`, \
             `storage`, `registry`, `swarm`, `containers`, in \"state-dri = \\\"/x\\\"\"",
        );
        check_error(
            "[log]\nlevel = 3\n",
            "hawserd.toml:2: invalid type: integer `3`, expected a string, in \"level = 3\"",
        );
        check_error(
            "[log]\n\nformat = \"xml\"\n",
            "hawserd.toml:3: unknown variant `xml`, expected `text` or `json`, \
             in \"format = \\\"xml\\\"\"",
        );
        let unclosed = parse(Path::new("hawserd.toml"), "[log]\nlevel = \"info\n").unwrap_err();
        assert!(
            unclosed.to_string().starts_with("hawserd.toml:2: "),
            "{unclosed}"
        );
    }

    #[test]
    fn sections_of_the_subsystems_are_checked_too() {
        for (text, line) in [
            ("[network]\nbogus = 1\n", 2),
            ("[storage]\n\nbogus = 1\n", 3),
        ] {
            let error = parse(Path::new("f"), text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("f:{line}: unknown key `bogus`")),
                "{error}"
            );
        }
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let text =
            "state-dir = \"/file/state\"\nrun-dir = \"/file/run\"\n[log]\nlevel = \"warn\"\n";
        let config = resolve(text, &["--run-dir", "/flag/run", "--log-level", "debug"]).unwrap();
        assert_eq!(config.state_dir, Path::new("/file/state"));
        assert_eq!(config.run_dir, Path::new("/flag/run"));
        assert_eq!(config.plugin_dir, Path::new("/run/docker/plugins"));
        assert_eq!(config.log_level, "debug");
    }

    #[test]
    fn runtimes_have_names_and_absolute_paths() {
        let config = resolve("[containers.runtimes]\nkata = \"/opt/kata\"\n", &[]).unwrap();
        assert_eq!(config.runtimes["kata"].path, Path::new("/opt/kata"));
        for (line, part) in [
            ("kata = \"kata\"", "containers.runtimes"),
            ("hawser-shim = \"/bin/sh\"", "cannot name a runtime"),
            ("\"a/b\" = \"/bin/sh\"", "cannot name a runtime"),
        ] {
            let refused = resolve(&format!("[containers.runtimes]\n{line}\n"), &[]);
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_documented_file_is_the_default() {
        let documented = resolve(include_str!("../../docs/hawserd.toml"), &[]).unwrap();
        let default = resolve("", &[]).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{default:?}"));
    }

    #[test]
    fn every_state_directory_has_its_own_pins() {
        let default = resolve("", &[]).unwrap();
        assert_eq!(default.pin_dir, Path::new("/sys/fs/bpf/hawser/default/v1"));
        let one = resolve("", &["--state-dir", "/srv/one"]).unwrap();
        let two = resolve("", &["--state-dir", "/srv/two"]).unwrap();
        assert_ne!(one.instance, two.instance);
        assert!(is_instance(&one.instance), "{}", one.instance);
        let named = resolve("", &["--instance", "blue"]).unwrap();
        assert_eq!(named.pin_dir, Path::new("/sys/fs/bpf/hawser/blue/v1"));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let refusal = |flags: &[&str]| resolve("", flags).unwrap_err().to_string();
        assert_eq!(
            refusal(&["--state-dir", "state"]),
            "state-dir: state is not an absolute path"
        );
        assert_eq!(
            refusal(&["--instance", "../x"]),
            "instance \"../x\": expected 1 to 32 of a-z, 0-9 and '-'"
        );
        assert!(refusal(&["--log-level", "netd=loud"]).starts_with("log level \"netd=loud\": "));
    }
}
