//! What the socket hooks do with an address a process names.

use crate::address::{Address, Be16};
use crate::map::{SANDBOX_APART, SANDBOX_HOST, SandboxValue};

/// Containers are told to ask 127.0.0.11.
pub const DNS_ADDRESS: Address = Address::v4(0x7f00_000b_u32.to_be());
const DNS_PORT: Be16 = Be16::new(53);

/// Where to look for the true destination of a connect or sendmsg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nothing to translate.
    Untouched,
    /// To the sandbox's name server.
    Dns,
    /// To the name server's socket inside the sandbox.
    DnsInside,
    /// A frontend may answer; `wildcard` says when one for every address of the host does.
    Frontend { wildcard: Wildcard },
}

/// When a wildcard frontend answers for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcard {
    Always,
    IfLocal,
}

/// Decides for a socket of the namespace `sandbox`, bound to `bound` (unspecified if not bound).
///
/// In the host's namespace loopback is the host's own and every frontend answers. In a container
/// loopback is the container's own, but for the name server; the host's other addresses lead back
/// to the published port, so that a container reaches it like anybody else.
#[inline(always)]
pub fn route(sandbox: &SandboxValue, destination: Address, port: Be16, bound: Address) -> Route {
    let host = sandbox.flags & SANDBOX_HOST != 0;
    let asks = !host && destination == DNS_ADDRESS && port == DNS_PORT;
    // Bound to loopback, the socket can send to loopback only: elsewhere the kernel answers EINVAL,
    // or the packet leaves with a loopback source.
    if bound.is_loopback() {
        return if asks && sandbox.dns_inside_port != Be16::ZERO {
            Route::DnsInside
        } else {
            Route::Untouched
        };
    }
    if asks {
        return if sandbox.dns_port == Be16::ZERO {
            Route::Untouched
        } else {
            Route::Dns
        };
    }
    if sandbox.flags & SANDBOX_APART != 0 {
        return Route::Untouched;
    }
    match (destination.is_loopback(), host) {
        (true, true) => Route::Frontend {
            wildcard: Wildcard::Always,
        },
        (true, false) => Route::Untouched,
        (false, _) => Route::Frontend {
            wildcard: Wildcard::IfLocal,
        },
    }
}

/// Whether a socket of that family may be pointed at `backend`. `connected` is false for a single
/// datagram: the kernel refuses to turn one from IPv6 into IPv4 (`udpv6_sendmsg`, ENOTSUPP).
#[inline(always)]
pub const fn reaches(socket_v6: bool, named: Address, backend: Address, connected: bool) -> bool {
    if socket_v6 {
        connected || !backend.is_v4() || named.is_v4()
    } else {
        backend.is_v4()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Address = Address::v4(0x7f00_0001_u32.to_be());
    const OTHER: Address = Address::v4(0x0a00_0001_u32.to_be());
    const LOCAL6: Address = Address([0, 0, 0, 1_u32.to_be()]);
    const HTTP: Be16 = Be16::new(80);

    fn sandbox(flags: u32, dns: u16) -> SandboxValue {
        SandboxValue {
            dns_address: OTHER,
            dns_port: Be16::new(dns),
            dns_inside_port: Be16::new(dns),
            flags,
        }
    }

    #[test]
    fn routes() {
        let host = sandbox(SANDBOX_HOST, 0);
        let container = sandbox(0, 5353);
        let mute = sandbox(0, 0);
        let apart = sandbox(SANDBOX_APART, 5353);
        let any = Route::Frontend {
            wildcard: Wildcard::Always,
        };
        let local = Route::Frontend {
            wildcard: Wildcard::IfLocal,
        };
        for (name, sandbox, to, port, bound, want) in [
            ("host to loopback", host, LOCAL, HTTP, Address::ANY4, any),
            ("host to ::1", host, LOCAL6, HTTP, Address::ANY6, any),
            ("host to elsewhere", host, OTHER, HTTP, Address::ANY4, local),
            (
                "host to 127.0.0.11",
                host,
                DNS_ADDRESS,
                DNS_PORT,
                Address::ANY4,
                any,
            ),
            (
                "container to its loopback",
                container,
                LOCAL,
                HTTP,
                Address::ANY4,
                Route::Untouched,
            ),
            (
                "container to dns",
                container,
                DNS_ADDRESS,
                DNS_PORT,
                Address::ANY4,
                Route::Dns,
            ),
            (
                "dns of one that is apart",
                apart,
                DNS_ADDRESS,
                DNS_PORT,
                Address::ANY4,
                Route::Dns,
            ),
            (
                "a published port seen from apart",
                apart,
                OTHER,
                HTTP,
                Address::ANY4,
                Route::Untouched,
            ),
            (
                "no dns there",
                mute,
                DNS_ADDRESS,
                DNS_PORT,
                Address::ANY4,
                Route::Untouched,
            ),
            (
                "another port",
                container,
                DNS_ADDRESS,
                HTTP,
                Address::ANY4,
                Route::Untouched,
            ),
            (
                "container to the host",
                container,
                OTHER,
                HTTP,
                Address::ANY4,
                local,
            ),
            (
                "bound to loopback",
                container,
                OTHER,
                HTTP,
                LOCAL,
                Route::Untouched,
            ),
            (
                "bound to loopback to dns",
                container,
                DNS_ADDRESS,
                DNS_PORT,
                LOCAL,
                Route::DnsInside,
            ),
            (
                "bound to loopback, no dns there",
                mute,
                DNS_ADDRESS,
                DNS_PORT,
                LOCAL,
                Route::Untouched,
            ),
            ("bound to ::1", host, LOCAL6, HTTP, LOCAL6, Route::Untouched),
        ] {
            assert_eq!(route(&sandbox, to, port, bound), want, "{name}");
        }
    }

    #[test]
    fn families() {
        let v6 = Address([1, 2, 3, 4]);
        assert!(
            reaches(true, LOCAL6, OTHER, true),
            "::1 to an IPv4 container"
        );
        assert!(!reaches(true, LOCAL6, OTHER, false), "one datagram");
        assert!(reaches(true, LOCAL, OTHER, false), "v4-mapped to v4-mapped");
        assert!(reaches(true, LOCAL6, v6, false));
        assert!(!reaches(false, LOCAL, v6, true), "an IPv4 socket to IPv6");
        assert!(reaches(false, LOCAL, OTHER, true));
    }
}
