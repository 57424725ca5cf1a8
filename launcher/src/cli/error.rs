//! What a command fails with: one line for the user, and the exit code.

use std::io;
use std::path::PathBuf;

use api::client::ClientError;
use api::id::{ContainerName, InvalidId, VolumeName};
use api::reference::InvalidReference;

use crate::cni::CniError;
use crate::format::template::TemplateError;
use crate::log::option::LogOptionError;
use crate::registry::RegistryError;
use crate::shim::etc::EtcError;
use crate::shim::launch::{EXIT_DAEMON, LaunchError};
use crate::store::StoreError;
use crate::stream::StreamError;
use crate::volume::VolumeError;

use super::cni::install::InstallError;
use super::container::copy::CopyError;
use super::image::archive::ArchiveError;
use super::image::config::ChangeError;
use super::network::create::AddressingError;
use super::run::detach::DetachKeysError;
use super::run::draft::DraftError;
use super::run::env::EnvError;
use super::run::limit::LimitError;
use super::run::network::NetworkError;
use super::run::runtime::RuntimeError;
use super::run::userns::UsernsError;
use super::service::ServiceFlagError;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{}", client_message(.0))]
    Client(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error(transparent)]
    Userns(#[from] UsernsError),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Service(#[from] ServiceFlagError),
    #[error(transparent)]
    Etc(#[from] EtcError),
    #[error(transparent)]
    Addressing(#[from] AddressingError),
    #[error(transparent)]
    DetachKeys(#[from] DetachKeysError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Name(#[from] InvalidId),
    #[error(
        "volume {volume} exists already, of driver {driver}: take another name, or remove that volume"
    )]
    VolumeOf { volume: VolumeName, driver: String },
    #[error("unable to remove volume: remove {volume}: volume is in use - [{}]", holders.join(", "))]
    VolumeInUse {
        volume: VolumeName,
        holders: Vec<String>,
    },
    #[error("{op} {}: {source}", path.display())]
    File {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{op}: {source}")]
    Io { op: &'static str, source: io::Error },
    #[error("this needs root: it makes namespaces, mounts and cgroups; run hawser as root")]
    NotRoot,
    #[error("the input device is not a TTY: leave out -t, or run this in a terminal")]
    NotATerminal,
    #[error("No such image: {reference}")]
    NoImage { reference: String },
    #[error("An image does not exist locally with the tag: {0}")]
    NotTagged(String),
    #[error("image {reference} is damaged: its configuration cannot be read: {source}")]
    ImageConfig {
        reference: String,
        source: serde_json::Error,
    },
    #[error("cannot import {}: {}", file.display(), client_message(source))]
    Import { file: PathBuf, source: ClientError },
    #[error("No such object: {0}")]
    NoObject(String),
    #[error("invalid filter {0:?}")]
    Filter(String),
    #[error("invalid {flag} value {text:?}: expected {expected}")]
    Flag {
        flag: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error(
        "no service and no container with published ports is called {name}: hawser service top \
         without a name shows all"
    )]
    NoTraffic { name: String },
    #[error("ps(1) must show process ids: give options with the column PID, such as -ef or aux")]
    NoPidColumn,
    #[error("the daemon ended the trace")]
    TraceEnded,
    #[error("conflicting options: {0}")]
    Conflict(&'static str),
    #[error("no unlock key is set")]
    NoUnlockKey,
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"hawser swarm \
         unlock\" to unlock it."
    )]
    Locked,
}

/// A container that is not as a command needs it.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("no link {0:?}: expected CONTAINER/ALIAS, as hawser inspect shows it in Links")]
    NoLink(String),
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("cannot kill container: {0}: container {0} is not running")]
    Kill(String),
    #[error("you cannot attach to a stopped container, start it first: {0} is not running")]
    AttachStopped(String),
    #[error(
        "cannot remove container {0}: container is running: stop the container before removing \
         or force remove"
    )]
    RemoveRunning(String),
    #[error("container {0} is being removed; finish with hawser rm {0}")]
    Removing(String),
    #[error(
        "container {container} is kept by the storage driver {driver}: set driver = \"{driver}\" \
         in [storage] and restart hawserd to use or remove it"
    )]
    OtherDriver { container: String, driver: String },
    #[error(
        "the container name {name} is already in use by a container that the storage driver {driver} \
         keeps: take another name"
    )]
    NameOfOtherDriver { name: ContainerName, driver: String },
    #[error("container {0} did not end within {1} seconds of SIGKILL")]
    Immortal(String, u64),
    #[error("container {0} is restarting: wait until it is running")]
    Restarting(String),
    #[error("container {0} is paused: unpause it first")]
    Paused(String),
    #[error("{0}")]
    Refused(String),
    #[error("container {0} has that name already")]
    SameName(String),
    #[error("lost the connection to container {0}")]
    Lost(String),
    #[error(
        "error gathering device information while adding custom device {:?}: {source}",
        path.display().to_string()
    )]
    Device { path: PathBuf, source: io::Error },
    #[error("bind source path does not exist: {}", .0.display())]
    BindSource(PathBuf),
    #[error("container id file {} exists: make sure that container is gone, then delete the file", .0.display())]
    CidFile(PathBuf),
    #[error("no public port {port} published for {container}")]
    NoPublicPort { port: String, container: String },
    #[error("container {container} is connected to network {network} already")]
    Connected { container: String, network: String },
    #[error("container {container} is not connected to network {network}")]
    NotConnected { container: String, network: String },
    #[error(
        "container {0} cannot be connected: it is sharing network namespace with the host or \
         another container (network mode {1})"
    )]
    SharedNetwork(String, String),
    #[error("invalid volumes-from {0:?}: expected CONTAINER[:ro|rw]")]
    VolumesFrom(String),
    #[error(
        "configured logging driver does not support reading: {name} has the driver {driver} and \
         keeps no output here"
    )]
    NoLog { name: String, driver: String },
    #[error(transparent)]
    Log(#[from] LogOptionError),
}

impl CliError {
    /// The exit code of a command that was to start a container; every other command's is 1.
    pub fn start_exit_code(&self) -> i32 {
        match self {
            Self::NotATerminal => 1,
            Self::Launch(error) => error.exit_code(),
            _ => EXIT_DAEMON,
        }
    }
}

/// A daemon that cannot be reached is the one error everybody meets; it says what to do.
fn client_message(error: &ClientError) -> String {
    let ClientError::Connect { socket, source } = error else {
        return error.to_string();
    };
    let socket = socket.display();
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "permission denied at unix://{socket}: run hawser as root, or join the socket's group"
        ),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "cannot connect to hawserd at unix://{socket}: it is not running; start it with \
             systemctl start hawserd, or name another by -H or HAWSER_HOST"
        ),
        _ => format!("cannot connect to hawserd at unix://{socket}: {source}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_daemon_is_named_with_the_way_out() {
        let message = |kind: io::ErrorKind| {
            CliError::from(ClientError::Connect {
                socket: "/run/x.sock".into(),
                source: kind.into(),
            })
            .to_string()
        };
        let away = message(io::ErrorKind::NotFound);
        assert!(
            away.contains("unix:///run/x.sock") && away.contains("systemctl start"),
            "{away}"
        );
        assert!(message(io::ErrorKind::PermissionDenied).contains("as root"));
    }
}
