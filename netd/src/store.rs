//! The records: networks as long as the state directory, endpoints as long as a boot.
//!
//! ```text
//! <state-dir>/meta.redb        net_networks   network id              → Network
//!                              net_services   service id              → Service
//! <run-dir>/endpoints.redb     net_endpoints  container/interface     → Endpoint
//!                              net_cursors    network id and subnet   → address given out last
//!                              net_departures host's interface        → Departure
//!                              net_peers      key in the control plane → Peer
//! ```
//! Values are JSON objects with a `schema`. Each call is one durable transaction.
//!
//! Networks and services have a copy beside the database: [`copy`].
//!
//! A commit that finds no room on the disk breaks the open database until the daemon is started
//! again. Some is therefore kept free for the commits that change and remove things: one that only
//! adds is refused before.

mod copy;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::id::{Id, IfName};
use ipnet::IpNet;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use copy::adopt;

use crate::departure::Departure;
use crate::model::endpoint::{Endpoint, EndpointKey};
use crate::model::network::Network;
use crate::model::peer::Peer;
use crate::model::service::Service;

const SCHEMA: u32 = 1;
/// Bytes kept free; one commit writes some tens of kilobytes.
const ROOM: u64 = 1 << 20;
const SERVICES: Table = Table("net_services");
const NETWORKS: Table = Table("net_networks");
const ENDPOINTS: Table = Table("net_endpoints");
const CURSORS: Table = Table("net_cursors");
const DEPARTURES: Table = Table("net_departures");
const PEERS: Table = Table("net_peers");
const ENDPOINTS_FILE: &str = "endpoints.redb";

/// A table of texts, by its name.
#[derive(Debug, Clone, Copy)]
struct Table(&'static str);

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static str> {
        TableDefinition::new(self.0)
    }
}

