//! Figures in Prometheus' text format.

use std::fmt::Write as _;

use api::traffic::{ServiceTraffic, Table};

use crate::bpf::DataPlane;
use crate::model::desired::Desired;
use crate::netd::Netd;
use crate::netlink::Rtnl;
use crate::observe::{self, Traffic};

/// The value of one series; the type's own format stays short.
type Field = fn(&ServiceTraffic) -> u64;
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
            match self.measured(data_plane) {
                Ok(measured) => {
                    services(out, &measured.services);
                    tables(out, &measured.tables);
                }
                Err(error) => tracing::warn!(%error, "no counters of published ports"),
            }
            drops(out, data_plane);
            exposed(out, data_plane, &view);
            refusals(out, data_plane);
            answers(out, data_plane);
            traffic(out, &view);
        }
        self.dns.metrics(out);
    }
}

/// At most so many services and containers have series of their own; the rest share one, so that a
/// host with many short-lived containers does not flood whoever collects.
const MAX_NAMED: usize = 1000;
const OTHERS: &str = "(others)";

/// By service, and by container for what containers publish themselves.
fn services(out: &mut String, services: &[ServiceTraffic]) {
    let services = by_name(services);
    let series: [(&str, &str, &str, Field); 8] = [
        (
            "packets_in_total",
            "counter",
            "Packets to containers.",
            |s| s.counts.packets_in,
        ),
        ("bytes_in_total", "counter", "Bytes to containers.", |s| {
            s.counts.bytes_in
        }),
        (
            "packets_out_total",
            "counter",
            "Packets from containers.",
            |s| s.counts.packets_out,
        ),
        (
            "bytes_out_total",
            "counter",
            "Bytes from containers.",
            |s| s.counts.bytes_out,
        ),
        (
            "flows_total",
            "counter",
            "Flows that came through an uplink.",
            |s| s.counts.flows,
        ),
        (
            "connects_total",
            "counter",
            "Connections of local sockets.",
            |s| s.counts.connects,
        ),
        (
            "datagrams_total",
            "counter",
            "Datagrams of local sockets that are not connected.",
            |s| s.counts.datagrams,
        ),
        (
            "active_flows",
            "gauge",
            "Flows in progress that came through an uplink.",
            |s| s.active,
        ),
    ];
    for (name, kind, help, field) in series {
        let name = format!("hawser_published_{name}");
        header(out, &name, help, kind);
        for service in &services {
            line(
                out,
                &format!("{name}{{{}}}", labels(service)),
                field(service),
            );
        }
    }
    let name = "hawser_published_dropped_packets_total";
    let help = "Packets for a published port that were dropped or not served.";
    header(out, name, help, "counter");
    for service in &services {
        for (reason, count) in &service.dropped {
            let labels = labels(service);
            line(
                out,
                &format!("{name}{{{labels},reason=\"{reason}\"}}"),
                *count,
            );
        }
    }
}

/// Names of services and containers hold nothing that the format would want escaped.
fn labels(service: &ServiceTraffic) -> String {
    format!(
        "kind=\"{}\",name=\"{}\"",
        service.kind.as_str(),
        service.name
    )
}

/// One entry for each name, sorted, and one for those after the first thousand.
fn by_name(services: &[ServiceTraffic]) -> Vec<ServiceTraffic> {
    let mut named: Vec<ServiceTraffic> = Vec::new();
    for service in services {
        let mut one = service.clone();
        let last = named.last();
        let is_last = last.is_some_and(|last| (last.kind, &last.name) == (one.kind, &one.name));
        if !is_last && named.len() >= MAX_NAMED {
            one.name = OTHERS.to_owned();
        }
        match named.last_mut() {
            Some(last)
                if (last.kind, &last.name) == (one.kind, &one.name) || last.name == OTHERS =>
            {
                last.counts.add(&one.counts);
                last.active += one.active;
                for (reason, count) in one.dropped {
                    *last.dropped.entry(reason).or_default() += count;
                }
            }
            _ => named.push(one),
        }
    }
    named
}

fn tables(out: &mut String, tables: &[Table]) {
    type Of = fn(&Table) -> Option<u32>;
    let series: [(&str, &str, Of); 3] = [
        (
            "entries",
            "Entries of a table of the data plane.",
            |table| Some(table.entries),
        ),
        (
            "in_use_entries",
            "Those of them that cannot be missed.",
            |table| table.in_use,
        ),
        ("capacity", "How many entries fit.", |table| {
            Some(table.capacity)
        }),
    ];
    for (name, help, of) in series {
        let name = format!("hawser_table_{name}");
        header(out, &name, help, "gauge");
        for table in tables {
            if let Some(value) = of(table) {
                let series = format!("{name}{{table=\"{}\"}}", table.name);
                line(out, &series, u64::from(value));
            }
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

/// Frames of encrypted networks that came, or were to go, in clear text.
fn exposed(out: &mut String, data_plane: &DataPlane, view: &Desired) {
    let counts = match data_plane.exposed() {
        Ok(counts) if counts.is_empty() => return,
        Ok(counts) => counts,
        Err(error) => {
            tracing::warn!(%error, "no counters of frames in clear text");
            return;
        }
    };
    let name = "hawser_clear_text_frames_total";
    let help = "Frames of encrypted networks that were dropped because they were in clear text.";
    header(out, name, help, "counter");
    for network in view.networks.values() {
        if let Some(count) = network.exposed(&counts) {
            line(
                out,
                &format!("{name}{{network=\"{}\"}}", network.name),
                count,
            );
        }
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

#[cfg(test)]
mod tests {
    use api::traffic::{Counts, Kind};

    use super::*;

    fn service(kind: Kind, name: &str) -> ServiceTraffic {
        ServiceTraffic {
            name: name.to_owned(),
            kind,
            published: vec!["0.0.0.0:80/tcp".to_owned()],
            backends: Vec::new(),
            counts: Counts {
                packets_in: 2,
                ..Counts::default()
            },
            active: 1,
            dropped: [("no-backend".to_owned(), 3)].into(),
        }
    }

    #[test]
    fn ports_of_one_container_are_one_series() {
        let mut out = String::new();
        let web = service(Kind::Container, "web");
        services(&mut out, &[service(Kind::Service, "web"), web.clone(), web]);
        for expected in [
            r#"hawser_published_packets_in_total{kind="service",name="web"} 2"#,
            r#"hawser_published_packets_in_total{kind="container",name="web"} 4"#,
            r#"hawser_published_active_flows{kind="container",name="web"} 2"#,
            r#"hawser_published_dropped_packets_total{kind="container",name="web",reason="no-backend"} 6"#,
        ] {
            assert!(
                out.lines().any(|line| line == expected),
                "{expected}\n{out}"
            );
        }
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let many: Vec<ServiceTraffic> = (0..2000)
            .map(|number| service(Kind::Container, &format!("c{number:04}")))
            .collect();
        let named = by_name(&many);
        assert_eq!(named.len(), MAX_NAMED + 1);
        let others = named.last().unwrap();
        assert_eq!((others.name.as_str(), others.active), (OTHERS, 1000));
    }
}
