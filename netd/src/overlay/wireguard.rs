//! What this node is known by on encrypted networks, and how it knows the others.

use std::time::Duration;

use super::Netd;
use crate::apply;
use crate::model::desired::Desired;
use crate::model::network::Network;
use crate::model::observed::Observed;
use crate::model::step::Step;
use crate::model::wireguard::{self, PublicKey};

impl Netd {
    /// Brings the interface from whom it knew to whom it has to know.
    pub(super) fn settle_correspondents(&self, before: &Desired, after: &Desired) {
        if after.wireguard().is_none() {
            return;
        }
        let Some(wanted) = after.correspondents() else {
            return;
        };
        let steps = match before.correspondents() {
            Some(known) => wireguard::turn(&known, &wanted).into_iter().collect(),
            // Whom it knows that was not known to be right, a look at it tells.
            None => match self.kernel.observe() {
                Ok(observed) => wireguard::repair(after, &observed),
                Err(error) => {
                    tracing::warn!(%error, "the next reconcile tries again");
                    Vec::new()
                }
            },
        };
        apply::run_all(&*self.kernel, &steps);
    }

    /// What others are told of endpoints on `network`.
    pub(super) fn key_on(&self, network: &Network) -> Option<PublicKey> {
        let overlay = network.driver.overlay()?;
        self.view().key.filter(|_| overlay.encrypted)
    }

    /// Knows the interface's key, and tells the others of another one.
    pub(crate) fn follow_key(&self, observed: &Observed) {
        let view = self.view();
        let key = wireguard::key(&view, observed);
        if key == view.key {
            return;
        }
        let mut after = Desired::clone(&view);
        after.key = key;
        self.publish_view(after);
        // Those of other networks are known as they are.
        let endpoints = self.shared_endpoints();
        let endpoints = endpoints.iter();
        self.announce_together(endpoints.map(|(network, endpoint)| (&**network, &**endpoint)));
    }

    /// Changes the interface's key. Nothing is lost: packets wait until the others know the new one,
    /// which is why they have to be told at once.
    pub(crate) fn change_key(&self) {
        let _writer = self.writer();
        let Some(wanted) = self.view().wireguard() else {
            return;
        };
        let membership = self.membership.load_full();
        if membership.is_none_or(|membership| membership.hears().is_err()) {
            tracing::warn!("the key of {} is changed later", wanted.link);
            return;
        }
        let change = Step::ChangeKey { link: wanted.link };
        apply::run_all(&*self.kernel, &[change]);
        match self.kernel.observe() {
            Ok(observed) => self.follow_key(&observed),
            Err(error) => tracing::warn!(%error, "the next reconcile tells others of the key"),
        }
    }

    /// Changes the interface's key again and again.
    pub(crate) async fn change_keys(self: std::sync::Arc<Self>) {
        let every = Duration::from_secs(self.config.key_seconds.get().into());
        loop {
            // Not all nodes at once: what waits for one that changes its key at the same time is lost.
            let jitter = u32::from_ne_bytes(crate::networks::random()) % 1000;
            tokio::time::sleep(every * (900 + jitter / 5) / 1000).await;
            let netd = std::sync::Arc::clone(&self);
            let changed = tokio::task::spawn_blocking(move || netd.change_key()).await;
            if let Err(error) = changed {
                tracing::error!(%error, "changing a key panicked");
            }
        }
    }
}
