//! The control plane of a cluster: etcd, 3.4 and later, one to five members.
//!
//! Everything is below one prefix, so that the store may be shared. Leased entries hang on one lease
//! of this process, which a task keeps alive; when it was lost all the same, the task takes another
//! and puts them again.

mod ways;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, Error, Event, EventType, GetOptions, KeyValue,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions, WatchStream,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::ways::{Ways, within};
use crate::control_plane::{
    Change, Compare, ControlError, ControlPlane, Entry, Op, Outcome, Snapshot, Transaction, Watch,
};

/// Entries in one answer: gRPC limits a message to 4 MiB, and ours have about a kilobyte.
const PAGE: i64 = 1000;

/// Where etcd is, and how to speak with it.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `https://HOST:PORT`, or `http` where nobody else can listen.
    pub endpoints: Vec<String>,
    /// Before every key, with a `/` at its end.
    pub prefix: String,
    pub tls: Option<EtcdTls>,
    /// How long this node may be silent before others take it for gone.
    pub lease: Duration,
}

/// PEM files of mutual TLS.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The name that its certificate has, where that is not the one of its address.
    pub name: Option<String>,
}

/// etcd as a [`ControlPlane`]. Its calls wait, and may not be made by an asynchronous task.
pub struct Etcd {
    runtime: Handle,
    link: Arc<Link>,
    keeper: JoinHandle<()>,
}

struct Link {
    ways: Ways,
    prefix: String,
    lease: Duration,
    /// One at a time changes what is leased.
    session: Mutex<Session>,
}

/// What hangs on the lease.
#[derive(Debug, Default)]
struct Session {
    lease: Option<i64>,
    held: BTreeMap<String, String>,
}

impl Etcd {
    /// Prepares to speak with etcd, which need not be there yet.
    ///
    /// # Errors
    /// [`ControlError::Options`].
    pub fn connect(options: EtcdOptions, runtime: Handle) -> Result<Self, ControlError> {
        let ways = runtime.block_on(Ways::new(&options.endpoints, options.tls.as_ref()))?;
        let link = Arc::new(Link {
            ways,
            prefix: options.prefix,
            lease: options.lease,
            session: Mutex::default(),
        });
        let keeper = runtime.spawn(keep(Arc::clone(&link)));
        Ok(Self {
            runtime,
            link,
            keeper,
        })
    }

    /// Speaks with other members from now on, or as somebody else. What was leased stays so.
    ///
    /// # Errors
    /// [`ControlError::Options`].
    pub fn redirect(
        &self,
        endpoints: &[String],
        tls: Option<&EtcdTls>,
    ) -> Result<(), ControlError> {
        self.runtime
            .block_on(self.link.ways.redirect(endpoints, tls))
    }

    /// Everything that does not go when its node is silent.
    pub(crate) fn durable(&self) -> Result<Snapshot, ControlError> {
        let unleased = |kv: &KeyValue| kv.lease() == 0;
        self.runtime.block_on(self.link.snapshot("", unleased))
    }

    /// Puts an entry that goes by itself after `time`, whoever is heard of then.
    pub(crate) fn put_for(&self, key: &str, time: Duration) -> Result<(), ControlError> {
        let seconds = signed(time.as_secs());
        let grant =
            |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let lease = self.ask(grant)?.id();
        let key = self.full_key(key);
        self.ask(|client| {
            let (key, options) = (key.clone(), PutOptions::new().with_lease(lease));
            async move { client.kv_client().put(key, "{}", Some(options)).await }
        })?;
        Ok(())
    }

    /// Which members answer and know who leads them, in the order of their addresses.
    pub(crate) fn answering(&self) -> Vec<bool> {
        self.runtime.block_on(self.link.ways.answering())
    }

    /// How long this node may be silent before others take it for gone.
    pub(crate) fn lease(&self) -> Duration {
        self.link.lease
    }

    /// As it is in etcd.
    pub(crate) fn full_key(&self, key: &str) -> String {
        self.link.key(key)
    }

    /// What etcd itself is asked, of its own members or users: as a client that has made its way.
    pub(crate) fn ask<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.runtime.block_on(self.link.ways.anyone(ask))
    }

    /// Gives the lease back: what was leased is gone at once. For a node that leaves.
    pub fn give_back(&self) {
        self.keeper.abort();
        let link = &self.link;
        let revoke = async {
            let mut session = link.session.lock().await;
            session.held.clear();
            match session.lease.take() {
                Some(lease) => link
                    .ways
                    .client()
                    .1
                    .lease_client()
                    .revoke(lease)
                    .await
                    .map(drop),
                None => Ok(()),
            }
        };
        if let Err(error) = self.runtime.block_on(within(revoke)) {
            tracing::warn!(%error, "the lease goes by itself");
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("prefix", &self.link.prefix)
            .finish_non_exhaustive()
    }
}

