//! What goes through services and published ports, and the tables that fill up with it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use abi::activity::TIME_WAIT_NS;
use abi::map::{CT_ANY, CT_HALF, CT_TCP};
use api::doctor::Finding;
use api::traffic::{Table, Traffic};

use crate::bpf::{BpfError, DataPlane};
use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::traffic::{self, Turn, is_nearly_full};
use crate::netd::Netd;

impl Netd {
    /// What was counted until now; nothing without a data plane.
    ///
    /// # Errors
    /// [`NetError::DataPlane`] when the tables cannot be read.
    pub fn traffic(&self) -> Result<Traffic, NetError> {
        let Some(data_plane) = &self.data_plane else {
            return Ok(Traffic::default());
        };
        Ok(self.measured(data_plane)?)
    }

    pub(crate) fn measured(&self, data_plane: &DataPlane) -> Result<Traffic, BpfError> {
        let view = self.view();
        let dropped = data_plane.drops()?.into_iter();
        Ok(Traffic {
            services: traffic::report(
                data_plane.traffic()?,
                &containers(&view),
                &self.service_names(),
            ),
            dropped: dropped.map(|(reason, n)| (reason.to_owned(), n)).collect(),
            tables: tables(data_plane)?,
        })
    }

    /// The services by their number in the data plane.
    pub(crate) fn service_names(&self) -> BTreeMap<u64, String> {
        let view = self.view();
        let mut names = BTreeMap::new();
        for service in view.services.values() {
            let numbers = view.balanced_of(&service.id).into_keys();
            names.extend(numbers.map(|number| (number, service.spec.name.clone())));
        }
        names
    }

    /// Says in the log which tables have become nearly full, and which have room again.
    pub(crate) fn watch_tables(&self) {
        let Some(data_plane) = &self.data_plane else {
            return;
        };
        if let Err(error) = data_plane.sweep(Duration::from_nanos(TIME_WAIT_NS)) {
            tracing::warn!(%error, "connections that are over stay in the tables");
        }
        let tables = match tables(data_plane) {
            Ok(tables) => tables,
            Err(error) => {
                tracing::warn!(%error, "nobody knows how full the tables are");
                return;
            }
        };
        for (table, turn) in self.episodes().look(&tables) {
            match turn {
                Turn::Begins => tracing::error!("{}; {}", worry(table), way_out(table)),
                Turn::Ends => tracing::info!(table = table.name, "the table has room again"),
            }
        }
    }

    pub(crate) fn full_tables(&self) -> Vec<Finding> {
        let tables = self.data_plane.as_ref().map(|plane| tables(plane));
        match tables {
            None => Vec::new(),
            Some(Ok(tables)) => tables
                .iter()
                .filter(|table| is_nearly_full(table))
                .map(|table| Finding {
                    what: worry(table),
                    way_out: way_out(table),
                })
                .collect(),
            Some(Err(error)) => vec![Finding {
                what: format!("nobody knows how full the tables are: {error}"),
                way_out: "hawserd's log says more".to_owned(),
            }],
        }
    }
}

pub(crate) fn tables(data_plane: &DataPlane) -> Result<Vec<Table>, BpfError> {
    let fill = data_plane.fill()?.into_iter();
    Ok(fill
        .map(|fill| Table {
            name: fill.table.to_owned(),
            entries: fill.entries,
            capacity: fill.capacity,
            in_use: fill.in_use,
        })
        .collect())
}

fn worry(table: &Table) -> String {
    let Table {
        name,
        capacity,
        in_use,
        ..
    } = table;
    let in_use = in_use.unwrap_or_default();
    format!("table {name} of the data plane has {in_use} of at most {capacity} entries in use")
}

fn way_out(table: &Table) -> String {
    if !matches!(table.name.as_str(), CT_TCP | CT_HALF | CT_ANY) {
        "what exceeds it is refused: publish adjacent ports as a range, and remove what is not used"
            .to_owned()
    } else {
        "the connections that were silent longest are forgotten: hawser service top shows whose \
         they are"
            .to_owned()
    }
}

pub(crate) fn containers(view: &Desired) -> BTreeMap<IpAddr, String> {
    let named = view.endpoints.values().flat_map(|endpoint| {
        let name = endpoint.display_name();
        endpoint
            .addresses()
            .map(move |address| (address, name.to_owned()))
    });
    named.collect()
}
