//! What the packet filter is to know: sets of links and subnets for a fixed number of rules.

use std::collections::BTreeSet;

use api::id::IfName;
use ipnet::IpNet;

/// Contents of the one nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Bridges of all networks. Nothing is routed between two of them but what belongs to a
    /// published port.
    pub(crate) bridges: BTreeSet<IfName>,
    /// Bridges on which containers may reach each other. Only routed packets come by here; the
    /// bridge itself keeps its ports apart where this is off.
    pub(crate) same: BTreeSet<IfName>,
    /// Pairs of bridges of one network, between whose subnets the host routes. Another node routes the
    /// answers, so that connection tracking would see half of a connection.
    pub(crate) apart: BTreeSet<(IfName, IfName)>,
    /// Bridges that nothing is routed to or from but what goes to another one of the same network.
    pub(crate) internal: BTreeSet<IfName>,
    /// Source addresses to hide where packets leave for links that are no bridge of ours.
    pub(crate) masquerade: BTreeSet<IpNet>,
    /// Subnets that others than containers and the host reach by published ports only.
    pub(crate) guarded: BTreeSet<IpNet>,
    /// Those of them where the world knows the containers' own addresses, and may ask for an echo.
    pub(crate) routed: BTreeSet<IpNet>,
}
