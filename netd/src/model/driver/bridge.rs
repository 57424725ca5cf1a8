//! Linux bridges: the default driver.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::id::{Id, IfName};
use serde::{Deserialize, Serialize};

use super::option::{Given, MTU, Options};
use super::{DriverError, Mtu, Surroundings};

const DRIVER: &str = "bridge";
pub(crate) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const ICC: &str = "com.docker.network.bridge.enable_icc";
/// Docker marks the default bridge with it; it asks for nothing here.
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
/// Whether containers may send in their own name only.
pub(super) const SPOOF_CHECK: &str = "hawser.spoof-check";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
const GATEWAY_MODE_IPV4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const GATEWAY_MODE_IPV6: &str = "com.docker.network.bridge.gateway_mode_ipv6";

/// What bridges of users' networks are called, before twelve digits of the network's id: Docker's
/// scheme.
pub(super) const LINK_PREFIX: &str = "br-";

/// One kernel bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bridge {
    pub(crate) link: IfName,
    pub(crate) mtu: Mtu,
    /// Source addresses become the host's where packets leave for other links.
    pub(crate) masquerade: bool,
    /// Containers reach each other.
    pub(crate) icc: bool,
    /// What containers send must carry their own addresses.
    pub(crate) spoof_check: bool,
    /// Where ports are published that name no address of the host.
    pub(crate) host_binding: Option<Ipv4Addr>,
    /// The IPv4 gateway's address is somebody else's business.
    pub(crate) inhibit_ipv4: bool,
    pub(crate) gateway_mode_ipv4: GatewayMode,
    pub(crate) gateway_mode_ipv6: GatewayMode,
}

/// What the host does for one family of a network: Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GatewayMode {
    /// It hides the containers behind its own addresses and publishes their ports on them.
    Nat,
    /// The same, and lets whoever has a route reach every port of theirs.
    NatUnprotected,
    /// It forwards: the world knows the containers' own addresses, and reaches published ports
    /// there.
    Routed,
    /// It has no address on the network.
    Isolated,
}

impl Bridge {
    pub(super) fn parse(
        options: &Options<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Self, DriverError> {
        let mut bridge = Self::plain(around.id, options.mtu(around.mtu)?);
        for given in options.iter() {
            bridge.set(given, around.internal)?;
        }
        Ok(bridge)
    }

    /// One of which nothing is asked.
    pub(super) fn plain(id: &Id, mtu: Mtu) -> Self {
        Self {
            link: default_link(id),
            mtu,
            masquerade: true,
            icc: true,
            spoof_check: true,
            host_binding: None,
            inhibit_ipv4: false,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
        }
    }

    fn set(&mut self, given: Given<'_>, internal: bool) -> Result<(), DriverError> {
        match given.key {
            BRIDGE_NAME => {
                self.link = IfName::parse(given.value).map_err(|source| DriverError::Name {
                    key: BRIDGE_NAME,
                    source,
                })?;
            }
            MASQUERADE => self.masquerade = given.flag()?,
            ICC => self.icc = given.flag()?,
            SPOOF_CHECK => self.spoof_check = given.flag()?,
            INHIBIT_IPV4 => self.inhibit_ipv4 = given.flag()?,
            HOST_BINDING => {
                let address = given.address()?;
                self.host_binding = (!address.is_unspecified()).then_some(address);
            }
            GATEWAY_MODE_IPV4 => self.gateway_mode_ipv4 = gateway_mode(given, internal)?,
            GATEWAY_MODE_IPV6 => self.gateway_mode_ipv6 = gateway_mode(given, internal)?,
            DEFAULT_BRIDGE => drop(given.flag()?),
            _ => given.common(
                DRIVER,
                &[
                    BRIDGE_NAME,
                    MASQUERADE,
                    ICC,
                    HOST_BINDING,
                    INHIBIT_IPV4,
                    GATEWAY_MODE_IPV4,
                    GATEWAY_MODE_IPV6,
                    SPOOF_CHECK,
                ],
            )?,
        }
        Ok(())
    }

    pub(crate) fn gateway_mode(&self, v6: bool) -> GatewayMode {
        if v6 {
            self.gateway_mode_ipv6
        } else {
            self.gateway_mode_ipv4
        }
    }

    /// Whether the bridge carries the gateway's address of a family.
    pub(crate) fn is_gateway(&self, v6: bool) -> bool {
        let inhibited = !v6 && self.inhibit_ipv4;
        !inhibited && self.gateway_mode(v6) != GatewayMode::Isolated
    }

    /// Whether source addresses of a family are hidden behind the host's.
    pub(crate) fn masquerades(&self, v6: bool) -> bool {
        let mode = self.gateway_mode(v6);
        self.masquerade && matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected)
    }

    /// Whether others than containers and the host reach published ports of a family only.
    pub(crate) fn is_guarded(&self, v6: bool) -> bool {
        self.gateway_mode(v6) != GatewayMode::NatUnprotected
    }

    /// The options of the network `bridge`, as Docker lists them.
    pub(crate) fn default_options(&self) -> BTreeMap<String, String> {
        let binding = self.host_binding.unwrap_or(Ipv4Addr::UNSPECIFIED);
        [
            (DEFAULT_BRIDGE, "true".to_owned()),
            (ICC, self.icc.to_string()),
            (MASQUERADE, self.masquerade.to_string()),
            (HOST_BINDING, binding.to_string()),
            (BRIDGE_NAME, self.link.to_string()),
            (MTU, self.mtu.bytes.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

fn default_link(id: &Id) -> IfName {
    IfName::parse(&format!("{LINK_PREFIX}{}", id.short())).expect("15 bytes without separators")
}

fn gateway_mode(given: Given<'_>, internal: bool) -> Result<GatewayMode, DriverError> {
    match given.value {
        "" | "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" if internal => Ok(GatewayMode::Isolated),
        "isolated" => Err(given.needs("an --internal network")),
        _ => Err(given.invalid("nat, nat-unprotected, routed or isolated")),
    }
}
