//! What happened on this host, in the Docker Engine API's words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `network`, `service`, `volume` or `daemon`; of clusters `node` and `task`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Such as `start`, or `health_status: healthy`.
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`, or `swarm` of what concerns the whole cluster.
    #[serde(default)]
    pub scope: String,
    /// Seconds since 1970; the daemon fills in when it was told.
    #[serde(default)]
    pub time: i64,
    /// The same in nanoseconds.
    #[serde(rename = "timeNano", default)]
    pub time_nano: i64,
}

/// To whom it happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name, labels and what else is worth knowing.
    #[serde(rename = "Attributes", default)]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    pub fn new(kind: &str, action: &str, id: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor {
                id: id.into(),
                attributes: BTreeMap::new(),
            },
            ..Self::default()
        }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.actor.attributes.insert(name.to_owned(), value.into());
        self
    }
}

/// Which events are asked for; nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventQuery {
    /// Those of the past from here on, too.
    pub since: Option<i64>,
    /// The reply ends there; without it, with the daemon.
    pub until: Option<i64>,
}
