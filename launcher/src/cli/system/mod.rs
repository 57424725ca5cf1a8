//! `hawser system …`, `hawser info` and `hawser version`.

pub mod prune;
mod swarm;
pub mod usage;

use api::daemon::{Info, Version};
use api::path::VERSION;
use clap::Args;
use serde_json::{Value, json};

use crate::cgroup::Cgroups;
use crate::container::Status;
use crate::format::human;
use crate::format::template::Template;
use crate::log::option::DRIVERS;
use crate::registry::credential::HUB_KEY;
use crate::shim::Modules;

use super::container::{stats, view};
use super::context::Context;
use super::error::CliError;
use super::output;
use super::run::resource::Machine;
pub(super) use swarm::HEARTBEATS;
use swarm::Part;

/// `hawser info` and `hawser version`.
#[derive(Debug, Clone, Args)]
pub struct FormatFlags {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    running: usize,
    paused: usize,
    stopped: usize,
}

impl Counts {
    fn all(self) -> usize {
        self.running + self.paused + self.stopped
    }
}

/// What of the host's security containers are run with.
fn security_options(info: &Info) -> Vec<String> {
    let mut options = vec!["name=seccomp,profile=builtin".to_owned()];
    let modules = Modules::observe();
    if modules.apparmor {
        options.insert(0, "name=apparmor".to_owned());
    }
    if modules.selinux {
        options.push("name=selinux".to_owned());
    }
    let is_unified = Cgroups::observe().is_ok_and(|cgroups| cgroups == Cgroups::Unified);
    if is_unified {
        options.push("name=cgroupns".to_owned());
    }
    if info.userns_remap.is_some() {
        options.push("name=userns".to_owned());
    }
    options
}

/// CPUs that are on line, and bytes of memory.
fn machine() -> (usize, u64) {
    (Machine::observe().cpus.len(), stats::host_memory())
}

/// # Errors
/// A bad template, or no daemon.
pub fn info(context: &Context, flags: &FormatFlags) -> Result<i32, CliError> {
    let host = Host::read(context)?;
    match &flags.format {
        None => output::write(host.text())?,
        Some(format) => output::line(formatted(format, &host.object())?)?,
    }
    let warnings = host.info.warnings.iter();
    for warning in warnings.filter(|_| flags.format.is_none()) {
        output::warn(format_args!("WARNING: {warning}"));
    }
    Ok(0)
}

/// Docker's object of a host, and members of ours.
///
/// # Errors
/// No daemon.
pub fn described(context: &Context) -> Result<Value, CliError> {
    Ok(Host::read(context)?.object())
}

/// What there is to say of a host.
struct Host<'c> {
    info: &'c Info,
    counts: Counts,
    part: Option<Part>,
}

impl<'c> Host<'c> {
    fn read(context: &'c Context) -> Result<Self, CliError> {
        let info = context.info()?;
        let mut counts = Counts::default();
        for view in view::all(context)? {
            if view.state.status == Status::Running && view.state.paused {
                counts.paused += 1;
            } else if view.state.status == Status::Running {
                counts.running += 1;
            } else {
                counts.stopped += 1;
            }
        }
        let part = Part::read(context, info);
        Ok(Self { info, counts, part })
    }

