//! The rows on disk: tables of `meta.redb`, and their image in memory.
//!
//! A commit is one transaction with immediate durability. Readers see the image in memory, which
//! changes only after the transaction is on disk, so nobody is told of what a power cut undoes, and
//! nobody waits for a disk to read. Each row is JSON with the number of its schema.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use api::id::{SnapshotName, VolumeName};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Driver;
use crate::lock::lock;
use crate::model::layout::Key;
use crate::model::record::{Change, Holder, Intent, Rows, SCHEMA};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const VOLUMES: Table = TableDefinition::new("storage.volumes");
const HOLDERS: Table = TableDefinition::new("storage.volume_holders");
const INTENTS: Table = TableDefinition::new("storage.intents");
const SNAPSHOTS: Table = TableDefinition::new("storage.volume_snapshots");
const TRASH: Table = TableDefinition::new("storage.volume_trash");
const DEVICES: Table = TableDefinition::new("storage.thin_devices");
const POOLS: Table = TableDefinition::new("storage.thin_pools");
/// There is one.
const POOL: &str = "pool";

/// The tables of one driver: what another one keeps is neither seen nor changed.
#[derive(Clone, Copy)]
struct Tables {
    driver: Driver,
    layers: Table,
    images: Table,
    rootfs: Table,
}

impl Tables {
    fn of(driver: Driver) -> Self {
        let [layers, images, rootfs] = match driver {
            Driver::Overlay2 => ["storage.layers", "storage.images", "storage.rootfs"],
            Driver::Vfs => [
                "storage.vfs.layers",
                "storage.vfs.images",
                "storage.vfs.rootfs",
            ],
            Driver::Devicemapper => [
                "storage.devicemapper.layers",
                "storage.devicemapper.images",
                "storage.devicemapper.rootfs",
            ],
        }
        .map(TableDefinition::new);
        Self {
            driver,
            layers,
            images,
            rootfs,
        }
    }

    fn all(&self) -> [Table; 10] {
        [
            self.layers,
            self.images,
            self.rootfs,
            VOLUMES,
            HOLDERS,
            SNAPSHOTS,
            TRASH,
            DEVICES,
            POOLS,
            INTENTS,
        ]
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} the metadata database: {source}")]
    Database {
        what: &'static str,
        source: Box<redb::Error>,
    },
    #[error("cannot read row {key:?} of table {table} in the metadata database: {reason}")]
    Row {
        table: String,
        key: String,
        reason: String,
    },
    #[error(
        "row {key:?} of table {table} has schema {schema}, this version knows {SCHEMA}: run the version that wrote it"
    )]
    Schema {
        table: String,
        key: String,
        schema: u32,
    },
    #[error("cannot encode a row for table {table}: {source}")]
    Encode {
        table: String,
        source: serde_json::Error,
    },
}

fn failed<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Database {
        what,
        source: Box::new(source.into()),
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    database: Arc<Database>,
    driver: Driver,
    /// Held over a transaction and the change in memory that follows it.
    writer: Mutex<()>,
    rows: RwLock<Rows>,
}

impl Store {
    pub(crate) fn open(database: Arc<Database>, driver: Driver) -> Result<Self, StoreError> {
        let tables = Tables::of(driver);
        create_tables(&database, &tables.all())?;
        let rows = RwLock::new(load(&database, &tables)?);
        Ok(Self {
            database,
            driver,
            writer: Mutex::new(()),
            rows,
        })
    }

    /// The committed rows. Short reads only: a commit waits for the guard to go.
    pub(crate) fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies all of `changes` or none.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let _writer = lock(&self.writer);
        let tables = Tables::of(self.driver);
        let transaction = self
            .database
            .begin_write()
            .map_err(failed("begin to write"))?;
        for change in changes {
            let row = encode(&tables, change)?;
            let mut table = transaction
                .open_table(row.table)
                .map_err(failed("open a table of"))?;
            match &row.value {
                Some(value) => table.insert(row.key.as_str(), value.as_slice()).map(drop),
                None => table.remove(row.key.as_str()).map(drop),
            }
            .map_err(failed("write to"))?;
        }
        transaction.commit().map_err(failed("commit to"))?;
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            rows.apply(change.clone());
        }
        Ok(())
    }
}

fn create_tables(database: &Database, tables: &[Table]) -> Result<(), StoreError> {
    let present = database.begin_read().map_err(failed("read"))?;
    let missing = |table: &Table| match present.open_table(*table) {
        Ok(_table) => Ok(false),
        Err(TableError::TableDoesNotExist(_)) => Ok(true),
        Err(error) => Err(failed("open a table of")(error)),
    };
    // Opening creates; a start that has nothing to create writes nothing.
    if !tables
        .iter()
        .map(missing)
        .collect::<Result<Vec<_>, _>>()?
        .contains(&true)
    {
        return Ok(());
    }
    let transaction = database.begin_write().map_err(failed("begin to write"))?;
    for table in tables {
        transaction
            .open_table(*table)
            .map_err(failed("create a table of"))?;
    }
    transaction.commit().map_err(failed("commit to"))
}

