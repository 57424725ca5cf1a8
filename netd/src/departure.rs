//! Interfaces that go in the background.
//!
//! Deleting a veth pair takes the kernel some 20 ms, nearly all of it waiting for RCU
//! (`netdev_run_todo` → `rcu_barrier`, net/core/dev.c). A detach therefore takes the interface down,
//! which stops its traffic at once, and leaves the deletion to a thread here. The departure is on
//! record before the detach returns, so that the next daemon finishes it. Departures that are due
//! together go in one request, for the price of one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::id::IfName;
use serde::{Deserialize, Serialize};

use crate::kernel::{Kernel, KernelError};
use crate::model::endpoint::{Endpoint, Sandbox};
use crate::model::step::Step;
use crate::store::Store;

/// How long an attach waits for an interface that is in its way. A deletion takes milliseconds, but a
/// kernel that tears down hundreds of namespaces at once keeps it waiting for seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// When the thread tries again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// One interface on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departure {
    pub(crate) link: IfName,
    /// What leaves the sandbox with it.
    pub(crate) ifname: IfName,
    pub(crate) sandbox: Sandbox,
}

impl Departure {
    /// The interfaces that an endpoint has on the host.
    pub(crate) fn of(endpoint: &Endpoint) -> Vec<Self> {
        let links = [endpoint.attachment.host_ifname.clone(), endpoint.buffer()];
        let links = links.into_iter().flatten();
        links
            .map(|link| Self {
                link,
                ifname: endpoint.attachment.ifname.clone(),
                sandbox: endpoint.sandbox.clone(),
            })
            .collect()
    }
}

/// The departures on record, and the thread that finishes them.
pub(crate) struct Departures {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    kernel: Arc<dyn Kernel>,
    store: Arc<Store>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<IfName, Departure>,
    rounds: u64,
    stop: bool,
}

impl State {
    fn is_leaving(&self, sandbox: &Sandbox, ifname: &IfName) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|d| d.ifname == *ifname && d.sandbox.is_same(sandbox))
    }
}

impl Departures {
    /// With a thread that finishes them.
    ///
    /// # Errors
    /// Of starting the thread.
    pub(crate) fn start(kernel: Arc<dyn Kernel>, store: Arc<Store>) -> io::Result<Self> {
        let mut departures = Self::inline(kernel, store);
        let shared = Arc::clone(&departures.shared);
        let thread = thread::Builder::new().name("departures".to_owned());
        departures.thread = Some(thread.spawn(move || shared.serve())?);
        Ok(departures)
    }

    /// Without a thread: each is finished by the call that adds it.
    pub(crate) fn inline(kernel: Arc<dyn Kernel>, store: Arc<Store>) -> Self {
        Self {
            shared: Arc::new(Shared {
                kernel,
                store,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
            thread: None,
        }
    }

    /// Takes over what is on record already.
    pub(crate) fn add(&self, departures: impl IntoIterator<Item = Departure>) {
        let new = departures.into_iter().map(|d| (d.link.clone(), d));
        self.shared.state().waiting.extend(new);
        self.retry();
    }

    /// Tries again what the kernel refused.
    pub(crate) fn retry(&self) {
        match self.thread {
            Some(_) => self.shared.changed.notify_all(),
            None => drop(self.shared.finish_all()),
        }
    }

    /// How many groups of interfaces are gone.
    pub(crate) fn rounds(&self) -> u64 {
        self.shared.state().rounds
    }

    /// Whether an interface seen in the sandbox after so many `rounds` is leaving, or gone since.
    pub(crate) fn may_leave(&self, rounds: u64, sandbox: &Sandbox, ifname: &IfName) -> bool {
        let state = self.shared.state();
        state.rounds != rounds || state.is_leaving(sandbox, ifname)
    }

    /// Waits until `ifname` has left the sandbox, if it is leaving; whether it is not any more.
    pub(crate) fn wait_for(&self, sandbox: &Sandbox, ifname: &IfName) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        while state.is_leaving(sandbox, ifname) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.wait(state, left);
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.state().waiting.len()
    }
}

/// What is still waiting stays on record.
impl Drop for Departures {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that deletes interfaces panicked");
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state();
        while !state.stop {
            if state.waiting.is_empty() {
                state = self.wait(state, Duration::MAX);
                continue;
            }
            drop(state);
            let done = self.finish_all();
            state = self.state();
            if let (Err(error), false) = (done, state.stop) {
                tracing::warn!(%error, "interfaces are not deleted yet");
                state = self.wait(state, RETRY);
            }
        }
    }

    fn finish_all(&self) -> Result<(), KernelError> {
        let links: Vec<IfName> = self.state().waiting.keys().cloned().collect();
        if links.is_empty() {
            return Ok(());
        }
        self.kernel.apply(&Step::DeleteLinks(links.clone()))?;
        // A record that stays is of an interface that is gone: the next start finds nothing to do.
        if let Err(error) = self.store.delete_departures(&links) {
            tracing::warn!(%error, "records of deleted interfaces stay");
        }
        let mut state = self.state();
        for link in &links {
            state.waiting.remove(link);
        }
        state.rounds += 1;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, limit);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
