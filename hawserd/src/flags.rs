//! The command line. What is given here goes before the configuration file.

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use storaged::DriverName;

/// The daemon of Hawser: networks and storage for containers.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "hawserd", version)]
pub(crate) struct Flags {
    /// Configuration file [default: /etc/hawser/hawserd.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Durable state [default: /var/lib/hawser]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Socket and boot-scoped state [default: /run/hawser]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Where the volume-plugin socket goes [default: /run/docker/plugins]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugin_dir: Option<PathBuf>,
    /// Where BPF maps and links are pinned [default: /sys/fs/bpf/hawser/INSTANCE/v1]
    #[arg(long, value_name = "DIR")]
    pub(crate) pin_dir: Option<PathBuf>,
    /// Name of this daemon among several on one host [default: made from the state directory]
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Storage driver: overlay2, vfs or devicemapper [default: overlay2]
    #[arg(long, value_name = "NAME", value_parser = storage_driver)]
    pub(crate) storage_driver: Option<DriverName>,
    /// Option of the storage driver, such as dm.basesize=20G; may be given several times, and is
    /// added to those of the configuration file
    #[arg(long = "storage-opt", value_name = "KEY=VALUE")]
    pub(crate) storage_opts: Vec<String>,
    /// What to log: fatal or off, error, warn, info, debug, trace, or directives such as
    /// netd=debug,info
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How to log to standard error
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Check the configuration and exit
    #[arg(long, conflicts_with = "uninstall")]
    pub(crate) check_config: bool,
    /// Remove what the data plane left in the kernel (interfaces, BPF pins, nftables), leave the
    /// cluster, and exit; images and volumes stay
    #[arg(long)]
    pub(crate) uninstall: bool,
    /// Make a new database from the layers, images and volumes on disk and exit; networks must be
    /// created again
    #[arg(long, conflicts_with_all = ["uninstall", "check_config"])]
    pub(crate) rebuild_database: bool,
}

fn storage_driver(name: &str) -> Result<DriverName, String> {
    DriverName::ALL
        .into_iter()
        .find(|driver| driver.name() == name)
        .ok_or_else(|| {
            format!(
                "expected {}",
                DriverName::ALL.map(DriverName::name).join(" or ")
            )
        })
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Prints the help that was asked for, or says in one line what is wrong with the command line.
pub(crate) fn explain(error: &clap::Error) -> Result<(), Box<dyn Error>> {
    if error.use_stderr() {
        let text = error.to_string();
        let wrong = text.lines().next().unwrap_or_default();
        let wrong = wrong.strip_prefix("error: ").unwrap_or(wrong);
        return Err(format!("{wrong}: see 'hawserd --help'").into());
    }
    Ok(error.print()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_line_is_one_line() {
        let check = |flags: &[&str], expected: &str| {
            let flags = ["hawserd"].iter().chain(flags);
            let error = Flags::try_parse_from(flags).unwrap_err();
            assert_eq!(explain(&error).unwrap_err().to_string(), expected);
        };
        check(
            &["--frob"],
            "unexpected argument '--frob' found: see 'hawserd --help'",
        );
        check(
            &["--check-config", "--uninstall"],
            "the argument '--check-config' cannot be used with '--uninstall': see 'hawserd --help'",
        );
    }
}
