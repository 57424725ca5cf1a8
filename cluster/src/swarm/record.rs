//! What a cluster has on record of itself, beside its nodes.

use std::time::Duration;

use api::id::NodeId;
use api::swarm::SwarmSettings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SwarmError;
use super::seal::Seal;
use crate::authority::Authority;
use crate::control_plane::{ControlPlane, Entry, Outcome, Transaction};
use crate::node::Role;

/// How often a change is tried that others are quicker with.
const TRIES: u32 = 16;
/// Docker's: three months.
pub const CERT_EXPIRY: Duration = Duration::from_secs(90 * 86_400);

/// [`crate::key::CLUSTER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: NodeId,
    /// RFC 3339.
    pub created: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// How long a node's certificate is good.
    pub cert_expiry: Duration,
    /// UDP port of the data plane.
    pub data_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    #[serde(default)]
    pub settings: SwarmSettings,
}

/// Another authority takes the place of the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its certificate, PEM.
    pub authority: String,
    pub stage: Stage,
}

/// What nodes are to do before anything else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Trust both authorities.
    Trust,
    /// Have certificates of the next one.
    Certificates,
}

impl Cluster {
    /// The certificates of all authorities that nodes are to trust, PEM.
    pub fn roots(&self) -> String {
        let next = self.rotation.as_ref().map(|next| next.authority.as_str());
        [self.authority.as_str(), next.unwrap_or_default()].concat()
    }

    /// That of the one which gives certificates.
    pub fn issuer(&self) -> &str {
        match &self.rotation {
            Some(next) if next.stage == Stage::Certificates => &next.authority,
            _ => &self.authority,
        }
    }

    /// That of the one which is to be the only one.
    pub fn goal(&self) -> &str {
        let next = self.rotation.as_ref();
        next.map_or(&self.authority, |next| &next.authority)
    }

    /// The subject and the public key of the one that is to be the only one, DER in base64. Empty where
    /// its certificate cannot be read.
    pub fn signature(&self) -> (String, String) {
        let parse = || {
            let (_, pem) = x509_parser::pem::parse_x509_pem(self.goal().as_bytes()).ok()?;
            let certificate = pem.parse_x509().ok()?;
            let parts = [certificate.subject().as_raw(), certificate.public_key().raw];
            Some(parts.map(|der| STANDARD.encode(der)).into())
        };
        parse().unwrap_or_default()
    }

    /// The authority that gives certificates, with its key.
    pub(super) fn signer(&self, secrets: &Secrets) -> Result<Authority, SwarmError> {
        let is_next = self.issuer() != self.authority;
        let key = match &secrets.next_key {
            Some(next) if is_next => next,
            None if is_next => return Err(SwarmError::Lost),
            _ => &secrets.key,
        };
        Ok(Authority::from_pem(self.issuer(), key)?)
    }
}

/// [`crate::key::SECRETS`]: for managers alone.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Secrets {
    /// The authority's key, PEM.
    pub(super) key: String,
    /// That of the one which is to take its place, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next_key: Option<String>,
    /// Join secrets.
    pub(super) worker: NodeId,
    pub(super) manager: NodeId,
    /// What logins are sealed with. A cluster of an earlier version has them as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) logins: Option<Seal>,
}

impl Secrets {
    pub(super) fn of(&self, role: Role) -> &NodeId {
        match role {
            Role::Worker => &self.worker,
            Role::Manager => &self.manager,
        }
    }

    pub(super) fn replace(&mut self, role: Role, secret: NodeId) {
        match role {
            Role::Worker => self.worker = secret,
            Role::Manager => self.manager = secret,
        }
    }

    /// The role that `secret` opens. Takes as long for any other.
    pub(super) fn role(&self, secret: &NodeId) -> Option<Role> {
        let is = |own: &NodeId| {
            let pairs = own.as_str().bytes().zip(secret.as_str().bytes());
            pairs.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
        };
        match (is(&self.worker), is(&self.manager)) {
            (_, true) => Some(Role::Manager),
            (true, false) => Some(Role::Worker),
            (false, false) => None,
        }
    }
}

/// The record at `key`, if there is one, with the revision that put it.
pub(super) fn read<T: DeserializeOwned>(
    control: &dyn ControlPlane,
    key: &str,
) -> Result<Option<(T, u64)>, SwarmError> {
    let mut snapshot = control.snapshot(key)?;
    let Some(Entry { value, modified }) = snapshot.entries.remove(key) else {
        return Ok(None);
    };
    let record = serde_json::from_str(&value).map_err(|source| SwarmError::Record {
        key: key.to_owned(),
        source,
    })?;
    Ok(Some((record, modified)))
}

/// Makes `edit` of the record that `find` finds with its key, unless others change it all the time; `what`
/// is for people.
pub(super) fn change<T: Serialize>(
    control: &dyn ControlPlane,
    what: &str,
    find: impl Fn() -> Result<(String, T, u64), SwarmError>,
    edit: impl Fn(&mut T) -> Result<(), SwarmError>,
) -> Result<(), SwarmError> {
    for _ in 0..TRIES {
        let (key, mut record, modified) = find()?;
        let before = write(&record);
        edit(&mut record)?;
        let after = write(&record);
        if after == before {
            return Ok(());
        }
        let changed = Transaction::default().when(key.as_str(), modified);
        if control.commit(&changed.put(key, after))? != Outcome::Refused {
            return Ok(());
        }
    }
    Err(SwarmError::Busy(what.to_owned()))
}

/// As it is stored. Our records are plain: they have no maps whose keys are no texts.
pub(super) fn write(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}
