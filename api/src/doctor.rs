//! What differs between the records and the kernel, and what of the host is in the way.

use serde::{Deserialize, Serialize};

/// `hawser doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Diagnosis {
    /// Between what is on record and what the kernel has, in the order of their repair.
    pub differences: Vec<Difference>,
    /// Of the host: nothing that the daemon would change.
    pub findings: Vec<Finding>,
    /// Which data path was chosen and why, one line each.
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Difference {
    /// What is not as it should be.
    pub what: String,
    /// What is done about it.
    pub remedy: String,
    pub state: Treatment,
    /// Why the repair failed; otherwise empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// Seen, and left as it is.
    Found,
    Repaired,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Finding {
    pub what: String,
    pub way_out: String,
}

impl Diagnosis {
    /// Whether nothing differs, or nothing any more.
    pub fn is_well(&self) -> bool {
        let mut differences = self.differences.iter();
        differences.all(|difference| difference.state == Treatment::Repaired)
    }
}
