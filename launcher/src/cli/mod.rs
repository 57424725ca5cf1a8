//! The `hawser` command line: what is typed, and which function does it.
//!
//! Grammar, tables, exit codes and messages follow Docker's, so that what people know works.
//! Standard output has what was asked for and nothing else; everything else goes to standard
//! error, one line an error.

pub mod agent;
pub mod api;
mod ask;
pub mod cni;
pub mod container;
pub mod context;
pub mod doctor;
pub mod error;
pub(crate) mod events;
pub(crate) mod filter;
mod foreign;
pub mod image;
pub mod inspect;
mod listing;
mod moment;
pub mod network;
pub mod node;
mod output;
pub mod run;
pub mod service;
pub mod storage;
pub mod swarm;
pub mod system;
pub mod trace;
mod usage;
pub mod volume;
pub(crate) mod words;

use std::ffi::OsString;
use std::io;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use output::warn;

use container::{
    attach, commit, copy, diff, exec, export, list, logs, pause, remove, rename, resume, start,
    stats, stop, top, update,
};
use context::Context;
use error::CliError;
use image::{history, import, load, login, prune, pull, push, save, search, tag};
use inspect::{InspectAnyFlags, InspectContainerFlags, InspectFlags, Kind};
use run::flags::{MakeFlags, RunFlags};
use system::FormatFlags;

/// Containers, networks and volumes on this host
#[derive(Debug, Parser)]
#[command(
    name = "hawser",
    version,
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Daemon to talk to, such as unix:///run/hawser/hawserd.sock; HAWSER_HOST otherwise. Before the
    /// command also as --host, which is something else to some commands
    #[arg(short = 'H', global = true, value_name = "ADDRESS")]
    daemon: Option<String>,
    #[arg(long, hide = true)]
    host: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create and start a container
    #[command(disable_help_flag = true)]
    Run(Box<RunFlags>),
    /// Commands on containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Commands on images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Commands on networks
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Commands on services
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Commands on the hosts of a cluster
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Commands on the cluster
    #[command(subcommand)]
    Swarm(swarm::SwarmCommand),
    /// Keep the replicas of services running, until there are none; started when needed
    Agent(agent::AgentFlags),
    /// Answer clients of Docker's API
    Api(api::ApiFlags),
    /// Commands on volumes
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Commands on the plugins for other container runtimes
    #[command(subcommand)]
    Cni(cni::CniCommand),
    /// Commands on the store of images, layers and volumes
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Commands on the daemon, and on everything at once
    #[command(subcommand)]
    System(SystemCommand),
    /// List containers
    Ps(list::ListFlags),
    /// Show containers, images, networks or volumes in detail
    Inspect(InspectAnyFlags),
    /// List images
    Images(image::list::ListFlags),
    /// Remove images
    Rmi(image::remove::RemoveFlags),
    /// Say what differs between the records and the kernel, and what of the host is in the way
    Doctor(doctor::DoctorFlags),
    /// Show what the data plane decides about packets and connections, as it decides
    Trace(trace::TraceFlags),
    /// Show what happens on this host, as it happens
    Events(events::EventsFlags),
    /// Start the containers whose restart policy says so, after the daemon or the host has started
    #[command(hide = true)]
    Resume,
    /// Look for images in a registry
    Search(search::SearchFlags),
    /// Log in to a registry
    Login(login::LoginFlags),
    /// Forget the login to a registry
    Logout(login::LogoutFlags),
    /// Show the daemon's settings and state
    Info(FormatFlags),
    /// Show the versions of client and daemon
    Version(FormatFlags),
    #[command(flatten)]
    Short(ShortContainerCommand),
    #[command(flatten)]
    ShortImage(ShortImageCommand),
}

/// `hawser container …`; most also work without `container`.
#[derive(Debug, Subcommand)]
enum ContainerCommand {
    /// Create and start a container
    #[command(disable_help_flag = true)]
    Run(Box<RunFlags>),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(list::ListFlags),
    /// Show containers in detail
    Inspect(InspectContainerFlags),
    /// Remove all stopped containers
    Prune(container::prune::PruneFlags),
    #[command(flatten)]
    Short(ShortContainerCommand),
}

