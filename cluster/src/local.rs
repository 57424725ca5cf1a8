//! The control plane of a host that is alone: a table of its database.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

use crate::control_plane::{
    Change, Compare, ControlError, ControlPlane, Entry, Op, Outcome, Snapshot, Transaction, Watch,
};

/// Key → [`Row`] as JSON. Leased entries are not in it: they go with the process.
const TABLE: TableDefinition<'_, &str, &str> = TableDefinition::new("cluster_entries");
/// How many changes a watch may be behind.
const HISTORY: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Row {
    modified: u64,
    value: String,
}

/// One store, and as many sessions of it as there are nodes: one, outside of tests.
#[derive(Clone)]
pub struct Local(Arc<Shared>);

struct Shared {
    database: Arc<Database>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<String, Entry>,
    /// By key: the session that holds it.
    leased: BTreeMap<String, u64>,
    history: VecDeque<Change>,
    /// Changes up to this revision are not in the history.
    forgotten: u64,
    sessions: u64,
    /// Sessions that reach nothing.
    cut: BTreeSet<u64>,
}

impl Local {
    /// Reads what is on record in `database`.
    ///
    /// # Errors
    /// [`ControlError::Store`].
    pub fn open(database: Arc<Database>) -> Result<Self, ControlError> {
        let entries = read(&database).map_err(Box::new)?;
        let last = entries.values().map(|entry| entry.modified).max();
        let revision = last.unwrap_or_default();
        let state = State {
            revision,
            entries,
            forgotten: revision,
            ..State::default()
        };
        Ok(Self(Arc::new(Shared {
            database,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })))
    }

    /// A node's way to the store, with a lease of its own.
    pub fn session(&self) -> Arc<LocalSession> {
        let mut state = self.0.state();
        state.sessions += 1;
        Arc::new(LocalSession {
            shared: Arc::clone(&self.0),
            number: state.sessions,
            held: Mutex::default(),
        })
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between a commit and its news leaves at worst news that nobody was told.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, ops: &[Op], revision: u64) -> Result<(), redb::Error> {
        let is_durable = |op: &&Op| !matches!(op, Op::Put { leased: true, .. });
        let durable: Vec<&Op> = ops.iter().filter(is_durable).collect();
        if durable.is_empty() {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for op in durable {
                match op {
                    Op::Put { key, value, .. } => {
                        let row = Row {
                            modified: revision,
                            value: value.clone(),
                        };
                        let row = serde_json::to_string(&row).map_err(std::io::Error::from)?;
                        table.insert(key.as_str(), row.as_str())?;
                    }
                    Op::Delete { key } => {
                        table.remove(key.as_str())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn read(database: &Database) -> Result<BTreeMap<String, Entry>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(TABLE) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        table => table?,
    };
    let mut entries = BTreeMap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let row: Row = serde_json::from_str(value.value()).map_err(std::io::Error::from)?;
        let entry = Entry {
            value: row.value,
            modified: row.modified,
        };
        entries.insert(key.value().to_owned(), entry);
    }
    Ok(entries)
}

impl State {
    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.entries.get(&compare.key);
        entry.map_or(0, |entry| entry.modified) == compare.modified
    }

    fn make(&mut self, ops: &[Op], session: u64, revision: u64) {
        self.revision = revision;
        for op in ops {
            let value = match op {
                Op::Put { key, value, leased } => {
                    if *leased {
                        self.leased.insert(key.clone(), session);
                    } else {
                        self.leased.remove(key);
                    }
                    let entry = Entry {
                        value: value.clone(),
                        modified: revision,
                    };
                    self.entries.insert(key.clone(), entry);
                    Some(value.clone())
                }
                Op::Delete { key } => {
                    self.leased.remove(key);
                    if self.entries.remove(key).is_none() {
                        continue;
                    }
                    None
                }
            };
            self.history.push_back(Change {
                key: op.key().to_owned(),
                value,
                revision,
            });
        }
        while self.history.len() > HISTORY {
            if let Some(change) = self.history.pop_front() {
                self.forgotten = change.revision;
            }
        }
    }
}

/// One node's way to a [`Local`] store.
pub struct LocalSession {
    shared: Arc<Shared>,
    number: u64,
    /// What it has leased, to be put again.
    held: Mutex<BTreeMap<String, String>>,
}

impl fmt::Debug for LocalSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSession")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl LocalSession {
    /// Reaches nothing from now on, as a node that is cut off.
    pub fn cut(&self) {
        self.shared.state().cut.insert(self.number);
        self.shared.changed.notify_all();
    }

    /// The time of its lease is over: what it leased is gone.
    pub fn expire(&self) {
        let mut state = self.shared.state();
        let mine = state.leased.iter().filter(|(_, by)| **by == self.number);
        let ops: Vec<Op> = mine
            .map(|(key, _)| Op::Delete { key: key.clone() })
            .collect();
        let revision = state.revision + 1;
        state.make(&ops, self.number, revision);
        self.shared.changed.notify_all();
    }

    /// Reaches the store again, and puts again what it had leased.
    ///
    /// # Errors
    /// [`ControlError::Store`].
    pub fn restore(&self) -> Result<(), ControlError> {
        self.shared.state().cut.remove(&self.number);
        let held = self.held().clone();
        let again = held.into_iter().fold(Transaction::default(), |all, put| {
            all.put_leased(put.0, put.1)
        });
        self.commit(&again).map(drop)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) -> Result<MutexGuard<'_, State>, ControlError> {
        let state = self.shared.state();
        if state.cut.contains(&self.number) {
            return Err(ControlError::Unreachable("this node is cut off".to_owned()));
        }
        Ok(state)
    }
}

