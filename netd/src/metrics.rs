//! Figures in Prometheus' text format.

use std::fmt::Write as _;

use crate::bpf::{DataPlane, FrontendCounters};
use crate::model::desired::Desired;
use crate::netd::Netd;
use crate::netlink::Rtnl;
use crate::observe::{self, Traffic};

/// The value of one series; the type's own format stays short.
type Field = fn(&FrontendCounters) -> u64;
type TrafficField = fn(&Traffic) -> u64;

impl Netd {
    /// Appends the subsystem's figures, those of the data plane and of the name server.
    pub fn metrics(&self, out: &mut String) {
        let view = self.view();
        gauge(
            out,
            "hawser_networks",
            "Networks on record.",
            view.networks.len(),
        );
        gauge(
            out,
            "hawser_endpoints",
            "Endpoints on record.",
            view.endpoints.len(),
        );
        gauge(
            out,
            "hawser_departing_interfaces",
            "Interfaces of detached endpoints that are not deleted yet.",
            self.departures.len(),
        );
        if let Some(data_plane) = &self.data_plane {
            published(out, data_plane);
            drops(out, data_plane);
            refusals(out, data_plane);
            answers(out, data_plane);
            traffic(out, &view);
        }
        self.dns.metrics(out);
    }
}

fn published(out: &mut String, data_plane: &DataPlane) {
    let counters = match data_plane.counters() {
        Ok(counters) => counters,
        Err(error) => {
            tracing::warn!(%error, "no counters of published ports");
            return;
        }
    };
    let series: [(&str, &str, Field); 6] = [
        ("packets_in_total", "Packets to the container.", |c| {
            c.packets_in
        }),
        ("bytes_in_total", "Bytes to the container.", |c| c.bytes_in),
        ("packets_out_total", "Packets from the container.", |c| {
            c.packets_out
        }),
        ("bytes_out_total", "Bytes from the container.", |c| {
            c.bytes_out
        }),
        ("flows_total", "Flows that came through an uplink.", |c| {
            c.new_flows
        }),
        ("connects_total", "Connections of local sockets.", |c| {
            c.connects
        }),
    ];
    for (name, help, field) in series {
        header(out, &format!("hawser_published_{name}"), help, "counter");
        for counter in &counters {
            line(
                out,
                &format!(
                    "hawser_published_{name}{{frontend=\"{}\"}}",
                    counter.frontend
                ),
                field(counter),
            );
        }
    }
}

fn drops(out: &mut String, data_plane: &DataPlane) {
    match data_plane.drops() {
        Ok(drops) => {
            let name = "hawser_dropped_packets_total";
            header(out, name, "Packets dropped or not served.", "counter");
            for (reason, count) in drops {
                line(out, &format!("{name}{{reason=\"{reason}\"}}"), count);
            }
        }
        Err(error) => tracing::warn!(%error, "no counters of dropped packets"),
    }
}

/// What endpoints sent and received, by the kernel's counters of their links. The host's end
/// receives what the endpoint sends.
fn traffic(out: &mut String, view: &Desired) {
    let links = match Rtnl::open().and_then(|mut rtnl| observe::traffic(&mut rtnl)) {
        Ok(links) => links,
        Err(error) => {
            tracing::warn!(%error, "no counters of endpoints");
            return;
        }
    };
    let series: [(&str, &str, TrafficField); 4] = [
        ("receive_packets", "Packets to the endpoint.", |t| {
            t.packets_out
        }),
        ("receive_bytes", "Bytes to the endpoint.", |t| t.bytes_out),
        ("transmit_packets", "Packets from the endpoint.", |t| {
            t.packets_in
        }),
        ("transmit_bytes", "Bytes from the endpoint.", |t| t.bytes_in),
    ];
    for (name, help, field) in series {
        let name = format!("hawser_endpoint_{name}_total");
        header(out, &name, help, "counter");
        for endpoint in view.endpoints.values() {
            let attachment = &endpoint.attachment;
            let host = attachment.host_ifname.as_ref();
            let Some(traffic) = host.and_then(|link| links.get(link)) else {
                continue;
            };
            let labels = format!(
                "container=\"{}\",interface=\"{}\",network=\"{}\"",
                attachment.container_id, attachment.ifname, attachment.network
            );
            line(out, &format!("{name}{{{labels}}}"), field(traffic));
        }
    }
}

fn refusals(out: &mut String, data_plane: &DataPlane) {
    match data_plane.refusals() {
        Ok(refusals) => {
            let name = "hawser_endpoint_refused_packets_total";
            let help = "Packets that endpoints may not send: not theirs, or of a kind that only \
                        the network's own host sends.";
            header(out, name, help, "counter");
            for (reason, count) in refusals {
                line(out, &format!("{name}{{reason=\"{reason}\"}}"), count);
            }
        }
        Err(error) => tracing::warn!(%error, "no counters of refused packets"),
    }
}

fn answers(out: &mut String, data_plane: &DataPlane) {
    match data_plane.names() {
        Ok((names, askers)) => {
            let name = "hawser_dns_names_at_link";
            gauge(out, name, "Names answered at endpoints' links.", names);
            let name = "hawser_dns_askers_at_link";
            let help = "Addresses whose queries are answered at their links.";
            gauge(out, name, help, askers);
        }
        Err(error) => tracing::warn!(%error, "no count of names at links"),
    }
    match data_plane.answers() {
        Ok(answers) => {
            let name = "hawser_dns_answered_at_link_total";
            let help = "DNS queries answered at the endpoint's link, without the daemon.";
            header(out, name, help, "counter");
            for (kind, count) in answers {
                line(out, &format!("{name}{{answer=\"{kind}\"}}"), count);
            }
        }
        Err(error) => tracing::warn!(%error, "no counters of answers at links"),
    }
}

fn gauge(out: &mut String, name: &str, help: &str, value: usize) {
    header(out, name, help, "gauge");
    line(out, name, value as u64);
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes all");
}

fn line(out: &mut String, series: &str, value: u64) {
    writeln!(out, "{series} {value}").expect("a String takes all");
}