fn load(database: &Database, tables: &Tables) -> Result<Rows, StoreError> {
    let mut rows = Rows::default();
    each(database, tables.layers, |_, row| {
        rows.apply(Change::PutLayer(row))
    })?;
    each(database, tables.images, |_, row| {
        rows.apply(Change::PutImage(row))
    })?;
    each(database, tables.rootfs, |_, row| {
        rows.apply(Change::PutRootfs(row))
    })?;
    each(database, VOLUMES, |_, row| {
        rows.apply(Change::PutVolume(row))
    })?;
    each(database, HOLDERS, |_, row| {
        rows.apply(Change::PutHolder(row))
    })?;
    each(database, SNAPSHOTS, |_, row| {
        rows.apply(Change::PutSnapshot(row))
    })?;
    each(database, TRASH, |_, row| rows.apply(Change::PutTrash(row)))?;
    each(database, DEVICES, |_, row| {
        rows.apply(Change::PutDevice(row))
    })?;
    each(database, POOLS, |_, row| rows.apply(Change::PutPool(row)))?;
    each(database, INTENTS, |_, row: IntentRow| {
        // What another driver has begun waits for it.
        if row.driver.is_none_or(|driver| driver == tables.driver) {
            rows.apply(Change::PutIntent(row.key, row.intent));
        }
    })?;
    Ok(rows)
}

fn each<T: DeserializeOwned>(
    database: &Database,
    definition: Table,
    mut take: impl FnMut(&str, T),
) -> Result<(), StoreError> {
    let transaction = database.begin_read().map_err(failed("read"))?;
    let table = transaction
        .open_table(definition)
        .map_err(failed("open a table of"))?;
    for entry in table.iter().map_err(failed("read"))? {
        let (key, value) = entry.map_err(failed("read"))?;
        take(key.value(), decode(definition, key.value(), value.value())?);
    }
    Ok(())
}

/// What is stored: the row's own members beside the number of its schema.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    schema: u32,
    #[serde(flatten)]
    row: T,
}

#[derive(Serialize, Deserialize)]
struct IntentRow {
    /// Whose directory the work is in; volumes are everybody's.
    #[serde(default)]
    driver: Option<Driver>,
    key: Key,
    intent: Intent,
}

fn decode<T: DeserializeOwned>(table: Table, key: &str, value: &[u8]) -> Result<T, StoreError> {
    use redb::TableHandle as _;

    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let name = || table.name().to_owned();
    let unreadable = |error: serde_json::Error| StoreError::Row {
        table: name(),
        key: key.to_owned(),
        reason: error.to_string(),
    };
    // The number first: a row of another schema may not parse at all.
    let Schema { schema } = serde_json::from_slice(value).map_err(unreadable)?;
    if schema != SCHEMA {
        return Err(StoreError::Schema {
            table: name(),
            key: key.to_owned(),
            schema,
        });
    }
    let Versioned { row, .. } = serde_json::from_slice(value).map_err(unreadable)?;
    Ok(row)
}

/// One change as the database sees it.
struct Encoded {
    table: Table,
    key: String,
    /// Absent: the row goes.
    value: Option<Vec<u8>>,
}

fn encode(tables: &Tables, change: &Change) -> Result<Encoded, StoreError> {
    let drop = |table, key: &str| {
        Ok(Encoded {
            table,
            key: key.to_owned(),
            value: None,
        })
    };
    match change {
        Change::PutLayer(row) => put(tables.layers, row.chain_id.as_str(), row),
        Change::DropLayer(chain) => drop(tables.layers, chain.as_str()),
        Change::PutImage(row) => put(tables.images, row.id.as_str(), row),
        Change::DropImage(id) => drop(tables.images, id.as_str()),
        Change::PutRootfs(row) => put(tables.rootfs, &row.container, row),
        Change::DropRootfs(container) => drop(tables.rootfs, container),
        Change::PutVolume(row) => put(VOLUMES, row.name.as_str(), row),
        Change::DropVolume(name) => drop(VOLUMES, name.as_str()),
        Change::PutHolder(row) => put(HOLDERS, &holder_key(row.volume.as_str(), &row.holder), row),
        Change::DropHolder(volume, holder) => drop(HOLDERS, &holder_key(volume.as_str(), holder)),
        Change::PutSnapshot(row) => put(SNAPSHOTS, &snapshot_key(&row.volume, &row.name), row),
        Change::DropSnapshot(volume, name) => drop(SNAPSHOTS, &snapshot_key(volume, name)),
        Change::PutTrash(row) => put(TRASH, row.key.as_str(), row),
        Change::DropTrash(key) => drop(TRASH, key.as_str()),
        Change::PutDevice(row) => put(DEVICES, row.key.as_str(), row),
        Change::DropDevice(key) => drop(DEVICES, key.as_str()),
        Change::PutPool(row) => put(POOLS, POOL, row),
        Change::PutIntent(key, intent) => put(
            INTENTS,
            key.as_str(),
            &IntentRow {
                driver: intent.is_about_layers().then_some(tables.driver),
                key: key.clone(),
                intent: intent.clone(),
            },
        ),
        Change::DropIntent(key) => drop(INTENTS, key.as_str()),
    }
}

