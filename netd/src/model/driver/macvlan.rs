//! macvlan: endpoints with link addresses of their own on the parent's segment.

use serde::{Deserialize, Serialize};

use super::option::Options;
use super::parent::{self, Parent, Sharing};
use super::{DriverError, Mtu, Surroundings};

const DRIVER: &str = "macvlan";
const MODE: &str = "macvlan_mode";

/// Containers as machines of their own on the parent's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Macvlan {
    pub(crate) parent: Parent,
    pub(crate) mode: MacvlanMode,
    pub(crate) mtu: Mtu,
}

/// How endpoints of one parent see each other (`MACVLAN_MODE_*` of include/uapi/linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MacvlanMode {
    /// Directly.
    Bridge,
    /// Not at all, even if the switch sends their frames back.
    Private,
    /// If the switch sends their frames back.
    Vepa,
    /// There is one, which is the parent.
    Passthru,
}

impl Macvlan {
    pub(super) fn parse(
        options: &Options<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Self, DriverError> {
        let mut mode = MacvlanMode::Bridge;
        for given in options.iter() {
            match given.key {
                parent::PARENT => {}
                MODE => {
                    mode = match given.value {
                        "" | "bridge" => MacvlanMode::Bridge,
                        "private" => MacvlanMode::Private,
                        "vepa" => MacvlanMode::Vepa,
                        "passthru" => MacvlanMode::Passthru,
                        _ => return Err(given.invalid("bridge, private, vepa or passthru")),
                    };
                }
                _ => given.common(DRIVER, &[parent::PARENT, MODE])?,
            }
        }
        let (parent, mtu) = parent::resolve(options, around, Sharing::Macvlan { mode })?;
        Ok(Self { parent, mode, mtu })
    }
}
