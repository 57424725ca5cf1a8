//! What the programs at an endpoint's host end know of it, and what they count.

use crate::address::{Address, Be16};

/// By the index of the host's end of the endpoint's link.
pub const ENDPOINTS: &str = "endpoints";
pub const REFUSALS: &str = "refusals";
pub const MAX_ENDPOINTS: u32 = 65_536;
/// Where the addresses of endpoints are.
pub const PLACES: &str = "places";
/// The host's ends of links whose other ends take frames from XDP, by index. The kernel takes them out
/// when they are gone.
pub const FRAME_LINKS: &str = "frame_links";
/// One of each family.
pub const MAX_PLACES: u32 = 2 * MAX_ENDPOINTS;

/// A link address, in the order in which a frame has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u16; 3]);

impl Mac {
    pub const fn from_octets([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
            u16::from_ne_bytes([e, f]),
        ])
    }

    pub const fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
        ];
        [a, b, c, d, e, f]
    }

    /// That of a service's own address, which no interface has: made like those of endpoints.
    #[inline(always)]
    pub const fn of_service(address: Address) -> Self {
        let [a, b, c, d] = address.0[3].to_ne_bytes();
        Self::from_octets([0x02, 0x42, a, b, c, d])
    }

    /// The link-local address that the kernel derives from a link address (RFC 4291, appendix A).
    pub const fn link_local(self) -> Address {
        let [a, b, c, d, e, f] = self.octets();
        Address([
            0xfe80_0000_u32.to_be(),
            0,
            u32::from_ne_bytes([a ^ 2, b, c, 0xff]),
            u32::from_ne_bytes([0xfe, d, e, f]),
        ])
    }
}

/// Value of [`ENDPOINTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointValue {
    /// The first 64 bits of the network's random id.
    pub network: u64,
    /// Unspecified where it has none.
    pub v6: Address,
    pub link_local: Address,
    /// As in a packet; zero where it has none.
    pub v4: u32,
    /// Where the network's resolver answers, as in a packet; zero where nothing answers for it.
    pub resolver: u32,
    pub resolver_port: Be16,
    pub mac: Mac,
    /// [`ENDPOINT_CHECKED`] or zero.
    pub flags: u32,
    /// As in [`Place`].
    pub direct_mtu: u32,
    /// The link's name, for the daemon: it finds the entry of a link that is gone by it.
    pub name: [u8; 16],
}

/// Value of [`PLACES`]: the endpoint that has the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// As in [`EndpointValue`].
    pub network: u64,
    /// The host's end of its link.
    pub ifindex: u32,
    pub mac: Mac,
    /// The link's MTU, where packets may take the shortcut to and from it (see [`crate::shortcut`]);
    /// zero where they may not, because something waits for them on the longer way.
    pub direct_mtu: u16,
    pub pad: [u16; 2],
}

/// Packets must carry the endpoint's own addresses.
pub const ENDPOINT_CHECKED: u32 = 1;

impl EndpointValue {
    #[inline(always)]
    pub const fn is_checked(&self) -> bool {
        self.flags & ENDPOINT_CHECKED != 0
    }
}

/// Why a packet of an endpoint went no further. Index into [`REFUSALS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The endpoint is being removed: it has no entry any more.
    Unknown = 0,
    Mac = 1,
    Ipv4 = 2,
    Ipv6 = 3,
    Arp = 4,
    /// A neighbour discovery message that speaks for another address.
    Neighbour = 5,
    /// Router advertisements and redirects.
    Router = 6,
    DhcpServer = 7,
    Vlan = 8,
    EtherType = 9,
    /// Ends before the header that would have to be checked, or hides it.
    Malformed = 10,
    /// A DNS answer that could not be finished.
    Rewrite = 11,
}

pub const REFUSAL_NAMES: [&str; 12] = [
    "removed-endpoint",
    "mac",
    "ipv4",
    "ipv6",
    "arp",
    "neighbour-discovery",
    "router",
    "dhcp-server",
    "vlan",
    "ethertype",
    "malformed",
    "rewrite",
];

const _: () = {
    assert!(size_of::<Mac>() == 6);
    assert!(size_of::<EndpointValue>() == 80);
    assert!(size_of::<Place>() == 24);
    assert!(REFUSAL_NAMES.len() == Refusal::Rewrite as usize + 1);
};

#[cfg(feature = "user")]
pod!(EndpointValue, Place);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_addresses_round_trip_and_derive_the_kernels_link_local_address() {
        let mac = Mac::from_octets([0x02, 0x42, 0xac, 0x12, 0, 2]);
        assert_eq!(mac.octets(), [0x02, 0x42, 0xac, 0x12, 0, 2]);
        // fe80::42:acff:fe12:2
        let expected = [
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x42, 0xac, 0xff, 0xfe, 0x12, 0, 2,
        ];
        assert_eq!(mac.link_local().octets(), expected);
    }
}