#[derive(Debug, Subcommand)]
enum ShortContainerCommand {
    /// Create a container without starting it
    #[command(disable_help_flag = true)]
    Create(Box<MakeFlags>),
    /// Start containers
    Start(start::StartFlags),
    /// Connect to a running container's streams
    Attach(attach::AttachFlags),
    /// Run a command in a running container
    Exec(exec::ExecFlags),
    /// Show a container's output
    Logs(logs::LogsFlags),
    /// Stop containers: a signal, and SIGKILL when they do not end in time
    Stop(stop::StopFlags),
    /// Stop containers and start them again
    Restart(stop::StopFlags),
    /// Send a signal to containers
    Kill(stop::KillFlags),
    /// Wait until containers end and print their exit codes
    Wait(stop::WaitFlags),
    /// Stop all processes of containers where they are
    Pause(pause::PauseFlags),
    /// Let the processes of paused containers go on
    Unpause(pause::PauseFlags),
    /// Show a container's processes
    Top(top::TopFlags),
    /// Show what containers use, as they use it
    Stats(stats::StatsFlags),
    /// Change limits and the restart policy of containers
    Update(Box<update::UpdateFlags>),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(remove::RemoveFlags),
    /// Make an image from a container's changes
    Commit(commit::CommitFlags),
    /// Copy files into a container or out of it
    Cp(copy::CopyFlags),
    /// Show what a container changed in its image
    Diff {
        /// Container whose changes to show
        container: String,
    },
    /// Write a container's root file system to an archive
    Export(export::ExportFlags),
    /// Give a container another name
    Rename(rename::RenameFlags),
    /// Show a container's published ports
    Port {
        /// Container whose ports to show
        container: String,
        /// Show this port only: PORT[/PROTOCOL]
        port: Option<String>,
    },
}

/// `hawser image …`.
#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(image::list::ListFlags),
    /// Show images in detail
    Inspect(InspectFlags),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(image::remove::RemoveFlags),
    /// Remove images without a tag, or all that no container uses
    Prune(prune::PruneFlags),
    #[command(flatten)]
    Short(ShortImageCommand),
}

#[derive(Debug, Subcommand)]
enum ShortImageCommand {
    /// Fetch an image from a registry
    Pull(pull::PullFlags),
    /// Send an image to a registry
    Push(push::PushFlags),
    /// Make an image of one layer from a tar of a root file system
    Import(import::ImportFlags),
    /// Load images from an archive
    Load(load::LoadFlags),
    /// Write images to an archive
    Save(save::SaveFlags),
    /// Show the steps an image was made by
    History(history::HistoryFlags),
    /// Give an image another reference
    Tag(tag::TagFlags),
}

/// `hawser system …`.
#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Show the daemon's settings and state
    Info(FormatFlags),
    /// Show what happens on this host, as it happens
    Events(events::EventsFlags),
    /// Show what images, containers and volumes take
    Df(system::usage::UsageFlags),
    /// Remove stopped containers, and networks and images that nothing uses
    Prune(system::prune::PruneFlags),
}

impl Command {
    /// Whether it is to start a container, whose exit codes are others.
    fn starts_container(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Container(
                    ContainerCommand::Run(_)
                        | ContainerCommand::Short(ShortContainerCommand::Create(_))
                )
                | Self::Short(ShortContainerCommand::Create(_))
        )
    }
}

impl Cli {
    /// # Errors
    /// What clap says; [`usage::report`] words it.
    fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let matches = usage::lenient(Self::command()).try_get_matches_from(arguments)?;
        Self::from_arg_matches(&matches)
    }
}

/// Runs a command line and returns its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    // Without /proc nothing starts that would stay.
    let _no_proc = sys::process::hand_on_no_descriptors();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage::report(Cli::command(), &arguments, &error),
    };
    let outcome = Context::new(cli.daemon.as_deref().or(cli.host.as_deref()))
        .and_then(|context| dispatch(&context, &cli.command));
    match outcome {
        Ok(exit_code) => exit_code,
        // Whoever read the output has seen enough.
        Err(CliError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            output::failure(&error);
            if cli.command.starts_container() {
                error.start_exit_code()
            } else {
                1
            }
        }
    }
}

