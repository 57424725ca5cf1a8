//! What the shim asks of the daemon's socket.

use std::path::Path;
use std::thread;
use std::time::Duration;

use api::Client;
use api::client::{ClientError, escape};
use api::net::{Attachment, Network};
use api::path::{ENDPOINTS, NETWORKS, ROOTFS, ROOTFS_HAND_TO, VOLUME_USERS, VOLUMES};
use api::storage::RootfsMount;

/// Waits between attempts while the daemon is away: it restarts within a second or two, and a
/// container that has exited must not stay half undone for that.
const BACK_OFF: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
];

/// Repeats what fails only because its server is away.
pub(crate) fn patiently<T, E>(
    is_away: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    for pause in BACK_OFF {
        match attempt() {
            Err(error) if is_away(&error) => thread::sleep(pause),
            outcome => return outcome,
        }
    }
    attempt()
}

/// Whether the daemon could not be reached, or went away in the middle.
pub(crate) fn is_away(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Connect { .. } | ClientError::Exchange { .. }
    )
}

/// The daemon, as one container sees it.
#[derive(Debug)]
pub(crate) struct Daemon {
    client: Client,
    container: String,
}

impl Daemon {
    pub(crate) fn new(client: Client, container: &str) -> Self {
        Self {
            client,
            container: container.to_owned(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks for the root file system, to be sent to a socket if there is one.
    pub(crate) fn mount_rootfs(&self, socket: Option<&Path>) -> Result<RootfsMount, ClientError> {
        let mut route = format!("{ROOTFS}/{}/mount", self.container);
        if let Some(socket) = socket {
            let socket = escape(&socket.to_string_lossy());
            route.push_str(&format!("?{ROOTFS_HAND_TO}={socket}"));
        }
        self.client.post(&route, &())
    }

    pub(crate) fn unmount_rootfs(&self) -> Result<(), ClientError> {
        gone_is_fine(
            self.client
                .act(&format!("{ROOTFS}/{}/unmount", self.container)),
        )
    }

    pub(crate) fn remove_rootfs(&self) -> Result<(), ClientError> {
        gone_is_fine(self.client.delete(&format!("{ROOTFS}/{}", self.container)))
    }

    /// Tells in which control group the container uses a volume.
    pub(crate) fn place_volume_user(&self, volume: &str, group: u64) -> Result<(), ClientError> {
        let route = self.volume_user(volume);
        self.client.act(&format!("{route}?group={group}"))
    }

    pub(crate) fn leave_volume(&self, volume: &str) -> Result<(), ClientError> {
        gone_is_fine(self.client.delete(&self.volume_user(volume)))
    }

    fn volume_user(&self, volume: &str) -> String {
        let volume = escape(volume);
        format!("{VOLUMES}/{volume}/{VOLUME_USERS}/{}", self.container)
    }

    pub(crate) fn network(&self, name: &str) -> Result<Network, ClientError> {
        self.client.get(&format!("{NETWORKS}/{}", escape(name)))
    }

    /// The container's endpoints on all networks.
    pub(crate) fn endpoints(&self) -> Result<Vec<Attachment>, ClientError> {
        self.client
            .get(&format!("{ENDPOINTS}?container={}", self.container))
    }
}

fn gone_is_fine(outcome: Result<(), ClientError>) -> Result<(), ClientError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome,
    }
}
