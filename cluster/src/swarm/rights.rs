//! Who may do what in the etcd that managers run. Its users are the nodes, by the names in their
//! certificates, and have no passwords.
//!
//! Managers may do everything. A worker reads what concerns all, and writes below its own keys. What is
//! to be is in the nodes' records: whoever changes one calls [`grant`] or [`withdraw`] then, and the
//! manager that leads makes up for those that were ended in between ([`settle`]).

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use api::id::NodeId;
use etcd_client::{AuthClient, Client, Error, Permission, UserAddOptions};

use super::{Active, SwarmError, nodes};
use crate::control_plane::ControlError;
use crate::etcd::Etcd;
use crate::key;
use crate::node::Role;

/// etcd's own name for whoever may do everything, and for the user without whom it checks nobody's
/// rights. No certificate has it.
const ROOT: &str = "root";
/// What all workers may do.
const WORKER: &str = "worker";

/// What a worker may read.
const READABLE: [&str; 11] = [
    key::NETWORKS,
    key::GUARDS,
    key::CLAIMS,
    key::ENDPOINTS,
    key::CLUSTER,
    key::MANAGERS,
    key::NODES,
    key::ALIVE,
    key::SERVICES,
    key::ORDERS,
    key::TASKS,
];

/// How often the manager that leads looks for nodes without rights, and for rights without nodes.
const SETTLE: Duration = Duration::from_secs(60);

impl Active {
    /// As the one that leads, makes up for rights that nobody has given or taken. All are looked at
    /// when it begins to lead.
    pub(super) fn settle_rights(&self, leads: bool) -> Result<(), SwarmError> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if !leads {
            *settled = None;
        } else if self.state.own_etcd && settled.is_none_or(|last| last.elapsed() > SETTLE) {
            settle(&self.control, settled.is_none())?;
            *settled = Some(Instant::now());
        }
        Ok(())
    }
}

/// Gives every node in the store its rights, and those that are not there none; lets etcd check them
/// from then on. `thorough` looks at each node, otherwise at those that are new or gone.
pub(super) fn settle(control: &Etcd, thorough: bool) -> Result<(), SwarmError> {
    // Before the nodes: one that is admitted meanwhile is no stranger.
    let users = users(control)?;
    let nodes = nodes::list(control)?;
    if thorough {
        found(control)?;
    }
    for (node, _) in &nodes {
        if thorough || !users.contains(node.id.as_str()) {
            grant(control, &node.id, node.role)?;
        }
    }
    let is_node = |user: &str| nodes.iter().any(|(node, _)| node.id.as_str() == user);
    for stranger in users.iter().filter(|user| *user != ROOT && !is_node(user)) {
        withdraw(control, stranger)?;
    }
    if thorough {
        auth(control, |mut auth| async move { auth.auth_enable().await })?;
    }
    Ok(())
}

/// Lets the user of a node do what its role may, and no more.
pub(super) fn grant(control: &Etcd, node: &NodeId, role: Role) -> Result<(), SwarmError> {
    let name = node.as_str();
    let mut wanted = BTreeSet::new();
    match role {
        Role::Manager => wanted.extend([ROOT]),
        Role::Worker => {
            let own = [
                Permission::write(control.full_key(&key::alive(node))),
                Permission::write(control.full_key(&key::endpoints(node))).with_prefix(),
                Permission::write(control.full_key(&key::tasks(node))).with_prefix(),
            ];
            allow(control, name, &own)?;
            wanted.extend([WORKER, name]);
        }
    }
    add_user(control, name)?;
    let user = auth(control, |mut auth| async move { auth.user_get(name).await })?;
    let has: BTreeSet<&str> = user.roles().iter().map(String::as_str).collect();
    for role in wanted.difference(&has) {
        auth(control, |mut auth| async move {
            auth.user_grant_role(name, *role).await
        })?;
    }
    // Last: whoever takes its own rights away has done the rest.
    for role in has.difference(&wanted) {
        let revoked = auth(control, |mut auth| async move {
            auth.user_revoke_role(name, *role).await
        });
        unless_said(revoked, "role is not granted")?;
    }
    Ok(())
}

/// A node that is gone has no rights.
pub(super) fn withdraw(control: &Etcd, node: &str) -> Result<(), SwarmError> {
    let user = auth(
        control,
        |mut auth| async move { auth.user_delete(node).await },
    );
    unless_said(user, "user name not found")?;
    let role = auth(
        control,
        |mut auth| async move { auth.role_delete(node).await },
    );
    Ok(unless_said(role, "role name not found")?)
}

/// Those who have rights.
fn users(control: &Etcd) -> Result<BTreeSet<String>, ControlError> {
    let listed = auth(control, |mut auth| async move { auth.user_list().await })?;
    Ok(listed.users().iter().cloned().collect())
}

/// What is there before nodes are.
fn found(control: &Etcd) -> Result<(), ControlError> {
    add_role(control, ROOT)?;
    add_user(control, ROOT)?;
    auth(control, |mut auth| async move {
        auth.user_grant_role(ROOT, ROOT).await
    })?;
    let readable = READABLE.map(|key| Permission::read(control.full_key(key)).with_prefix());
    allow(control, WORKER, &readable)
}

/// The role has these permissions.
fn allow(control: &Etcd, role: &str, wanted: &[Permission]) -> Result<(), ControlError> {
    add_role(control, role)?;
    let has = auth(control, |mut auth| async move { auth.role_get(role).await })?;
    let has: BTreeSet<Vec<u8>> = has
        .permissions()
        .iter()
        .map(|one| one.key().to_vec())
        .collect();
    for one in wanted.iter().filter(|one| !has.contains(one.key())) {
        auth(control, |mut auth| {
            let one = one.clone();
            async move { auth.role_grant_permission(role, one).await }
        })?;
    }
    Ok(())
}

fn add_role(control: &Etcd, role: &str) -> Result<(), ControlError> {
    let added = auth(control, |mut auth| async move { auth.role_add(role).await });
    unless_said(added, "role name already exists")
}

fn add_user(control: &Etcd, user: &str) -> Result<(), ControlError> {
    let added = auth(control, |mut auth| async move {
        let options = UserAddOptions::new().with_no_pwd();
        auth.user_add(user, "", Some(options)).await
    });
    unless_said(added, "user name already exists")
}

fn auth<T, F>(control: &Etcd, ask: impl Fn(AuthClient) -> F) -> Result<T, ControlError>
where
    F: Future<Output = Result<T, Error>>,
{
    control.ask(|client: Client| ask(client.auth_client()))
}

/// It is done, or was before: etcd says so in these `words`.
fn unless_said<T>(done: Result<T, ControlError>, words: &str) -> Result<(), ControlError> {
    match done {
        Err(ControlError::Denied(why)) if why.contains(words) => Ok(()),
        done => done.map(drop),
    }
}
