//! The tokens that open a cluster, and where they do.

use std::net::SocketAddr;

use super::lock::Stored;
use super::{Swarm, SwarmError, record, tls};
use crate::key;
use crate::node::Role;
use crate::token::Token;

impl Swarm {
    /// The cluster, and the tokens that open it.
    ///
    /// # Errors
    /// [`SwarmError`]: in none, no manager, or the store does not answer.
    pub fn tokens(&self) -> Result<(Token, Token), SwarmError> {
        let active = self.manager()?;
        let (cluster, _) = active.cluster()?;
        let (secrets, _) = active.secrets()?;
        // Of the two authorities that there may be, the one that vouches for this manager.
        let digest = match tls::issuer(&self.home.papers()?)? {
            Some(issuer) => issuer,
            None => tls::digest_of(cluster.issuer())?,
        };
        let token = |role| Token {
            digest,
            secret: secrets.of(role).clone(),
        };
        Ok((token(Role::Worker), token(Role::Manager)))
    }

    /// Where managers take requests to join: this node's own address.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn door(&self) -> Result<SocketAddr, SwarmError> {
        let active = self.manager()?;
        let (own, _) = active.find(active.state.node.as_str())?;
        own.manager_address.ok_or(SwarmError::Worker)
    }

    /// The token of a role opens nothing any more; another does.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn rotate(&self, role: Role) -> Result<(), SwarmError> {
        let active = self.manager()?;
        let secret = crate::random_node()?;
        let find = || {
            let (stored, modified) = active.stored()?;
            Ok((key::SECRETS.to_owned(), stored, modified))
        };
        let lock = active.lock.key();
        record::change(active.control(), "the tokens", find, |stored| {
            let mut secrets = stored.open(lock.as_ref())?;
            secrets.replace(role, secret.clone());
            *stored = Stored::seal(secrets, lock.as_ref().filter(|_| stored.is_sealed()))?;
            Ok(())
        })
    }
}