/// The address given out last, by network and subnet.
pub(crate) type Cursors = BTreeMap<(Id, IpNet), IpAddr>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("open {}: {source}", path.display())]
    Open {
        path: PathBuf,
        source: Box<redb::DatabaseError>,
    },
    #[error("{action} record {key} of {table}: {source}")]
    Access {
        action: &'static str,
        key: String,
        table: &'static str,
        source: Box<redb::Error>,
    },
    #[error(
        "no room in {}: the database needs {} KiB to work in; make room, for example with hawser system prune",
        directory.display(),
        ROOM / 1024
    )]
    Full { directory: PathBuf },
    #[error("{action} {}: {source}", path.display())]
    Copy {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("record {key} of {table} cannot be read: {source}")]
    Decode {
        key: String,
        table: &'static str,
        source: serde_json::Error,
    },
    #[error(
        "record {key} of {table} has schema {found}, this version knows up to {SCHEMA}: start the version that wrote it"
    )]
    Schema {
        key: String,
        table: &'static str,
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Row<T> {
    schema: u32,
    value: T,
}

#[derive(Debug)]
pub(crate) struct Store {
    durable: File,
    boot: File,
}

/// A database, with the directory that it grows in.
#[derive(Debug)]
struct File {
    database: Arc<Database>,
    directory: PathBuf,
}

impl Store {
    pub(crate) fn open(
        durable: Arc<Database>,
        state_dir: &Path,
        run_dir: &Path,
    ) -> Result<Self, StoreError> {
        let path = run_dir.join(ENDPOINTS_FILE);
        let boot = Database::create(&path).map_err(|source| StoreError::Open {
            path,
            source: Box::new(source),
        })?;
        let file = |database, directory: &Path| File {
            database,
            directory: directory.to_owned(),
        };
        let store = Self {
            durable: file(durable, state_dir),
            boot: file(Arc::new(boot), run_dir),
        };
        if !copy::exists(state_dir) {
            store.keep_copy();
        }
        Ok(store)
    }

    /// Commits durable records, then their copy.
    fn commit(
        &self,
        action: &'static str,
        row: (Table, String, Option<String>),
    ) -> Result<(), StoreError> {
        self.durable.write(action, [row])?;
        self.keep_copy();
        Ok(())
    }

    fn keep_copy(&self) {
        // The commit stands; the next one tries again.
        if let Err(error) = copy::keep(&self.durable.database, &self.durable.directory) {
            tracing::warn!(%error, "the copy of networks and services is not up to date");
        }
    }

    pub(crate) fn networks(&self) -> Result<Vec<Network>, StoreError> {
        Ok(read_all(&self.durable.database, NETWORKS)?
            .into_values()
            .collect())
    }

    pub(crate) fn put_network(&self, network: &Network) -> Result<(), StoreError> {
        let row = (NETWORKS, network.id.to_string(), Some(encode(network)));
        self.commit("write", row)
    }

    pub(crate) fn delete_network(&self, id: &Id) -> Result<(), StoreError> {
        self.commit("delete", (NETWORKS, id.to_string(), None))
    }

    pub(crate) fn services(&self) -> Result<Vec<Service>, StoreError> {
        Ok(read_all(&self.durable.database, SERVICES)?
            .into_values()
            .collect())
    }

    pub(crate) fn put_service(&self, service: &Service) -> Result<(), StoreError> {
        let row = (SERVICES, service.id.to_string(), Some(encode(service)));
        self.commit("write", row)
    }

    pub(crate) fn delete_service(&self, id: &Id) -> Result<(), StoreError> {
        self.commit("delete", (SERVICES, id.to_string(), None))
    }

    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, StoreError> {
        Ok(read_all(&self.boot.database, ENDPOINTS)?
            .into_values()
            .collect())
    }

    pub(crate) fn cursors(&self) -> Result<Cursors, StoreError> {
        let rows: BTreeMap<String, (Id, IpNet, IpAddr)> = read_all(&self.boot.database, CURSORS)?;
        let cursors = rows.into_values();
        Ok(cursors.map(|(id, net, last)| ((id, net), last)).collect())
    }

    /// Writes the endpoint, and that its addresses are the last ones given out.
    pub(crate) fn put_endpoint(
        &self,
        endpoint: &Endpoint,
        cursors: &Cursors,
    ) -> Result<(), StoreError> {
        let cursors = cursor_rows(cursors);
        let row = (
            ENDPOINTS,
            endpoint.key().to_string(),
            Some(encode(endpoint)),
        );
        self.boot.write("write", [row].into_iter().chain(cursors))
    }

    /// Writes which addresses are the last ones given out.
    pub(crate) fn put_cursors(&self, cursors: &Cursors) -> Result<(), StoreError> {
        if cursors.is_empty() {
            return Ok(());
        }
        self.boot.write("write", cursor_rows(cursors))
    }

    /// Deletes an endpoint, of which `departures` are still in the kernel.
    pub(crate) fn delete_endpoint(
        &self,
        key: &EndpointKey,
        departures: &[Departure],
    ) -> Result<(), StoreError> {
        let rows = departures
            .iter()
            .map(|d| (DEPARTURES, d.link.to_string(), Some(encode(d))));
        let rows = rows.chain([(ENDPOINTS, key.to_string(), None)]);
        self.boot.write("delete", rows)
    }

    pub(crate) fn departures(&self) -> Result<Vec<Departure>, StoreError> {
        Ok(read_all(&self.boot.database, DEPARTURES)?
            .into_values()
            .collect())
    }

    pub(crate) fn delete_departures(&self, links: &[IfName]) -> Result<(), StoreError> {
        let rows = links.iter().map(|l| (DEPARTURES, l.to_string(), None));
        self.boot.write("delete", rows)
    }

    /// What was heard last of endpoints on other nodes, by their keys in the control plane.
    pub(crate) fn peers(&self) -> Result<BTreeMap<String, Peer>, StoreError> {
        read_all(&self.boot.database, PEERS)
    }

    /// Notes what has been heard of endpoints on other nodes; nothing of those that are gone.
    pub(crate) fn put_peers(
        &self,
        heard: &[(&String, Option<&Arc<Peer>>)],
    ) -> Result<(), StoreError> {
        let row = |(key, peer): &(&String, Option<&Arc<Peer>>)| {
            (PEERS, (*key).clone(), peer.map(|peer| encode(&**peer)))
        };
        self.boot.write("write", heard.iter().map(row))
    }

    /// Forgets how far the walks through a network's subnets have come.
    pub(crate) fn delete_cursors(&self, network: &Id) -> Result<(), StoreError> {
        let cursors = self.cursors()?.into_keys();
        let rows: Vec<_> = cursors
            .filter(|(id, _subnet)| id == network)
            .map(|(id, subnet)| (CURSORS, format!("{id} {subnet}"), None))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.boot.write("delete", rows)
    }

    /// Writes all of them, or none.
    pub(crate) fn put_endpoints(&self, endpoints: &[Endpoint]) -> Result<(), StoreError> {
        let row = |endpoint: &Endpoint| {
            let key = endpoint.key().to_string();
            (ENDPOINTS, key, Some(encode(endpoint)))
        };
        self.boot.write("write", endpoints.iter().map(row))
    }
}

fn cursor_rows(cursors: &Cursors) -> impl Iterator<Item = (Table, String, Option<String>)> {
    cursors.iter().map(|((id, net), last)| {
        let key = format!("{id} {net}");
        (CURSORS, key, Some(encode(&(id, net, last))))
    })
}

/// Records serialise: their maps have text keys, and nothing in them fails to.
fn encode<T: Serialize>(value: &T) -> String {
    let row = Row {
        schema: SCHEMA,
        value,
    };
    serde_json::to_string(&row).expect("a record serialises")
}

impl File {
    /// Writes all rows, or none; those without a value are deleted.
    fn write(
        &self,
        action: &'static str,
        rows: impl IntoIterator<Item = (Table, String, Option<String>)>,
    ) -> Result<(), StoreError> {
        let rows: Vec<_> = rows.into_iter().collect();
        let frees = rows.iter().any(|(_, _, value)| value.is_none());
        let mut current = (String::new(), "");
        let mut grows = false;
        let run = |current: &mut (String, &'static str)| -> Result<bool, redb::Error> {
            let transaction = self.database.begin_write()?;
            for (table, key, value) in rows {
                *current = (key, table.0);
                let mut table = transaction.open_table(table.definition())?;
                match value {
                    Some(value) => {
                        let before = table.insert(current.0.as_str(), value.as_str())?;
                        grows |= before.is_none();
                    }
                    None => drop(table.remove(current.0.as_str())?),
                };
            }
            if grows && !frees && self.is_full() {
                transaction.abort()?;
                return Ok(false);
            }
            transaction.commit()?;
            Ok(true)
        };
        match run(&mut current) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Full {
                directory: self.directory.clone(),
            }),
            Err(source) => Err(StoreError::Access {
                action,
                key: current.0,
                table: current.1,
                source: Box::new(source),
            }),
        }
    }

    /// Whether nothing should be added. A directory that cannot be looked at does not count as full:
    /// the commit itself fails then.
    fn is_full(&self) -> bool {
        rustix::fs::statvfs(&self.directory).is_ok_and(|stat| {
            // A tmpfs without a limit says that it has no blocks at all.
            stat.f_blocks > 0 && stat.f_bavail.saturating_mul(stat.f_frsize) < ROOM
        })
    }
}

