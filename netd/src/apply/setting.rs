//! Settings of the host's network namespace.

use std::io;

use api::id::IfName;
use sys::sysctl;

use crate::kernel::KernelError;
use crate::model::reserved::PortSet;
use crate::model::step::Change;

/// For both families, in spite of its place.
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// Makes connection tracking believe packets that follow others which it did not see, and are outside
/// the window it knows of.
pub(super) fn relax_tracking() -> Result<Change, KernelError> {
    const LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";
    let before = sysctl::ensure(LIBERAL, "1").map_err(|source| failed(LIBERAL, source))?;
    Ok(if before == "1" {
        Change::Unchanged
    } else {
        Change::Done
    })
}

/// Lets an interface take packets of senders that are routed elsewhere. Of `rp_filter`, the larger of
/// this setting and that for all interfaces counts (Documentation/networking/ip-sysctl.rst).
pub(super) fn check_loosely(link: &IfName) -> io::Result<()> {
    sysctl::ensure(&format!("net/ipv4/conf/{link}/rp_filter"), "2")?;
    Ok(())
}

/// Lets an interface take packets of this host itself, which has asked another one that leads back here.
pub(super) fn take_own(link: &IfName) -> io::Result<()> {
    sysctl::ensure(&format!("net/ipv4/conf/{link}/accept_local"), "1")?;
    Ok(())
}

fn forwarding(ipv6: bool) -> &'static str {
    if ipv6 {
        "net/ipv6/conf/all/forwarding"
    } else {
        "net/ipv4/ip_forward"
    }
}

pub(super) fn is_forwarding(ipv6: bool) -> bool {
    sysctl::read(forwarding(ipv6)).is_ok_and(|value| value == "1")
}

pub(super) fn enable_forwarding(ipv6: bool) -> Result<Change, KernelError> {
    let key = forwarding(ipv6);
    let failed = |source| failed(key, source);
    if sysctl::read(key).map_err(failed)? == "1" {
        return Ok(Change::Unchanged);
    }
    if ipv6 {
        keep_advertised_routes().map_err(failed)?;
    }
    sysctl::ensure(key, "1").map_err(failed)?;
    Ok(Change::Done)
}

/// A router ignores router advertisements, and forgets what it learnt by them, unless `accept_ra`
/// is 2 (Documentation/networking/ip-sysctl.rst): a host that has its default route from them
/// would lose it.
fn keep_advertised_routes() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        // "all" has no effect; a link may vanish meanwhile.
        if name != "all" && sysctl::read(&key).is_ok_and(|value| value == "1") {
            sysctl::ensure(&key, "2")?;
        }
    }
    Ok(())
}

pub(super) fn reserved() -> Result<PortSet, KernelError> {
    let text = sysctl::read(RESERVED).map_err(|source| failed(RESERVED, source))?;
    text.parse()
        .map_err(|error| failed(RESERVED, io::Error::other(error)))
}

/// Keeps `ports` from the host's own connections. The setting is not read: ten thousand ports of
/// others would be felt with each that is published.
pub(super) fn reserve(ports: &PortSet) -> Result<Change, KernelError> {
    match sysctl::add(RESERVED, &ports.to_string()) {
        Ok(()) => Ok(Change::Done),
        // Where the setting is read-only, whoever made it so may have reserved them.
        Err(_read_only) if reserved()?.has(ports) => Ok(Change::Unchanged),
        Err(source) => Err(failed(RESERVED, source)),
    }
}

/// Lets the host's own connections have `ports` again. Others' ports stay reserved.
pub(crate) fn release(ports: &PortSet) -> Result<Change, KernelError> {
    let before = reserved()?;
    let mut after = before.clone();
    after.remove(ports);
    if after == before {
        return Ok(Change::Unchanged);
    }
    sysctl::write(RESERVED, &after.to_string()).map_err(|source| failed(RESERVED, source))?;
    Ok(Change::Done)
}

fn failed(key: &str, source: io::Error) -> KernelError {
    KernelError::Sysctl {
        key: key.to_owned(),
        source,
    }
}