    fn object(&self) -> Value {
        let Self { info, counts, part } = self;
        let mut object = serde_json::to_value(info).unwrap_or_default();
        if let Value::Object(members) = &mut object {
            members.extend(
                [
                    ("Containers", json!(counts.all())),
                    ("ContainersRunning", json!(counts.running)),
                    ("ContainersPaused", json!(counts.paused)),
                    ("ContainersStopped", json!(counts.stopped)),
                    ("DockerRootDir", json!(info.state_dir)),
                    ("LoggingDriver", json!(info.logging.driver)),
                    ("CgroupDriver", json!("cgroupfs")),
                    ("SecurityOptions", json!(security_options(info))),
                    ("DefaultRuntime", json!("hawser-shim")),
                    ("InitBinary", json!("hawser-shim")),
                    ("NCPU", json!(machine().0)),
                    ("MemTotal", json!(machine().1)),
                    ("OSType", json!("linux")),
                    ("Swarm", swarm::object(part.as_ref())),
                    ("Architecture", json!(std::env::consts::ARCH)),
                    ("IndexServerAddress", json!(HUB_KEY)),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            );
        }
        object
    }

    fn text(&self) -> String {
        let Self { info, counts, part } = self;
        let mut lines = vec![
            format!("Containers: {}", counts.all()),
            format!(" Running: {}", counts.running),
            format!(" Paused: {}", counts.paused),
            format!(" Stopped: {}", counts.stopped),
            format!("Images: {}", info.images),
            format!("Networks: {}", info.networks),
            format!("Endpoints: {}", info.endpoints),
            format!("Volumes: {}", info.volumes),
            format!("Server Version: {}", info.server_version),
            format!("Storage Driver: {}", info.driver),
        ];
        let rows = info.driver_status.iter();
        lines.extend(rows.map(|(name, value)| format!(" {name}: {value}")));
        lines.extend([
            format!("Logging Driver: {}", info.logging.driver),
            "Cgroup Driver: cgroupfs".to_owned(),
            format!("Cgroup Version: {}", info.cgroup_version),
            "Plugins:".to_owned(),
            " Volume: local".to_owned(),
            " Network: bridge host ipvlan macvlan null overlay".to_owned(),
            format!(" Log: {}", DRIVERS.join(" ")),
        ]);
        lines.extend(swarm::lines(part.as_ref()));
        lines.extend([
            format!("Runtimes: {}", runtimes(info).join(" ")),
            "Default Runtime: hawser-shim".to_owned(),
            "Init Binary: hawser-shim".to_owned(),
            "Security Options:".to_owned(),
        ]);
        for option in security_options(info) {
            let mut parts = option
                .split(',')
                .map(|part| part.split_once('=').unwrap_or((part, "")));
            let name = parts.next().map_or("", |(_, name)| name);
            lines.push(format!(" {name}"));
            lines.extend(parts.map(|(key, value)| match key {
                "profile" => format!("  Profile: {value}"),
                _ => format!("  {key}: {value}"),
            }));
        }
        if let Some(remap) = &info.userns_remap {
            lines.push(format!("User Namespace Remap: {}", remap.user));
            let (uids, gids) = (&remap.maps.uids, &remap.maps.gids);
            for (what, ranges) in [("Users", uids), ("Groups", gids)] {
                let spans = ranges
                    .iter()
                    .map(|range| format!("{}-{}", range.host, range.host + (range.size - 1)));
                let spans: Vec<String> = spans.collect();
                lines.push(format!(" {what}: {}", spans.join(", ")));
            }
        }
        lines.extend(["Data Path:".to_owned()]);
        lines.extend(info.data_path.iter().map(|line| format!(" {line}")));
        lines.extend([
            format!("Kernel Version: {}", info.kernel_version),
            format!("Operating System: {}", info.operating_system),
            "OSType: linux".to_owned(),
            format!("Architecture: {}", std::env::consts::ARCH),
            format!("CPUs: {}", machine().0),
            format!("Total Memory: {}", human::binary_size(machine().1, 4)),
            format!("Name: {}", info.name),
            format!("State Dir: {}", info.state_dir),
            format!("Run Dir: {}", info.run_dir),
            format!("Volume Plugin Dir: {}", info.plugin_dir),
            format!("CNI Plugin Dir: {}", info.cni_bin_dir),
        ]);
        lines.join("\n") + "\n"
    }
}

fn formatted(format: &str, value: &Value) -> Result<String, CliError> {
    let source = if format == "json" {
        "{{json .}}"
    } else {
        format
    };
    Ok(Template::parse(source)?.render(value)?)
}

fn runtimes(info: &Info) -> Vec<&str> {
    let named = info.runtimes.keys().map(String::as_str);
    std::iter::once("hawser-shim").chain(named).collect()
}

/// The client's part is printed even if there is no daemon; the exit code tells.
///
/// # Errors
/// A bad template, or no daemon.
pub fn version(context: &Context, flags: &FormatFlags) -> Result<i32, CliError> {
    let client = Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: api::path::API.trim_start_matches("/v").to_owned(),
        os: "linux".to_owned(),
        arch: api::daemon::host_architecture().to_owned(),
        kernel_version: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
    };
    let server = context.client().get::<Version>(VERSION);
    if let Some(format) = &flags.format {
        let value = json!({ "Client": client, "Server": server? });
        output::line(formatted(format, &value)?)?;
        return Ok(0);
    }
    output::write(version_text("Client: hawser", &client))?;
    let server = server?;
    output::write(format_args!(
        "\n{}",
        version_text("Server: hawserd", &server)
    ))?;
    Ok(0)
}

fn version_text(title: &str, version: &Version) -> String {
    format!(
        "{title}\n Version:           {}\n API version:       {}\n OS/Arch:           {}/{}\n \
         Kernel Version:    {}\n",
        version.version, version.api_version, version.os, version.arch, version.kernel_version
    )
}
