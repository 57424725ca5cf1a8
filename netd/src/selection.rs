//! Which networks a prune is about.

use api::net::NetworkPrune;
use jiff::Timestamp;

use crate::model::network::{Network, NetworkError};

#[derive(Debug)]
pub(crate) struct Selection<'a> {
    until: Option<Timestamp>,
    labels: &'a [String],
    not_labels: &'a [String],
}

impl<'a> Selection<'a> {
    pub(crate) fn parse(which: &'a NetworkPrune) -> Result<Self, NetworkError> {
        let until = which.until.as_deref().map(|text| {
            let parsed = text.parse();
            parsed.map_err(|_not_a_time| NetworkError::Until(text.chars().take(64).collect()))
        });
        Ok(Self {
            until: until.transpose()?,
            labels: &which.labels,
            not_labels: &which.not_labels,
        })
    }

    pub(crate) fn selects(&self, network: &Network) -> bool {
        let old_enough = self.until.is_none_or(|until| {
            let created = network.created.parse::<Timestamp>();
            created.is_ok_and(|created| created < until)
        });
        old_enough
            && self.labels.iter().all(|label| has(network, label))
            && !self.not_labels.iter().any(|label| has(network, label))
    }
}

/// `KEY` or `KEY=VALUE`.
fn has(network: &Network, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => network.labels.get(key).is_some_and(|other| other == value),
        None => network.labels.contains_key(label),
    }
}
