//! What of the host is in the way of container traffic. None of it is ours to change.

use api::doctor::Finding;
use sys::sysctl;

use crate::model::desired::Desired;
use crate::model::observed::Observed;
use crate::nft;

/// Above this share of its limit a table is about to refuse connections.
const NEARLY_FULL_PERCENT: u64 = 90;

/// Reads the host's settings; what cannot be read is not there.
pub(super) fn findings(view: &Desired, observed: &Observed) -> Vec<Finding> {
    let drops = nft::forward_drops();
    let mut findings = Vec::new();
    if view.bridges().next().is_some() {
        match &drops {
            Ok(chains) => findings.extend(chains.iter().map(dropped)),
            Err(error) => findings.push(Finding {
                what: format!("the host's packet filters cannot be read: {error}"),
                way_out: "nft list ruleset shows whether a forward chain drops".to_owned(),
            }),
        }
        findings.extend(legacy_tables());
        let dropped = drops.is_ok_and(|chains| !chains.is_empty());
        findings.extend(bridged_frames_are_filtered().filter(|_| dropped));
    }
    findings.extend(strict_reverse_path(observed));
    findings.extend(full_connection_table());
    findings
}

fn dropped(chain: &nft::ForeignChain) -> Finding {
    let nft::ForeignChain {
        family,
        table,
        chain,
    } = chain;
    let mark = abi::MARK_PUBLISHED;
    Finding {
        what: format!(
            "chain {chain} of nftables table {family} {table} drops what it does not accept: \
             containers may not reach the outside, nor the outside their published ports"
        ),
        way_out: format!(
            "accept published ports there by their mark: nft insert rule {family} {table} {chain} \
             meta mark '&' {mark:#x} == {mark:#x} accept; and what containers send and get by the \
             names of their bridges: iifname, and oifname with ct state established,related"
        ),
    }
}

/// Rules of iptables' old kernel interface, which nftables does not show.
fn legacy_tables() -> Option<Finding> {
    let names = std::fs::read_to_string("/proc/net/ip_tables_names").ok()?;
    names.lines().any(|name| name == "filter").then(|| Finding {
        what: "iptables-legacy filters packets, which cannot be read from here".to_owned(),
        way_out: "iptables-legacy -S FORWARD shows whether its policy drops".to_owned(),
    })
}

fn bridged_frames_are_filtered() -> Option<Finding> {
    let key = "net/bridge/bridge-nf-call-iptables";
    (sysctl::read(key).ok()? == "1").then(|| Finding {
        what: format!(
            "frames between containers of one network cross the host's forward chains: {key} is 1"
        ),
        way_out: "sysctl -w net.bridge.bridge-nf-call-iptables=0, unless Kubernetes runs here"
            .to_owned(),
    })
}

/// Strict filtering drops what arrives by another uplink than the answer would take.
fn strict_reverse_path(observed: &Observed) -> Option<Finding> {
    let uplinks = observed.data_plane.uplinks.len();
    let strict: Vec<&str> = observed
        .data_plane
        .uplinks
        .iter()
        .filter_map(|index| observed.name_of(*index))
        .map(|name| name.as_str())
        .filter(|name| is_strict(name))
        .collect();
    (uplinks > 1 && !strict.is_empty()).then(|| Finding {
        what: format!(
            "packets are dropped that arrive by another interface than their answers leave by: \
             rp_filter is 1 for {}",
            strict.join(", ")
        ),
        way_out: "with several ways to one peer: sysctl -w net.ipv4.conf.all.rp_filter=2"
            .to_owned(),
    })
}

/// The kernel takes the larger of an interface's setting and that of all; 1 is strict.
fn is_strict(name: &str) -> bool {
    let read = |name: &str| -> u8 {
        let value = sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter"));
        value.ok().and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    read(name).max(read("all")) == 1
}

fn full_connection_table() -> Option<Finding> {
    let read = |name: &str| -> Option<u64> {
        let value = sysctl::read(&format!("net/netfilter/{name}")).ok()?;
        value.parse().ok()
    };
    let (count, limit) = (read("nf_conntrack_count")?, read("nf_conntrack_max")?);
    (limit > 0 && count * 100 >= limit * NEARLY_FULL_PERCENT).then(|| Finding {
        what: format!("connection tracking holds {count} of at most {limit} connections"),
        way_out: "sysctl -w net.netfilter.nf_conntrack_max to a larger number".to_owned(),
    })
}
