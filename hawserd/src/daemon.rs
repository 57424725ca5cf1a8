//! What requests work on.

use std::sync::Arc;

use netd::Netd;
use storaged::Storaged;
use tracing::Span;

use crate::cgroup::Hierarchy;
use crate::config::Config;
use crate::events::Events;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::swarm::Clustering;
use crate::turns::Turns;

/// The open daemon. Cheap to clone: every request has its own.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    pub(crate) config: Arc<Config>,
    pub(crate) netd: Arc<Netd>,
    pub(crate) storaged: Arc<Storaged>,
    pub(crate) cluster: Arc<Clustering>,
    pub(crate) hierarchy: Arc<Hierarchy>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Arc<Events>,
    pub(crate) turns: Turns,
}

impl Daemon {
    /// Runs `work`, which may block on the kernel or on disks, outside the event loop. A panic in
    /// it costs this request only.
    pub(crate) async fn run<T, E>(
        self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        E: Into<api::ApiError> + Send + 'static,
    {
        let span = Span::current();
        let task = move || span.in_scope(|| work(&self));
        match tokio::task::spawn_blocking(task).await {
            Ok(done) => Ok(done?),
            // The panic's own words are in the log, by the panic hook.
            Err(_panicked) => Err(Failure::bug()),
        }
    }

    /// The same for what changes networks, when it is its turn. A client that goes before that has
    /// asked for nothing.
    pub(crate) async fn run_in_turn<T, E>(
        self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        E: Into<api::ApiError> + Send + 'static,
    {
        let turn = self.turns.next().await?;
        self.run(move |daemon| {
            // Kept to the end of the work, although its client may go.
            let _turn = turn;
            work(daemon)
        })
        .await
    }
}