impl ControlPlane for LocalSession {
    fn snapshot(&self, prefix: &str) -> Result<Snapshot, ControlError> {
        let state = self.reach()?;
        let found = state.entries.range(prefix.to_owned()..);
        let found = found.take_while(|(key, _)| key.starts_with(prefix));
        Ok(Snapshot {
            revision: state.revision,
            entries: found.map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, ControlError> {
        if after < self.reach()?.forgotten {
            return Err(ControlError::Compacted(after));
        }
        Ok(Box::new(LocalWatch {
            shared: Arc::clone(&self.shared),
            number: self.number,
            prefix: prefix.to_owned(),
            after,
        }))
    }

    fn commit(&self, transaction: &Transaction) -> Result<Outcome, ControlError> {
        let mut state = self.reach()?;
        if !transaction.compares.iter().all(|c| state.holds(c)) {
            return Ok(Outcome::Refused);
        }
        let revision = state.revision + 1;
        let written = self.shared.write(&transaction.ops, revision);
        written.map_err(Box::new)?;
        state.make(&transaction.ops, self.number, revision);
        self.shared.changed.notify_all();
        drop(state);
        let mut held = self.held();
        for op in &transaction.ops {
            match op {
                Op::Put {
                    key,
                    value,
                    leased: true,
                } => {
                    held.insert(key.clone(), value.clone());
                }
                Op::Put { key, .. } | Op::Delete { key } => {
                    held.remove(key);
                }
            }
        }
        Ok(Outcome::Committed(revision))
    }
}

struct LocalWatch {
    shared: Arc<Shared>,
    number: u64,
    prefix: String,
    after: u64,
}

impl Watch for LocalWatch {
    fn next(&mut self, timeout: Duration) -> Result<Vec<Change>, ControlError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.state();
        loop {
            if state.cut.contains(&self.number) {
                return Err(ControlError::Unreachable("this node is cut off".to_owned()));
            }
            if self.after < state.forgotten {
                return Err(ControlError::Compacted(self.after));
            }
            let news = state.history.iter().filter(|c| c.revision > self.after);
            let news: Vec<Change> = news
                .filter(|change| change.key.starts_with(&self.prefix))
                .cloned()
                .collect();
            self.after = state.revision;
            let left = deadline.saturating_duration_since(Instant::now());
            if !news.is_empty() || left.is_zero() {
                return Ok(news);
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::conformance;

    fn database() -> Arc<Database> {
        let builder = Database::builder();
        let database = builder.create_with_backend(InMemoryBackend::new());
        Arc::new(database.unwrap())
    }

    #[test]
    fn it_is_a_control_plane() {
        let local = Local::open(database()).unwrap();
        conformance::check(&*local.session(), &*local.session());
    }

    #[test]
    fn what_is_not_leased_outlives_the_process() {
        let database = database();
        let before = Local::open(Arc::clone(&database)).unwrap().session();
        let first = Transaction::default().put("a", "1").put_leased("b", "2");
        before.commit(&first).unwrap();
        before
            .commit(&Transaction::default().put("c", "3"))
            .unwrap();
        let was = before.snapshot("").unwrap();
        let after = Local::open(database).unwrap().session();
        let is = after.snapshot("").unwrap();
        assert_eq!(is.entries.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(is.revision, was.revision);
        assert_eq!(is.entries["a"], was.entries["a"]);
    }

    #[test]
    fn a_node_that_is_cut_off_loses_its_leases_and_gets_them_back() {
        let local = Local::open(database()).unwrap();
        let (node, other) = (local.session(), local.session());
        let mine = Transaction::default().put_leased("x/n", "1").put("y", "2");
        node.commit(&mine).unwrap();
        node.cut();
        assert!(node.snapshot("").is_err() && node.watch("", 1).is_err());
        assert_eq!(other.snapshot("x/").unwrap().entries.len(), 1, "not yet");
        node.expire();
        assert_eq!(other.snapshot("x/").unwrap().entries.len(), 0);
        assert_eq!(other.snapshot("y").unwrap().entries.len(), 1);
        node.restore().unwrap();
        assert_eq!(other.snapshot("x/").unwrap().entries["x/n"].value, "1");
    }

    #[test]
    fn a_watch_that_is_too_far_behind_is_told() {
        let session = Local::open(database()).unwrap().session();
        let mut watch = session.watch("", 0).unwrap();
        for number in 0..=HISTORY {
            let put = Transaction::default().put_leased("k", number.to_string());
            session.commit(&put).unwrap();
        }
        let behind = watch.next(Duration::ZERO);
        assert!(matches!(behind, Err(ControlError::Compacted(0))));
        assert!(session.watch("", 0).is_err());
    }
}