impl ControlPlane for Etcd {
    fn snapshot(&self, prefix: &str) -> Result<Snapshot, ControlError> {
        self.runtime.block_on(self.link.snapshot(prefix, |_| true))
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, ControlError> {
        let link = &self.link;
        let key = link.key(prefix);
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(signed(after) + 1);
        let stream = self.runtime.block_on(link.ways.anyone(|client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.watch_client().watch(key, Some(options)).await }
        }))?;
        Ok(Box::new(EtcdWatch {
            runtime: self.runtime.clone(),
            stream,
            prefix: link.prefix.clone(),
            after,
        }))
    }

    fn commit(&self, transaction: &Transaction) -> Result<Outcome, ControlError> {
        self.runtime.block_on(self.link.commit(transaction))
    }
}

impl Link {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn snapshot(
        &self,
        prefix: &str,
        is_wanted: impl Fn(&KeyValue) -> bool,
    ) -> Result<Snapshot, ControlError> {
        let first = self.key(prefix);
        let mut snapshot = Snapshot::default();
        let mut from = first.clone().into_bytes();
        loop {
            // All pages are of the first one's revision.
            let options = GetOptions::new()
                .with_range(after_prefix(first.as_bytes()))
                .with_sort(SortTarget::Key, SortOrder::Ascend)
                .with_limit(PAGE)
                .with_revision(signed(snapshot.revision));
            let page = self.ways.anyone(|client| {
                let (from, options) = (from.clone(), options.clone());
                async move { client.kv_client().get(from, Some(options)).await }
            });
            let page = page.await?;
            if snapshot.revision == 0 {
                let header = page.header().map_or(0, |header| header.revision());
                snapshot.revision = unsigned(header);
            }
            for kv in page.kvs().iter().filter(|kv| is_wanted(kv)) {
                let entry = Entry {
                    value: text(kv.value()),
                    modified: unsigned(kv.mod_revision()),
                };
                let key = text(kv.key());
                let key = key.strip_prefix(&self.prefix).unwrap_or(&key).to_owned();
                snapshot.entries.insert(key, entry);
            }
            match page.kvs().last() {
                Some(last) if page.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok(snapshot),
            }
        }
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Outcome, ControlError> {
        let is_leased = |op: &Op| matches!(op, Op::Put { leased: true, .. });
        let mut session = self.session.lock().await;
        if transaction.ops.iter().any(is_leased) && session.lease.is_none() {
            self.begin(&mut session).await?;
        }
        let compares = transaction.compares.iter().map(|c| self.compare(c));
        let ops = transaction.ops.iter().map(|op| self.op(op, session.lease));
        let txn = Txn::new()
            .when(compares.collect::<Vec<_>>())
            .and_then(ops.collect::<Vec<_>>());
        let answer = self.ways.anyone(|client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        });
        let answer = answer.await?;
        if !answer.succeeded() {
            return Ok(Outcome::Refused);
        }
        for op in &transaction.ops {
            match op {
                Op::Put { key, value, .. } if is_leased(op) => {
                    session.held.insert(key.clone(), value.clone());
                }
                Op::Put { key, .. } | Op::Delete { key } => {
                    session.held.remove(key);
                }
            }
        }
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(Outcome::Committed(unsigned(revision)))
    }

    fn compare(&self, compare: &Compare) -> EtcdCompare {
        // An entry that is not there has revision 0.
        let modified = signed(compare.modified);
        EtcdCompare::mod_revision(self.key(&compare.key), CompareOp::Equal, modified)
    }

    fn op(&self, op: &Op, lease: Option<i64>) -> TxnOp {
        match op {
            Op::Put { key, value, leased } => {
                let lease = lease.filter(|_| *leased);
                let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                TxnOp::put(self.key(key), value.as_str(), options)
            }
            Op::Delete { key } => TxnOp::delete(self.key(key), None),
        }
    }

