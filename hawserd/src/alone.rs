//! A host that is in no cluster: the only member of its own.

use std::sync::Arc;

use api::id::NodeId;
use cluster::{ControlError, ControlPlane, Local, Member, Transaction};
use redb::Database;

/// Who this host is, for as long as its records last.
const NODE: &str = "alone";

/// The member that networks of the cluster belong to until there is a cluster.
pub(crate) fn member(database: &Arc<Database>) -> Result<Member, ControlError> {
    let control = Local::open(Arc::clone(database))?.session();
    let known = control.snapshot(NODE)?;
    let known = known.entries.get(NODE);
    let node = match known.and_then(|entry| NodeId::parse(&entry.value).ok()) {
        Some(node) => node,
        None => {
            let node = cluster::random_node();
            let node = node.expect("the kernel's random numbers are ready since boot");
            control.commit(&Transaction::default().put(NODE, node.as_str()))?;
            node
        }
    };
    Ok(Member {
        control,
        node,
        manager: true,
        data_address: None,
        data_port: Member::DATA_PORT,
    })
}
