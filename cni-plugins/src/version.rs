//! Versions of the specification, and what each can do.

use serde::{Serialize, Serializer};

/// A version of the specification that configurations may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// In the order in which `VERSION` lists them.
    pub(crate) const SUPPORTED: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// What errors are written in before the configuration's own version is known.
    pub(crate) const LATEST: Self = Self::V1_1_0;

    /// A configuration that does not say is of the oldest version, which did not have the key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::SUPPORTED
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Interfaces of a result have an `mtu`, and routes more than a gateway, since 1.1.0.
    pub(crate) fn has_details(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Addresses of a result say their family until 1.0.0.
    pub(crate) fn has_address_family(self) -> bool {
        self < Self::V1_0_0
    }

    /// Results list interfaces and any number of addresses since 0.3.0; before, they have one
    /// address of each family.
    pub(crate) fn has_interfaces(self) -> bool {
        self >= Self::V0_3_0
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
