//! Versions of the specification, and what each can do.

use serde::{Serialize, Serializer};

/// A version of the specification that configurations may ask for.
///
/// Older ones have no `CHECK`; a configuration without `cniVersion` is of the oldest and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// In the order in which `VERSION` lists them.
    pub(crate) const SUPPORTED: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What errors are written in before the configuration's own version is known.
    pub(crate) const LATEST: Self = Self::V1_1_0;

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::SUPPORTED
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// `GC` and `STATUS` came with 1.1.0.
    pub(crate) fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Interfaces of a result have an `mtu` since 1.1.0.
    pub(crate) fn has_mtu(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Addresses of a result say their family until 1.0.0.
    pub(crate) fn has_address_family(self) -> bool {
        self < Self::V1_0_0
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
