//! The interface that macvlan and ipvlan endpoints are made from.

use std::fmt;

use api::id::{Id, IfName, InvalidId, NetworkName};
use serde::{Deserialize, Serialize};

use super::option::{MTU, Options};
use super::{DriverError, IpvlanFlag, IpvlanMode, MacvlanMode, Mtu, Surroundings};

pub(super) const PARENT: &str = "parent";

/// IEEE 802.1Q: 0 means no VLAN and 4095 is reserved.
const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4094;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parent {
    pub(crate) link: IfName,
    /// What it is if it was made for the network; it goes with the last network that uses it.
    pub(crate) made: Option<Made>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Made {
    /// A sub-interface with an 802.1Q tag.
    Vlan { base: IfName, id: u16 },
    /// Connected to nothing: the network has its containers alone.
    Dummy,
}

/// An interface that another network is made from.
#[derive(Debug, Clone)]
pub(crate) struct ParentUse {
    pub(crate) network: NetworkName,
    pub(crate) parent: Parent,
    pub(crate) sharing: Sharing,
}

/// What a network asks of its parent that others on it must be content with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    Macvlan {
        mode: MacvlanMode,
    },
    /// Mode and flag belong to the parent: another's would change them for all.
    Ipvlan {
        mode: IpvlanMode,
        flag: IpvlanFlag,
    },
}

impl Sharing {
    fn agrees(self, other: Self) -> bool {
        let exclusive = Self::Macvlan {
            mode: MacvlanMode::Passthru,
        };
        match (self, other) {
            (Self::Macvlan { .. }, Self::Macvlan { .. }) => self != exclusive && other != exclusive,
            _ => self == other,
        }
    }

    fn dummy_prefix(self) -> &'static str {
        match self {
            Self::Macvlan { .. } => "dm",
            Self::Ipvlan { .. } => "di",
        }
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Macvlan {
                mode: MacvlanMode::Passthru,
            } => f.write_str("macvlan mode passthru, which takes all of it"),
            Self::Macvlan { .. } => f.write_str("macvlan"),
            Self::Ipvlan { mode, flag } => {
                let mode = match mode {
                    IpvlanMode::L2 => "l2",
                    IpvlanMode::L3 => "l3",
                    IpvlanMode::L3s => "l3s",
                };
                let flag = match flag {
                    IpvlanFlag::Bridge => "bridge",
                    IpvlanFlag::Private => "private",
                    IpvlanFlag::Vepa => "vepa",
                };
                write!(
                    f,
                    "ipvlan mode {mode} flag {flag}, which hold for all of it"
                )
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParentError {
    #[error("option {PARENT}: {0}")]
    Name(InvalidId),
    #[error(
        "parent interface {link} not found: name one of the host's, or INTERFACE.ID for a VLAN sub-interface of one"
    )]
    NotFound { link: IfName },
    #[error(
        "parent interface {link} cannot be made: the VLAN id after the dot must be a number from 1 to 4094"
    )]
    VlanId { link: IfName },
    #[error("parent interface {link} cannot be made: {base} not found")]
    NoBase { link: IfName, base: IfName },
    #[error("{link} is the loopback interface: it cannot be the parent of a network")]
    Loopback { link: IfName },
    #[error("parent interface {link} is a port of {master}: use {master} as the parent")]
    Enslaved { link: IfName, master: IfName },
    #[error(
        "parent interface {link} is used by network {network} as {wanted}: use another parent, or the same driver and options"
    )]
    Clash {
        link: IfName,
        network: NetworkName,
        wanted: String,
    },
    #[error("option {MTU}={mtu} exceeds the MTU {most} of parent interface {link}")]
    Mtu { link: IfName, mtu: u32, most: u32 },
}

/// The parent that the options name, or one to make, and the MTU of links made from it.
pub(super) fn resolve(
    options: &Options<'_>,
    around: &Surroundings<'_>,
    sharing: Sharing,
) -> Result<(Parent, Mtu), DriverError> {
    let parent = match options.get(PARENT) {
        None | Some("") => dummy(around.id, sharing),
        Some(name) => named(IfName::parse(name).map_err(ParentError::Name)?, around)?,
    };
    for other in around.parents {
        if other.parent.link == parent.link && !sharing.agrees(other.sharing) {
            return Err(DriverError::Parent(ParentError::Clash {
                link: parent.link,
                network: other.network.clone(),
                wanted: other.sharing.to_string(),
            }));
        }
    }
    let most = underlay_mtu(&parent, around);
    let mtu = options.mtu(most)?;
    if mtu.bytes > most {
        return Err(DriverError::Parent(ParentError::Mtu {
            link: parent.link,
            mtu: mtu.bytes,
            most,
        }));
    }
    Ok((parent, mtu))
}

fn named(link: IfName, around: &Surroundings<'_>) -> Result<Parent, ParentError> {
    // Somebody's if it was there before us; made by us if it was made for another network.
    let shared = around
        .parents
        .iter()
        .find(|other| other.parent.link == link);
    let made = shared.and_then(|other| other.parent.made.clone());
    let Some(found) = around.links.get(&link) else {
        let made = vlan(&link, around)?;
        return Ok(Parent {
            link,
            made: Some(made),
        });
    };
    if found.loopback {
        return Err(ParentError::Loopback { link });
    }
    let master = found.master.and_then(|index| {
        let mut links = around.links.iter();
        links.find(|(_, other)| other.index == index)
    });
    match master {
        // A bridge's port hands its frames to the bridge (`rx_handler`), and to nobody else.
        Some((master, _)) => Err(ParentError::Enslaved {
            link,
            master: master.clone(),
        }),
        None => Ok(Parent { link, made }),
    }
}

/// The sub-interface that `link` stands for.
fn vlan(link: &IfName, around: &Surroundings<'_>) -> Result<Made, ParentError> {
    let not_found = || ParentError::NotFound { link: link.clone() };
    let (base, id) = link.as_str().rsplit_once('.').ok_or_else(not_found)?;
    let base = IfName::parse(base).map_err(|_empty| not_found())?;
    if !around.links.contains_key(&base) {
        let link = link.clone();
        return Err(ParentError::NoBase { link, base });
    }
    let id = id.parse().ok().filter(|id| VLAN_IDS.contains(id));
    let id = id.ok_or_else(|| ParentError::VlanId { link: link.clone() })?;
    Ok(Made::Vlan { base, id })
}

fn dummy(id: &Id, sharing: Sharing) -> Parent {
    let name = format!("{}-{}", sharing.dummy_prefix(), id.short());
    Parent {
        link: IfName::parse(&name).expect("15 bytes without separators"),
        made: Some(Made::Dummy),
    }
}

fn underlay_mtu(parent: &Parent, around: &Surroundings<'_>) -> u32 {
    let of = |link: &IfName| around.links.get(link).map(|link| link.mtu);
    let base = || match &parent.made {
        Some(Made::Vlan { base, .. }) => of(base),
        _ => None,
    };
    of(&parent.link).or_else(base).unwrap_or(around.mtu)
}
