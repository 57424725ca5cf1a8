//! Reading `-o KEY=VALUE`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::id::IfName;

use super::{DriverError, Mtu};

/// Docker's MTU option, of every driver.
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
/// `docker network create -o mtu=…` is common enough for Docker's clients to expect it.
const SHORT_MTU: &str = "mtu";
/// How the launcher calls interfaces in containers: `eth` when absent.
pub(super) const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// The same as the members `EnableIPv4` and `EnableIPv6` of a request, which take precedence.
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";

/// IPv4 asks for 68 (RFC 791, section 3.2), the kernel's `ETH_MAX_MTU` is 65535.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;
/// Room for a number of three digits in the 15 bytes of an interface's name.
const MAX_PREFIX: usize = 12;

/// The options of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options<'a>(pub(crate) &'a BTreeMap<String, String>);

impl<'a> Options<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = Given<'a>> {
        self.0.iter().map(|(key, value)| Given { key, value })
    }

    pub(super) fn get(self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether the options switch a family on or off.
    pub(crate) fn enables(self, v6: bool) -> Result<Option<bool>, DriverError> {
        let key = if v6 { ENABLE_IPV6 } else { ENABLE_IPV4 };
        let given = self.0.get_key_value(key);
        given
            .map(|(key, value)| Given { key, value }.flag())
            .transpose()
    }

    /// Of a driver that has nothing to choose but its families.
    pub(super) fn none(self, driver: &'static str) -> Result<(), DriverError> {
        self.iter().try_for_each(|given| match given.key {
            ENABLE_IPV4 | ENABLE_IPV6 => given.flag().map(drop),
            _ => Err(given.unknown(driver, &[ENABLE_IPV4, ENABLE_IPV6])),
        })
    }

    /// The MTU asked for, or `otherwise`.
    pub(super) fn mtu(self, otherwise: u32) -> Result<Mtu, DriverError> {
        let asked = [MTU, SHORT_MTU].into_iter().find_map(|key| {
            let (key, value) = self.0.get_key_value(key)?;
            Some(Given { key, value })
        });
        Ok(match asked {
            None => Mtu {
                bytes: otherwise,
                fixed: false,
            },
            Some(given) => Mtu {
                bytes: given
                    .value
                    .parse()
                    .ok()
                    .filter(|mtu| MTU_RANGE.contains(mtu))
                    .ok_or_else(|| given.invalid("a number from 68 to 65535"))?,
                fixed: true,
            },
        })
    }
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
}

impl Given<'_> {
    pub(super) fn invalid(self, expected: &'static str) -> DriverError {
        DriverError::Value {
            key: self.key.to_owned(),
            value: self.value.to_owned(),
            expected,
        }
    }

    pub(super) fn flag(self) -> Result<bool, DriverError> {
        match self.value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.invalid("true or false")),
        }
    }

    pub(super) fn address(self) -> Result<Ipv4Addr, DriverError> {
        let parsed = self.value.parse();
        parsed.map_err(|_not_an_address| self.invalid("an IPv4 address"))
    }

    pub(super) fn needs(self, needs: &'static str) -> DriverError {
        DriverError::Needs {
            key: self.key.to_owned(),
            value: self.value.to_owned(),
            needs,
        }
    }

    /// Options that every driver has; any other is unknown to `driver`, which knows `own`.
    pub(super) fn common(self, driver: &'static str, own: &[&str]) -> Result<(), DriverError> {
        match self.key {
            // Read by `Options::mtu`.
            MTU | SHORT_MTU => Ok(()),
            ENABLE_IPV4 | ENABLE_IPV6 => self.flag().map(drop),
            INTERFACE_PREFIX => {
                let fits = self.value.len() <= MAX_PREFIX;
                match IfName::parse(&format!("{}0", self.value)) {
                    Ok(_name) if fits && !self.value.is_empty() => Ok(()),
                    _ => Err(self.invalid("the first 1 to 12 bytes of an interface name")),
                }
            }
            _ => {
                let common = [MTU, INTERFACE_PREFIX, ENABLE_IPV4, ENABLE_IPV6];
                Err(self.unknown(driver, &[own, &common].concat()))
            }
        }
    }

    fn unknown(self, driver: &'static str, known: &[&str]) -> DriverError {
        DriverError::Option {
            driver,
            key: self.key.to_owned(),
            known: known.join(", "),
        }
    }
}
