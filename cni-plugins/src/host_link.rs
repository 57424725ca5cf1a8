//! Reads, for the result, what the host's end of a pair hangs on.
//!
//! From sysfs rather than from the daemon: three small reads cost less than another request, and
//! the plugin runs in the namespace whose interfaces the runtime will look at. Where sysfs shows
//! another namespace the entries are absent, and the result leaves them out.

use std::fs;
use std::path::Path;

use crate::reply::HostLink;

const CLASS_NET: &str = "/sys/class/net";

/// The interface and, before it, the bridge it is a port of.
pub(crate) fn read(host_ifname: &str) -> Vec<HostLink> {
    let link = Path::new(CLASS_NET).join(host_ifname);
    let bridge = fs::read_link(link.join("master"))
        .ok()
        .and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
    bridge
        .into_iter()
        .chain([host_ifname.to_owned()])
        .map(|name| HostLink {
            mac: mac(&name),
            name,
        })
        .collect()
}

fn mac(ifname: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(CLASS_NET).join(ifname).join("address")).ok()?;
    Some(text.trim_end().to_owned())
}
