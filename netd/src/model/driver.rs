//! Network drivers and their options, under Docker's names.

use std::collections::BTreeMap;

use api::id::{IfName, InvalidId};
use serde::{Deserialize, Serialize};

/// The driver of networks that are nothing but addresses.
pub(crate) const POOL: &str = "pool";
pub(crate) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MTU: &str = "com.docker.network.driver.mtu";
/// Docker marks the default bridge with it; it asks for nothing here.
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
/// Docker's default address for ports that are published without one; 0.0.0.0 is ours, too.
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
/// `docker network create -o mtu=…` is common enough for Docker's clients to expect it.
const SHORT_MTU: &str = "mtu";

/// Whether containers may send in their own name only.
const SPOOF_CHECK: &str = "hawser.spoof-check";

/// IPv4 asks for 68 (RFC 791, section 3.2), the kernel's `ETH_MAX_MTU` is 65535.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;

/// What carries a network's frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Driver {
    Bridge(Bridge),
    /// The host's own namespace. There is nothing to attach.
    Host,
    /// No interface but loopback. There is nothing to attach.
    Null,
    /// Addresses only: others make the interfaces, and ask for addresses.
    Pool,
}

/// One kernel bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bridge {
    pub(crate) link: IfName,
    pub(crate) mtu: u32,
    /// Source addresses become the host's where packets leave for other links.
    pub(crate) masquerade: bool,
    /// Containers reach each other.
    pub(crate) icc: bool,
    /// What containers send must carry their own addresses.
    #[serde(default = "on")]
    pub(crate) spoof_check: bool,
}

/// Of records from before the option existed.
fn on() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    #[error("unknown network driver {0:?}: expected bridge or {POOL}")]
    Unknown(String),
    #[error("network driver {0} is not supported yet: use bridge")]
    NotYet(String),
    #[error("unknown option {0:?} of the {POOL} driver: it has none")]
    PoolOption(String),
    #[error("only one {0} network is allowed")]
    Single(String),
    #[error("unknown option {key:?} of the bridge driver: known are {known}")]
    Option { key: String, known: String },
    #[error("invalid value {value:?} of option {key}: expected {expected}")]
    Value {
        key: String,
        value: String,
        expected: &'static str,
    },
    #[error("option {BRIDGE_NAME}: {0}")]
    BridgeName(InvalidId),
}

impl Driver {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Pool => POOL,
        }
    }

    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        match self {
            Self::Bridge(bridge) => Some(bridge),
            Self::Host | Self::Null | Self::Pool => None,
        }
    }
}

/// A pool's options: none.
pub(crate) fn parse_pool(options: &BTreeMap<String, String>) -> Result<Driver, DriverError> {
    match options.keys().next() {
        None => Ok(Driver::Pool),
        Some(key) => Err(DriverError::PoolOption(key.clone())),
    }
}

impl Bridge {
    /// A bridge named `link` unless the options name it, with `mtu` unless they give one.
    pub(crate) fn parse(
        driver: &str,
        options: &BTreeMap<String, String>,
        link: IfName,
        mtu: u32,
    ) -> Result<Self, DriverError> {
        match driver {
            "bridge" => {}
            "macvlan" | "ipvlan" | "overlay" => return Err(DriverError::NotYet(driver.to_owned())),
            "host" | "null" => return Err(DriverError::Single(driver.to_owned())),
            _ => return Err(DriverError::Unknown(driver.to_owned())),
        }
        let mut bridge = Self {
            link,
            mtu,
            masquerade: true,
            icc: true,
            spoof_check: true,
        };
        for (key, value) in options {
            bridge.set(key, value)?;
        }
        Ok(bridge)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), DriverError> {
        let invalid = |expected| DriverError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let flag = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid("true or false")),
        };
        match key {
            BRIDGE_NAME => self.link = IfName::parse(value).map_err(DriverError::BridgeName)?,
            MASQUERADE => self.masquerade = flag()?,
            ICC => self.icc = flag()?,
            SPOOF_CHECK => self.spoof_check = flag()?,
            MTU | SHORT_MTU => {
                self.mtu = value
                    .parse()
                    .ok()
                    .filter(|mtu| MTU_RANGE.contains(mtu))
                    .ok_or_else(|| invalid("a number from 68 to 65535"))?;
            }
            DEFAULT_BRIDGE => {
                flag()?;
            }
            HOST_BINDING if value == "0.0.0.0" => {}
            HOST_BINDING => return Err(invalid("0.0.0.0, which is the default")),
            _ => {
                return Err(DriverError::Option {
                    key: key.to_owned(),
                    known: [BRIDGE_NAME, MASQUERADE, ICC, MTU, SPOOF_CHECK].join(", "),
                });
            }
        }
        Ok(())
    }

    /// The options of the network `bridge`, as Docker lists them.
    pub(crate) fn default_options(&self) -> BTreeMap<String, String> {
        [
            (DEFAULT_BRIDGE, "true".to_owned()),
            (ICC, self.icc.to_string()),
            (MASQUERADE, self.masquerade.to_string()),
            (HOST_BINDING, "0.0.0.0".to_owned()),
            (BRIDGE_NAME, self.link.to_string()),
            (MTU, self.mtu.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, options: &[(&str, &str)]) -> Result<Bridge, DriverError> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Bridge::parse(driver, &options, IfName::parse("br-1").unwrap(), 1500)
    }

    #[test]
    fn dockers_options_are_understood() {
        let bridge = parse(
            "bridge",
            &[
                (BRIDGE_NAME, "lan0"),
                (ICC, "false"),
                (MTU, "1400"),
                (SPOOF_CHECK, "false"),
            ],
        )
        .unwrap();
        let expected = Bridge {
            link: IfName::parse("lan0").unwrap(),
            mtu: 1400,
            masquerade: true,
            icc: false,
            spoof_check: false,
        };
        assert_eq!(bridge, expected);
        let again = parse("bridge", &[]).unwrap();
        let listed = again.default_options();
        assert_eq!(
            Bridge::parse("bridge", &listed, again.link.clone(), 1).unwrap(),
            again,
            "what is listed can be given"
        );
    }

    #[test]
    fn refusals_name_the_option() {
        let check = |driver, options: &[(&str, &str)], part: &str| {
            let message = parse(driver, options).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        check("bridge", &[("parent", "eth0")], "unknown option \"parent\"");
        check(
            "bridge",
            &[(ICC, "maybe")],
            "enable_icc: expected true or false",
        );
        check("bridge", &[(MTU, "10")], "from 68 to 65535");
        check(
            "bridge",
            &[(BRIDGE_NAME, "a/b")],
            "bridge.name: invalid interface",
        );
        check("macvlan", &[], "macvlan is not supported yet");
        check("frobnicate", &[], "unknown network driver \"frobnicate\"");
    }
}