fn read_all<T: DeserializeOwned>(
    database: &Database,
    table: Table,
) -> Result<BTreeMap<String, T>, StoreError> {
    let rows = read_rows(database, table).map_err(|source| StoreError::Access {
        action: "read",
        key: "*".to_owned(),
        table: table.0,
        source: Box::new(source),
    })?;
    rows.into_iter()
        .map(|(key, text)| Ok((key.clone(), decode(key, table.0, &text)?)))
        .collect()
}

fn read_rows(database: &Database, table: Table) -> Result<Vec<(String, String)>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(table.definition()) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_owned(), value.value().to_owned()));
    }
    Ok(rows)
}

fn decode<T: DeserializeOwned>(
    key: String,
    table: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let parsed = serde_json::from_str::<Version>(text).and_then(|version| {
        if version.schema > SCHEMA {
            return Ok(Err(version.schema));
        }
        serde_json::from_str::<Row<T>>(text).map(|row| Ok(row.value))
    });
    match parsed {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(found)) => Err(StoreError::Schema { key, table, found }),
        Err(source) => Err(StoreError::Decode { key, table, source }),
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, mount, mount_remount};

    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_new_and_still_forgets() {
        sys::mount::enter_private_namespace().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), c"size=8m").unwrap();
        let database = Arc::new(Database::create(path.join("meta.redb")).unwrap());
        let store = Store::open(database, path, path).unwrap();
        let row =
            |key: &str, value: Option<&str>| [(NETWORKS, key.to_owned(), value.map(str::to_owned))];
        store.durable.write("write", row("one", Some("1"))).unwrap();
        let filler = path.join("filler");
        let size = usize::try_from(rustix::fs::statvfs(path).unwrap().f_bavail * 4096).unwrap();
        std::fs::write(&filler, vec![0; size - 64 * 1024]).unwrap();
        let error = store.durable.write("write", row("two", Some("2")));
        assert!(matches!(error, Err(StoreError::Full { .. })), "{error:?}");
        store.durable.write("write", row("one", Some("3"))).unwrap();
        store.durable.write("delete", row("one", None)).unwrap();
        mount_remount(path, MountFlags::empty(), c"size=32m").unwrap();
        store.durable.write("write", row("two", Some("2"))).unwrap();
        let rows = read_rows(&store.durable.database, NETWORKS).unwrap();
        assert_eq!(rows, [("two".to_owned(), "2".to_owned())]);
        drop(store);
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
    }

    #[test]
    fn a_lost_database_gets_its_networks_back_from_their_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let database = |name: &str| Arc::new(Database::create(path.join(name)).unwrap());
        let network = |number: u8, name: &str| {
            let name = api::id::NetworkName::parse(name).unwrap();
            let created = "2026-01-01T00:00:00Z".to_owned();
            let driver = crate::model::driver::Driver::Null;
            Network::without_links(Id::from_bytes([number; 32]), name, created, driver)
        };
        let (kept, removed) = (network(1, "kept"), network(2, "removed"));
        let store = Store::open(database("meta.redb"), path, path).unwrap();
        store.put_network(&kept).unwrap();
        store.put_network(&removed).unwrap();
        store.delete_network(&removed.id).unwrap();
        drop(store);

        let lost = database("new.redb");
        assert_eq!(adopt(&lost, path).unwrap(), 1);
        std::fs::remove_file(path.join(ENDPOINTS_FILE)).unwrap();
        let store = Store::open(Arc::clone(&lost), path, path).unwrap();
        assert_eq!(store.networks().unwrap(), std::slice::from_ref(&kept));
        // A copy that cannot be understood changes nothing.
        std::fs::write(path.join("networks.json"), "{").unwrap();
        assert!(adopt(&lost, path).is_err());
        assert_eq!(store.networks().unwrap(), [kept]);
        std::fs::remove_file(path.join("networks.json")).unwrap();
        assert_eq!(adopt(&lost, path).unwrap(), 0);
    }
}
