//! Before a member of services is told to stop: the services send it nothing new, and it gets time
//! to finish what it has.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use api::Client;
use api::path::{DRAIN, ENDPOINTS};
use api::service::Drained;
use rustix::pipe::{PipeFlags, pipe_with};

/// The daemon's own bound is far below.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// How much longer than asked for the daemon may take to answer.
const MARGIN: Duration = Duration::from_secs(2);

/// Drains one container.
#[derive(Debug)]
pub(crate) struct Drainer {
    client: Client,
    container: String,
}

impl Drainer {
    pub(crate) fn new(client: Client, container: &str) -> Self {
        Self {
            client,
            container: container.to_owned(),
        }
    }

    /// Begins, for `wait` at most. What is returned becomes readable at the end, which a daemon that
    /// is away does not delay: nobody sends new connections to other members then.
    pub(crate) fn begin(&self, wait: Option<Duration>) -> io::Result<OwnedFd> {
        let wait = wait.unwrap_or(FOREVER);
        let route = format!(
            "{ENDPOINTS}/{}/{DRAIN}?wait={}",
            self.container,
            wait.as_secs_f64()
        );
        let client = self.client.clone().with_timeout(wait + MARGIN);
        let (ended, held) = pipe_with(PipeFlags::CLOEXEC)?;
        let drain = move || {
            // A container that cannot be drained is stopped all the same.
            drop(client.post::<Drained>(&route, &()));
            drop(held);
        };
        thread::Builder::new()
            .name("drain".to_owned())
            .spawn(drain)?;
        Ok(ended)
    }
}
