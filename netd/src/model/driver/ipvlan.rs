//! ipvlan: endpoints behind the parent's own link address.

use serde::{Deserialize, Serialize};

use super::option::Options;
use super::parent::{self, Parent, Sharing};
use super::{DriverError, Mtu, Surroundings};

const DRIVER: &str = "ipvlan";
const MODE: &str = "ipvlan_mode";
const FLAG: &str = "ipvlan_flag";

/// Containers with addresses on the parent's network and the parent's link address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ipvlan {
    pub(crate) parent: Parent,
    pub(crate) mode: IpvlanMode,
    pub(crate) flag: IpvlanFlag,
    pub(crate) mtu: Mtu,
}

/// `IPVLAN_MODE_*` of include/uapi/linux/if_link.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IpvlanMode {
    /// On the parent's segment, with neighbours and broadcasts.
    L2,
    /// Behind the host as their router: no neighbours, no broadcasts.
    L3,
    /// As L3, through the host's netfilter hooks.
    L3s,
}

impl IpvlanMode {
    pub(super) fn is_layer3(self) -> bool {
        matches!(self, Self::L3 | Self::L3s)
    }
}

/// How endpoints of one parent see each other; a property of the parent (Documentation/networking/
/// ipvlan.rst, "Mode flags").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IpvlanFlag {
    Bridge,
    Private,
    Vepa,
}

impl Ipvlan {
    pub(super) fn parse(
        options: &Options<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Self, DriverError> {
        let (mut mode, mut flag) = (IpvlanMode::L2, IpvlanFlag::Bridge);
        for given in options.iter() {
            match given.key {
                parent::PARENT => {}
                MODE => {
                    mode = match given.value {
                        "" | "l2" => IpvlanMode::L2,
                        "l3" => IpvlanMode::L3,
                        "l3s" => IpvlanMode::L3s,
                        _ => return Err(given.invalid("l2, l3 or l3s")),
                    };
                }
                FLAG => {
                    flag = match given.value {
                        "" | "bridge" => IpvlanFlag::Bridge,
                        "private" => IpvlanFlag::Private,
                        "vepa" => IpvlanFlag::Vepa,
                        _ => return Err(given.invalid("bridge, private or vepa")),
                    };
                }
                _ => given.common(DRIVER, &[parent::PARENT, MODE, FLAG])?,
            }
        }
        let (parent, mtu) = parent::resolve(options, around, Sharing::Ipvlan { mode, flag })?;
        Ok(Self {
            parent,
            mode,
            flag,
            mtu,
        })
    }
}