fn dispatch(context: &Context, command: &Command) -> Result<i32, CliError> {
    match command {
        Command::Run(flags) | Command::Container(ContainerCommand::Run(flags)) => {
            run::run(context, flags)
        }
        Command::Ps(flags) | Command::Container(ContainerCommand::Ls(flags)) => {
            list::list(context, flags)
        }
        Command::Container(ContainerCommand::Inspect(flags)) => {
            inspect::inspect_container(context, flags, Some(Kind::Container))
        }
        Command::Container(ContainerCommand::Prune(flags)) => {
            container::prune::prune(context, flags)
        }
        Command::Container(ContainerCommand::Short(command)) | Command::Short(command) => {
            dispatch_container(context, command)
        }
        Command::Images(flags) | Command::Image(ImageCommand::Ls(flags)) => {
            image::list::list(context, flags)
        }
        Command::Rmi(flags) | Command::Image(ImageCommand::Rm(flags)) => {
            image::remove::remove(context, flags)
        }
        Command::Image(ImageCommand::Prune(flags)) => prune::prune(context, flags),
        Command::Image(ImageCommand::Inspect(flags)) => {
            inspect::inspect(context, flags, Some(Kind::Image))
        }
        Command::Image(ImageCommand::Short(command)) | Command::ShortImage(command) => {
            match command {
                ShortImageCommand::Pull(flags) => pull::pull(context, flags),
                ShortImageCommand::Push(flags) => push::push(context, flags),
                ShortImageCommand::Import(flags) => import::import(context, flags),
                ShortImageCommand::Load(flags) => load::load(context, flags),
                ShortImageCommand::Save(flags) => save::save(context, flags),
                ShortImageCommand::History(flags) => history::history(context, flags),
                ShortImageCommand::Tag(flags) => tag::tag(context, flags),
            }
        }
        Command::Network(command) => network::run(context, command),
        Command::Cni(command) => cni::run(context, command),
        Command::Service(command) => service::run(context, command),
        Command::Node(command) => node::run(context, command),
        Command::Swarm(command) => swarm::run(context, command),
        Command::Agent(flags) => agent::run(context, flags),
        Command::Api(flags) => api::run(context, flags),
        Command::Volume(command) => volume::run(context, command),
        Command::Inspect(any) => inspect::inspect_container(context, &any.container, any.kind),
        Command::Info(flags) | Command::System(SystemCommand::Info(flags)) => {
            system::info(context, flags)
        }
        Command::Events(flags) | Command::System(SystemCommand::Events(flags)) => {
            events::events(context, flags)
        }
        Command::Search(flags) => search::search(context, flags),
        Command::Login(flags) => login::login(context, flags),
        Command::Logout(flags) => login::logout(flags),
        Command::Resume => resume::resume(context),
        Command::System(SystemCommand::Df(flags)) => system::usage::usage(context, flags),
        Command::System(SystemCommand::Prune(flags)) => system::prune::prune(context, flags),
        Command::Storage(command) => storage::run(context, command),
        Command::Doctor(flags) => doctor::doctor(context, flags),
        Command::Trace(flags) => trace::trace(context, flags),
        Command::Version(flags) => system::version(context, flags),
    }
}

fn dispatch_container(context: &Context, command: &ShortContainerCommand) -> Result<i32, CliError> {
    match command {
        ShortContainerCommand::Create(flags) => run::create(context, flags),
        ShortContainerCommand::Start(flags) => start::start(context, flags),
        ShortContainerCommand::Attach(flags) => attach::attach(context, flags),
        ShortContainerCommand::Exec(flags) => exec::exec(context, flags),
        ShortContainerCommand::Logs(flags) => logs::logs(context, flags),
        ShortContainerCommand::Stop(flags) => stop::stop(context, flags),
        ShortContainerCommand::Restart(flags) => stop::restart(context, flags),
        ShortContainerCommand::Kill(flags) => stop::kill(context, flags),
        ShortContainerCommand::Wait(flags) => stop::wait(context, flags),
        ShortContainerCommand::Pause(flags) => pause::pause(context, flags),
        ShortContainerCommand::Unpause(flags) => pause::unpause(context, flags),
        ShortContainerCommand::Top(flags) => top::top(context, flags),
        ShortContainerCommand::Stats(flags) => stats::stats(context, flags),
        ShortContainerCommand::Update(flags) => update::update(context, flags),
        ShortContainerCommand::Rm(flags) => remove::remove(context, flags),
        ShortContainerCommand::Commit(flags) => commit::commit(context, flags),
        ShortContainerCommand::Cp(flags) => copy::copy(context, flags),
        ShortContainerCommand::Diff { container } => diff::diff(context, container),
        ShortContainerCommand::Export(flags) => export::export(context, flags),
        ShortContainerCommand::Rename(flags) => rename::rename(context, flags),
        ShortContainerCommand::Port { container, port } => {
            container::ports::port(context, container, port.as_deref())
        }
    }
}

#[cfg(test)]
mod tests;
