//! The first process: its command line, environment and limits.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::SpecError;
use crate::container::{Config, Ulimit};

/// Docker's `PATH` for images that set none.
pub(crate) const DEFAULT_PATH: &str =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn arguments(config: &Config) -> Result<Vec<String>, SpecError> {
    let entrypoint = config.entrypoint.iter().flatten();
    let arguments: Vec<String> = entrypoint
        .chain(config.cmd.iter().flatten())
        .cloned()
        .collect();
    match arguments.first().map(String::as_str) {
        None | Some("") => Err(SpecError::NoCommand),
        Some(_) => Ok(arguments),
    }
}

pub(crate) fn working_dir(config: &Config) -> Result<&str, SpecError> {
    match config.working_dir.as_str() {
        "" => Ok("/"),
        dir if dir.starts_with('/') => Ok(dir),
        dir => Err(SpecError::WorkingDir {
            dir: dir.to_owned(),
        }),
    }
}

/// `PATH`, `HOSTNAME`, `TERM`, what tells of linked containers, and `HOME`, each unless the configuration sets it. A variable that
/// is set twice has the later value, in the earlier place.
pub(crate) fn environment(
    config: &Config,
    hostname: &str,
    home: &str,
    linked: &[String],
) -> Vec<String> {
    let mut variables = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        variables.push("TERM=xterm".to_owned());
    }
    merge(&mut variables, linked);
    merge(&mut variables, &config.env);
    if !variables
        .iter()
        .any(|variable| variable.starts_with("HOME="))
    {
        variables.push(format!("HOME={home}"));
    }
    variables
}

/// Sets `more` over `variables`. An entry without `=` removes the variable.
pub(crate) fn merge(variables: &mut Vec<String>, more: &[String]) {
    for variable in more {
        let name = name_of(variable);
        let place = variables.iter().position(|held| name_of(held) == name);
        match (place, variable.contains('=')) {
            (Some(place), true) => variables[place] = variable.clone(),
            (None, true) => variables.push(variable.clone()),
            (Some(place), false) => drop(variables.remove(place)),
            (None, false) => {}
        }
    }
}

fn name_of(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// This host's hard limits by Docker's names; absent means unlimited or that they may be raised.
pub(crate) type HardLimits = BTreeMap<&'static str, u64>;

/// Docker's names of the limits, and those of setrlimit(2).
pub(crate) const LIMIT_NAMES: [(&str, &str); 15] = [
    ("core", "RLIMIT_CORE"),
    ("cpu", "RLIMIT_CPU"),
    ("data", "RLIMIT_DATA"),
    ("fsize", "RLIMIT_FSIZE"),
    ("locks", "RLIMIT_LOCKS"),
    ("memlock", "RLIMIT_MEMLOCK"),
    ("msgqueue", "RLIMIT_MSGQUEUE"),
    ("nice", "RLIMIT_NICE"),
    ("nofile", "RLIMIT_NOFILE"),
    ("nproc", "RLIMIT_NPROC"),
    ("rss", "RLIMIT_RSS"),
    ("rtprio", "RLIMIT_RTPRIO"),
    ("rttime", "RLIMIT_RTTIME"),
    ("sigpending", "RLIMIT_SIGPENDING"),
    ("stack", "RLIMIT_STACK"),
];

/// Open files when nothing is asked for: what systemd gives a service, whatever the shell that
/// started the container has.
const DEFAULT_NOFILE: (u64, u64) = (1024, 524_288);

/// The limits asked for, lowered to what this host lets us set, with a warning for each.
pub(super) fn rlimits(
    asked: Option<&[Ulimit]>,
    hard_limits: &HardLimits,
) -> Result<(Vec<Value>, Vec<String>), SpecError> {
    let (mut limits, mut warnings) = (Vec::new(), Vec::new());
    let asked = asked.unwrap_or_default();
    for limit in asked {
        let known = LIMIT_NAMES.iter().find(|(name, _)| *name == limit.name);
        let Some((name, kernel_name)) = known else {
            return Err(SpecError::Ulimit {
                name: limit.name.clone(),
            });
        };
        // -1, and any other negative number, is RLIM_INFINITY.
        let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        let highest = hard_limits.get(name).copied().unwrap_or(u64::MAX);
        let hard = value(limit.hard).min(highest);
        if hard < value(limit.hard) {
            warnings.push(format!(
                "ulimit {name}: this host allows no more than {highest}"
            ));
        }
        let soft = value(limit.soft).min(hard);
        limits.push(json!({ "type": kernel_name, "hard": hard, "soft": soft }));
    }
    if !asked.iter().any(|limit| limit.name == "nofile") {
        let highest = hard_limits.get("nofile").copied().unwrap_or(u64::MAX);
        let (soft, hard) = (DEFAULT_NOFILE.0.min(highest), DEFAULT_NOFILE.1.min(highest));
        limits.push(json!({ "type": "RLIMIT_NOFILE", "hard": hard, "soft": soft }));
    }
    Ok((limits, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_entrypoint_precedes_the_command() {
        let config = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>| Config {
            entrypoint: entrypoint.map(strings),
            cmd: cmd.map(strings),
            ..Config::default()
        };
        let both = config(Some(&["/bin/sh", "-c"]), Some(&["true"]));
        assert_eq!(arguments(&both).unwrap(), ["/bin/sh", "-c", "true"]);
        for none in [config(None, None), config(Some(&[]), Some(&[""]))] {
            assert!(matches!(arguments(&none), Err(SpecError::NoCommand)));
        }
    }

    #[test]
    fn the_environment_is_completed_but_not_overruled() {
        let config = Config {
            tty: true,
            env: strings(&["A=1", "PATH=/x", "A=2", "HOME=/h", "TERM"]),
            ..Config::default()
        };
        assert_eq!(
            environment(&config, "h1", "/root", &["DB_NAME=/web/db".to_owned()]),
            [
                "PATH=/x",
                "HOSTNAME=h1",
                "DB_NAME=/web/db",
                "A=2",
                "HOME=/h"
            ]
        );
        assert_eq!(
            environment(&Config::default(), "h1", "/root", &[]),
            [DEFAULT_PATH, "HOSTNAME=h1", "HOME=/root"]
        );
    }

    #[test]
    fn limits_are_lowered_to_the_hosts_with_a_warning() {
        let asked = [
            Ulimit {
                name: "nofile".to_owned(),
                soft: 100,
                hard: -1,
            },
            Ulimit {
                name: "core".to_owned(),
                soft: -1,
                hard: -1,
            },
        ];
        let (limits, warnings) =
            rlimits(Some(&asked), &HardLimits::from([("nofile", 4096)])).unwrap();
        assert_eq!(
            limits[0],
            json!({"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 100})
        );
        assert_eq!(
            limits[1],
            json!({"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": u64::MAX})
        );
        assert_eq!(
            warnings,
            ["ulimit nofile: this host allows no more than 4096"]
        );
        let unknown = [Ulimit {
            name: "files".to_owned(),
            soft: 1,
            hard: 1,
        }];
        assert!(rlimits(Some(&unknown), &HardLimits::new()).is_err());
    }
}
