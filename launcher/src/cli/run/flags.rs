//! The flags of `hawser run` and `hawser create`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::health::HealthFlags;
use super::resource::{FixedLimitFlags, LimitFlags};

/// When an image is pulled that containers are to be made from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    #[default]
    Missing,
    Always,
    Never,
}

/// What a container is made of.
#[derive(Debug, Clone, Default, Args)]
pub struct CreateFlags {
    /// Name the container; otherwise it gets a random name
    #[arg(long)]
    pub name: Option<String>,
    /// When to pull the image: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: PullPolicy,
    /// Use the image for another platform than this host's, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Do not show the pull
    #[arg(short, long)]
    pub quiet: bool,
    /// Taken for scripts; signatures are never asked for
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
    /// Remove the container and its anonymous volumes when it exits
    #[arg(long)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Write the container's id to a file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,

    /// Join a network: a name, host, none, container:NAME, or by fields, which are name=NETWORK,
    /// alias=NAME, ip=ADDRESS, ip6=ADDRESS, mac-address=ADDRESS, link=CONTAINER:ALIAS and
    /// driver-opt=OPTION
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        help_heading = "Network"
    )]
    pub network: Vec<String>,
    /// Be a member of a service while running, also of several; on the service's networks unless
    /// --network says otherwise
    #[arg(long, value_name = "SERVICE", help_heading = "Network")]
    pub service: Vec<String>,
    /// Share of the services' new connections relative to the other members', 1 unless given
    #[arg(long, value_name = "NUMBER", help_heading = "Network")]
    pub service_weight: Option<u32>,
    /// Further name on the network
    #[arg(
        long,
        visible_alias = "net-alias",
        value_name = "NAME",
        help_heading = "Network"
    )]
    pub network_alias: Vec<String>,
    /// IPv4 address on the network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub ip: Option<String>,
    /// IPv6 address on the network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub ip6: Option<String>,
    /// Link to another container: CONTAINER[:ALIAS]
    #[arg(long, value_name = "LINK", help_heading = "Network")]
    pub link: Vec<String>,
    /// Link-local address; refused, for the kernel gives the interface its own
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub link_local_ip: Vec<String>,
    /// Ethernet address, such as 02:42:ac:11:00:02
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub mac_address: Option<String>,
    /// Publish a port: [[HOST-IP:]HOST-PORT:]PORT[/PROTOCOL]; each port may be a range, of which
    /// the first free one is taken for a single PORT
    #[arg(short, long, value_name = "PORTS", help_heading = "Network")]
    pub publish: Vec<String>,
    /// Publish all exposed ports on ports that the daemon chooses
    #[arg(short = 'P', long, help_heading = "Network")]
    pub publish_all: bool,
    /// Expose a port or a range without publishing it
    #[arg(long, value_name = "PORTS", help_heading = "Network")]
    pub expose: Vec<String>,
    /// Host name inside the container; otherwise the first 12 digits of its id
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Network")]
    pub hostname: Option<String>,
    /// Domain name inside the container
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub domainname: Option<String>,
    /// DNS server
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub dns: Vec<String>,
    /// DNS search domain
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub dns_search: Vec<String>,
    /// Resolver option, such as ndots:1
    #[arg(
        long,
        visible_alias = "dns-opt",
        value_name = "OPTION",
        help_heading = "Network"
    )]
    pub dns_option: Vec<String>,
    /// Line for /etc/hosts: NAME:ADDRESS; the address host-gateway is the host's
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub add_host: Vec<String>,

    /// Mount a volume or a host path: [SOURCE:]PATH[:MODE]
    #[arg(short, long, value_name = "VOLUME", help_heading = "Storage")]
    pub volume: Vec<String>,
    /// Mount by fields: type=volume|bind|tmpfs,source=…,target=…[,readonly]…, volume-subpath=DIR,
    /// bind-recursive=enabled|disabled|writable|readonly
    #[arg(long, value_name = "FIELDS", help_heading = "Storage")]
    pub mount: Vec<String>,
    /// Mount a file system in memory: PATH[:OPTIONS]
    #[arg(long, value_name = "PATH", help_heading = "Storage")]
    pub tmpfs: Vec<String>,
    /// Driver of the volumes of -v
    #[arg(long, value_name = "DRIVER", help_heading = "Storage")]
    pub volume_driver: Option<String>,
    /// Mount the volumes of another container: NAME[:ro]
    #[arg(long, value_name = "CONTAINER", help_heading = "Storage")]
    pub volumes_from: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long, help_heading = "Storage")]
    pub read_only: bool,
    /// Limit what the container writes to its root file system: size=BYTES
    #[arg(long, value_name = "OPTION", help_heading = "Storage")]
    pub storage_opt: Vec<String>,
    /// Size of /dev/shm, 64m unless given
    #[arg(long, value_name = "SIZE", help_heading = "Storage")]
    pub shm_size: Option<String>,

    /// Set an environment variable: NAME=VALUE, or NAME for the caller's own value
    #[arg(short, long, value_name = "VARIABLE", help_heading = "Process")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "PATH", help_heading = "Process")]
    pub workdir: Option<String>,
    /// User, and optionally group: NAME|UID[:GROUP|GID]
    #[arg(short, long, value_name = "USER", help_heading = "Process")]
    pub user: Option<String>,
    /// Further group of the user
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub group_add: Vec<String>,
    /// Replace the image's entrypoint; an empty text removes it
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<String>,
    /// Signal that stops the container
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub stop_signal: Option<String>,
    /// Seconds to wait after the stop signal before SIGKILL
    #[arg(long, value_name = "SECONDS", help_heading = "Process")]
    pub stop_timeout: Option<u32>,
    /// When to restart: no, always, unless-stopped, on-failure[:N]
    #[arg(long, value_name = "POLICY", help_heading = "Process")]
    pub restart: Option<String>,
    /// Resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT", help_heading = "Process")]
    pub ulimit: Vec<String>,
    /// Kernel parameter of the container's namespaces: NAME=VALUE
    #[arg(long, value_name = "PARAMETER", help_heading = "Process")]
    pub sysctl: Vec<String>,
    /// How readily the kernel kills it when memory is short: -1000 to 1000
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        help_heading = "Process"
    )]
    pub oom_score_adj: Option<i32>,

    /// Run an init as the first process, which forwards signals and reaps what is orphaned
    #[arg(long, help_heading = "Process")]
    pub init: bool,

    /// OCI runtime: a program by name, such as runc, or by path
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    pub runtime: Option<String>,

    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub fixed_limits: FixedLimitFlags,

    #[command(flatten)]
    pub health: HealthFlags,

    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", help_heading = "Security")]
    pub cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", help_heading = "Security")]
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no filter
    #[arg(long, help_heading = "Security")]
    pub privileged: bool,
    /// no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, label=disable|type:TYPE|…, or
    /// systempaths=unconfined
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    pub security_opt: Vec<String>,
    /// Inter-process communication: private, shareable, none, host or container:NAME
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub ipc: Option<String>,
    /// Process ids: host or container:NAME instead of ones of its own
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub pid: Option<String>,
    /// Host name: host instead of one of its own
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub uts: Option<String>,
    /// User ids: host, private, auto or USER[:GROUP] of /etc/subuid
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub userns: Option<String>,
    /// Control groups: host or private
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub cgroupns: Option<String>,

    /// Label: NAME[=VALUE]
    #[arg(short, long, value_name = "LABEL", help_heading = "Description")]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE", help_heading = "Description")]
    pub label_file: Vec<PathBuf>,
    /// Where output goes: json-file, local, journald, syslog or none
    #[arg(long, value_name = "DRIVER", help_heading = "Description")]
    pub log_driver: Option<String>,
    /// Option of the log driver: max-size=SIZE, max-file=NUMBER
    #[arg(long, value_name = "OPTION", help_heading = "Description")]
    pub log_opt: Vec<String>,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,

    /// The image, then the command to run instead of the image's own, with its arguments
    #[arg(
        required = true,
        value_names = ["IMAGE", "COMMAND"],
        num_args = 1..,
        trailing_var_arg = true
    )]
    pub image_and_command: Vec<String>,
}

impl CreateFlags {
    pub fn image(&self) -> &str {
        self.image_and_command.first().map_or("", String::as_str)
    }

    pub fn command(&self) -> &[String] {
        self.image_and_command.get(1..).unwrap_or_default()
    }
}

/// `hawser create`.
#[derive(Debug, Clone, Args)]
pub struct MakeFlags {
    /// Streams to attach when it is started: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    #[command(flatten)]
    pub create: CreateFlags,
}

/// `hawser run`.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub detach: bool,
    /// Streams to attach: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    /// Keys that detach the terminal
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Forward signals to the container
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub sig_proxy: bool,
    #[command(flatten)]
    pub create: CreateFlags,
}