    /// Takes a lease, and hangs on it what hung on the one before.
    async fn begin(&self, session: &mut Session) -> Result<i64, ControlError> {
        let seconds = signed(self.lease.as_secs());
        let lease = self
            .ways
            .anyone(|client| async move { client.lease_client().grant(seconds, None).await });
        let lease = lease.await?.id();
        let mut forbidden = Vec::new();
        for (key, value) in &session.held {
            let options = PutOptions::new().with_lease(lease);
            let put = self.ways.anyone(|client| {
                let (key, options) = (self.key(key), options.clone());
                async move {
                    client
                        .kv_client()
                        .put(key, value.as_str(), Some(options))
                        .await
                }
            });
            match put.await {
                // This node was somebody who might put it.
                Err(ControlError::Denied(_)) => forbidden.push(key.clone()),
                put => drop(put?),
            }
        }
        for key in forbidden {
            session.held.remove(&key);
        }
        session.lease = Some(lease);
        Ok(lease)
    }

    /// Keeps a lease as long as it can be kept.
    async fn keep_lease(&self) -> Result<(), ControlError> {
        let lease = {
            let mut session = self.session.lock().await;
            match session.lease {
                Some(lease) => lease,
                None => self.begin(&mut session).await?,
            }
        };
        let keeping = self
            .ways
            .anyone(|client| async move { client.lease_client().keep_alive(lease).await });
        let (mut keeper, mut answers) = keeping.await?;
        loop {
            tokio::time::sleep(self.lease / 3).await;
            within(keeper.keep_alive()).await?;
            let answer = within(answers.message()).await?;
            if answer.is_none_or(|answer| answer.ttl() <= 0) {
                return Err(ControlError::Unreachable("the lease is over".to_owned()));
            }
        }
    }

    async fn is_over(&self, lease: i64) -> bool {
        let left = self
            .ways
            .anyone(|client| async move { client.lease_client().time_to_live(lease, None).await });
        let left = left.await;
        left.is_ok_and(|left| left.ttl() <= 0)
    }
}

/// Has a lease for as long as the process lives.
async fn keep(link: Arc<Link>) {
    loop {
        if let Err(error) = link.keep_lease().await {
            tracing::warn!(%error, "the lease of this node is not kept");
        }
        let mut session = link.session.lock().await;
        if let Some(lease) = session.lease
            && link.is_over(lease).await
        {
            session.lease = None;
        }
        drop(session);
        tokio::time::sleep(link.lease / 6).await;
    }
}

struct EtcdWatch {
    runtime: Handle,
    stream: WatchStream,
    prefix: String,
    after: u64,
}

impl Watch for EtcdWatch {
    fn next(&mut self, wait: Duration) -> Result<Vec<Change>, ControlError> {
        let runtime = self.runtime.clone();
        // The timer belongs to the runtime.
        let changes = async { timeout(wait, self.changes()).await };
        match runtime.block_on(changes) {
            Err(_elapsed) => Ok(Vec::new()),
            Ok(changes) => changes,
        }
    }
}

impl EtcdWatch {
    /// The next message that tells of changes; others say that the watch has begun.
    async fn changes(&mut self) -> Result<Vec<Change>, ControlError> {
        loop {
            let answer = match self.stream.message().await {
                Err(error) => return Err(ControlError::Unreachable(error.to_string())),
                Ok(None) => {
                    return Err(ControlError::Unreachable("the watch has ended".to_owned()));
                }
                Ok(Some(answer)) => answer,
            };
            if answer.compact_revision() > 0 {
                return Err(ControlError::Compacted(self.after));
            }
            if answer.canceled() {
                let reason = answer.cancel_reason().to_owned();
                return Err(ControlError::Unreachable(reason));
            }
            let events = answer.events().iter();
            let changes: Vec<Change> = events.filter_map(|event| self.change(event)).collect();
            if let Some(last) = changes.last() {
                self.after = last.revision;
                return Ok(changes);
            }
        }
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let kv = event.kv()?;
        let key = text(kv.key());
        Some(Change {
            key: key.strip_prefix(&self.prefix)?.to_owned(),
            value: (event.event_type() == EventType::Put).then(|| text(kv.value())),
            revision: unsigned(kv.mod_revision()),
        })
    }
}

/// The first key behind all that begin with `prefix`.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All keys there are.
    vec![0]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// etcd counts with a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_of_it() {
        assert_eq!(after_prefix(b"a/"), b"a0");
        assert_eq!(after_prefix(&[b'a', 0xff]), b"b");
        assert_eq!(after_prefix(b""), [0]);
    }
}