fn put<T: Serialize>(table: Table, key: &str, row: &T) -> Result<Encoded, StoreError> {
    use redb::TableHandle as _;

    let value = serde_json::to_vec(&Versioned {
        schema: SCHEMA,
        row,
    })
    .map_err(|source| StoreError::Encode {
        table: table.name().to_owned(),
        source,
    })?;
    Ok(Encoded {
        table,
        key: key.to_owned(),
        value: Some(value),
    })
}

/// No volume's name holds a slash, so that no two holders share a key.
fn holder_key(volume: &str, holder: &Holder) -> String {
    match holder {
        Holder::Container(id) => format!("{volume}/container/{id}"),
        Holder::Mount(id) => format!("{volume}/mount/{id}"),
    }
}

fn snapshot_key(volume: &VolumeName, name: &SnapshotName) -> String {
    format!("{volume}/{name}")
}

/// How many rows each table has, for metrics.
pub(crate) fn counts(rows: &Rows) -> BTreeMap<&'static str, usize> {
    BTreeMap::from([
        ("layers", rows.layers.len()),
        ("images", rows.images.len()),
        ("rootfs", rows.rootfs.len()),
        ("volumes", rows.volumes.len()),
        ("volume_holders", rows.holders.len()),
        ("volume_snapshots", rows.snapshots.len()),
        ("volume_trash", rows.trash.len()),
        ("intents", rows.intents.len()),
    ])
}

#[cfg(test)]
mod tests {
    use api::id::VolumeName;

    use super::*;
    use crate::model::record::{HolderRow, VolumeRow};

    fn changes() -> Vec<Change> {
        let name = VolumeName::parse("data").unwrap();
        vec![
            Change::PutVolume(VolumeRow {
                name: name.clone(),
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
                created_at: "2026-11-21T00:00:00Z".to_owned(),
                anonymous: false,
                populated: false,
                project: None,
                key_id: None,
                device: None,
            }),
            Change::PutHolder(HolderRow {
                volume: name.clone(),
                holder: Holder::Mount("m".to_owned()),
                boot: Some("b".to_owned()),
                group: None,
            }),
            Change::PutIntent(Key::from_bytes([7; 16]), Intent::RemoveVolume(name)),
        ]
    }

    #[test]
    fn rows_survive_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meta.redb");
        let store =
            Store::open(Arc::new(Database::create(&file).unwrap()), Driver::Overlay2).unwrap();
        store.commit(&changes()).unwrap();
        let before = store.rows().clone();
        drop(store);
        let store =
            Store::open(Arc::new(Database::create(&file).unwrap()), Driver::Overlay2).unwrap();
        assert_eq!(*store.rows(), before);
        assert_eq!(
            before.volumes.len() + before.holders.len() + before.intents.len(),
            3
        );
    }

    #[test]
    fn a_layer_recorded_by_the_first_version_is_still_known() {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::create(dir.path().join("meta.redb")).unwrap());
        Store::open(Arc::clone(&database), Driver::Overlay2).unwrap();
        let id = format!("sha256:{}", "0".repeat(64));
        let row = serde_json::json!({
            "schema": 1, "chain_id": id, "diff_id": id, "parent": null,
            "key": "0".repeat(32), "size": 7, "entries": 1, "depth": 1,
        });
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(Tables::of(Driver::Overlay2).layers)
            .unwrap()
            .insert(id.as_str(), row.to_string().as_bytes())
            .unwrap();
        transaction.commit().unwrap();
        let store = Store::open(database, Driver::Overlay2).unwrap();
        let rows = store.rows();
        let layer = rows.layers.values().next().unwrap();
        assert_eq!((layer.size, layer.tree.as_ref()), (7, None));
    }

    #[test]
    fn a_row_of_a_later_schema_stops_the_opening() {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::create(dir.path().join("meta.redb")).unwrap());
        Store::open(Arc::clone(&database), Driver::Overlay2).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(VOLUMES)
            .unwrap()
            .insert("data", br#"{"schema":2,"whatever":1}"#.as_slice())
            .unwrap();
        transaction.commit().unwrap();
        let error = Store::open(database, Driver::Overlay2).unwrap_err();
        assert!(
            matches!(error, StoreError::Schema { schema: 2, .. }),
            "{error}"
        );
    }
}
