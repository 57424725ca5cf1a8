//! `hawser service top`: what goes through services and published ports, as it goes.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use api::path::TRAFFIC;
use api::traffic::{BackendTraffic, Counts, Kind, ServiceTraffic, Traffic};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::listing::{self, INTERVAL};
use crate::format::human;
use crate::format::table::{Columns, Row};

/// `hawser service top`.
#[derive(Debug, Clone, Args)]
pub struct TopFlags {
    /// Services, and containers with published ports, to show; all of them otherwise
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Show each backend in a line of its own
    #[arg(short, long)]
    pub backends: bool,
    /// Print one result and end
    #[arg(long)]
    pub no_stream: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("Name", "NAME"),
        ("Kind", "KIND"),
        ("Published", "PUBLISHED"),
        ("Backends", "BACKENDS"),
        ("Active", "ACTIVE"),
        ("NewPerSecond", "NEW/S"),
        ("PacketsPerSecond", "PACKETS/S"),
        ("NetIO", "NET I/O"),
        ("Connections", "CONNECTIONS"),
        ("PacketsIn", "PACKETS IN"),
        ("PacketsOut", "PACKETS OUT"),
        ("BytesIn", "BYTES IN"),
        ("BytesOut", "BYTES OUT"),
        ("Dropped", "DROPPED"),
        ("Reasons", "REASONS"),
    ],
    default: "{{.Name}}\t{{.Published}}\t{{.Backends}}\t{{.Active}}\t{{.NewPerSecond}}\t\
              {{.PacketsPerSecond}}\t{{.NetIO}}\t{{.Dropped}}",
};

/// # Errors
/// No daemon, a bad template, or a name that is no service's and no container's with published
/// ports.
pub fn top(context: &Context, flags: &TopFlags) -> Result<i32, CliError> {
    let read = || -> Result<(Instant, Traffic), CliError> {
        let traffic: Traffic = context.client().get(TRAFFIC)?;
        Ok((Instant::now(), traffic))
    };
    let mut before = read()?;
    find(&before.1, &flags.names)?;
    // Rates are the difference between two readings.
    thread::sleep(INTERVAL);
    listing::watch(&COLUMNS, (flags.no_stream, &flags.format), || {
        let after = read()?;
        let passed = after.0.duration_since(before.0);
        let rows = rows(&before.1, &after.1, passed, flags);
        before = after;
        Ok(rows)
    })
}

fn find(traffic: &Traffic, names: &[String]) -> Result<(), CliError> {
    let known = |name: &&String| traffic.services.iter().any(|one| one.name == **name);
    match names.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(CliError::NoTraffic { name: name.clone() }),
    }
}

/// What tells a row of one reading in the next.
type Key = (Kind, String, Vec<String>, Option<std::net::SocketAddr>);

fn rows(before: &Traffic, after: &Traffic, passed: Duration, flags: &TopFlags) -> Vec<Row> {
    let before: BTreeMap<Key, Counts> = before
        .services
        .iter()
        .flat_map(|service| {
            let of_backends = service.backends.iter();
            of_backends
                .map(|backend| (key(service, Some(backend)), backend.counts))
                .chain([(key(service, None), service.counts)])
        })
        .collect();
    let mut rows = Vec::new();
    for service in &after.services {
        if !flags.names.is_empty() && !flags.names.contains(&service.name) {
            continue;
        }
        let was = |backend| before.get(&key(service, backend)).copied();
        rows.push(service_row(
            service,
            rate(was(None), &service.counts, passed),
        ));
        if flags.backends {
            for backend in &service.backends {
                let rate = rate(was(Some(backend)), &backend.counts, passed);
                rows.push(backend_row(service, backend, rate));
            }
        }
    }
    rows
}

fn key(service: &ServiceTraffic, backend: Option<&BackendTraffic>) -> Key {
    (
        service.kind,
        service.name.clone(),
        service.published.clone(),
        backend.map(|backend| backend.address),
    )
}

/// New connections, packets in and packets out, a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    new: u64,
    packets_in: u64,
    packets_out: u64,
}

fn connections(counts: &Counts) -> u64 {
    counts.flows + counts.connects
}

/// What was not there before began at zero.
fn rate(before: Option<Counts>, after: &Counts, passed: Duration) -> Rate {
    let before = before.unwrap_or_default();
    let seconds = passed.as_secs_f64().max(f64::EPSILON);
    let of = |value: fn(&Counts) -> u64| {
        (value(after).saturating_sub(value(&before)) as f64 / seconds).round() as u64
    };
    Rate {
        new: of(connections),
        packets_in: of(|counts| counts.packets_in),
        packets_out: of(|counts| counts.packets_out),
    }
}

fn service_row(service: &ServiceTraffic, rate: Rate) -> Row {
    let serving = service.backends.iter().filter(|b| b.weight > 0).count();
    let backends = format!("{serving}/{}", service.backends.len());
    let reasons: Vec<String> = service
        .dropped
        .iter()
        .map(|(reason, count)| format!("{reason}={count}"))
        .collect();
    let dropped: u64 = service.dropped.values().sum();
    let mut row = counted(&service.counts, service.active, rate);
    row.cells.extend(
        Row::new([
            ("Name", service.name.as_str().into()),
            ("Kind", service.kind.as_str().into()),
            ("Published", published(&service.published).into()),
            ("Backends", backends.into()),
            ("Dropped", dropped.into()),
            ("Reasons", reasons.join(",").into()),
        ])
        .cells,
    );
    row
}

fn backend_row(service: &ServiceTraffic, backend: &BackendTraffic, rate: Rate) -> Row {
    let mut row = counted(&backend.counts, backend.active, rate);
    let weight = match backend.weight {
        0 => "draining".to_owned(),
        weight => format!("weight {weight}"),
    };
    row.cells.extend(
        Row::new([
            ("Name", format!("└ {}", backend.container).into()),
            ("Kind", service.kind.as_str().into()),
            ("Published", backend.address.to_string().into()),
            ("Backends", weight.into()),
            // A packet is lost before it has a backend, or because it has none.
            ("Dropped", "".into()),
            ("Reasons", "".into()),
        ])
        .cells,
    );
    row
}

fn counted(counts: &Counts, active: u64, rate: Rate) -> Row {
    let size = |bytes| human::size(bytes, 3);
    let net = format!("{} / {}", size(counts.bytes_in), size(counts.bytes_out));
    let packets = format!("{} / {}", rate.packets_in, rate.packets_out);
    Row::new([
        ("Active", active.into()),
        ("NewPerSecond", rate.new.into()),
        ("PacketsPerSecond", packets.into()),
        ("NetIO", net.into()),
        ("Connections", connections(counts).into()),
        ("PacketsIn", counts.packets_in.into()),
        ("PacketsOut", counts.packets_out.into()),
        ("BytesIn", counts.bytes_in.into()),
        ("BytesOut", counts.bytes_out.into()),
    ])
}

/// The addresses of the host are shown once: `8080/tcp` for those of both families.
fn published(frontends: &[String]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    for frontend in frontends {
        let any = ["0.0.0.0:", "[::]:"];
        let short = any.iter().find_map(|any| frontend.strip_prefix(any));
        let short = short.unwrap_or(frontend);
        if !shown.contains(&short) {
            shown.push(short);
        }
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::table;

    fn service(counts: Counts) -> ServiceTraffic {
        ServiceTraffic {
            name: "web".to_owned(),
            kind: Kind::Container,
            published: vec!["0.0.0.0:8080/tcp".to_owned(), "[::]:8080/tcp".to_owned()],
            backends: vec![BackendTraffic {
                address: "172.18.0.2:80".parse().unwrap(),
                container: "web".to_owned(),
                weight: 1,
                counts,
                active: 3,
            }],
            counts,
            active: 3,
            dropped: [("no-backend".to_owned(), 2)].into(),
        }
    }

    fn traffic(services: Vec<ServiceTraffic>) -> Traffic {
        Traffic {
            services,
            ..Traffic::default()
        }
    }

    fn flags(backends: bool) -> TopFlags {
        TopFlags {
            names: Vec::new(),
            backends,
            no_stream: true,
            format: String::new(),
        }
    }

    #[test]
    fn rates_are_the_difference_of_two_readings() {
        let first = Counts {
            packets_in: 100,
            flows: 10,
            ..Counts::default()
        };
        let second = Counts {
            packets_in: 300,
            bytes_in: 2_000,
            packets_out: 50,
            flows: 14,
            connects: 6,
            ..Counts::default()
        };
        let rows = rows(
            &traffic(vec![service(first)]),
            &traffic(vec![service(second)]),
            Duration::from_secs(2),
            &flags(true),
        );
        let listing = table::list(&COLUMNS, &rows, "").unwrap();
        let lines: Vec<Vec<&str>> = listing
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|c| !c.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines[1],
            [
                "web", "8080/tcp", "1/1", "3", "5", "100 / 25", "2kB / 0B", "2"
            ]
        );
        assert_eq!(lines[2][..3], ["└ web", "172.18.0.2:80", "weight 1"]);
    }

    #[test]
    fn a_script_gets_a_line_of_json_a_service() {
        let counts = Counts {
            packets_in: 7,
            ..Counts::default()
        };
        let now = traffic(vec![service(counts)]);
        let rows = rows(&traffic(vec![]), &now, INTERVAL, &flags(false));
        let listing = table::list(&COLUMNS, &rows, "json").unwrap();
        let parsed: serde_json::Value = serde_json::from_str(listing.trim()).unwrap();
        assert_eq!(parsed["PacketsIn"], 7);
        assert_eq!(
            parsed["PacketsPerSecond"], "7 / 0",
            "new since the last reading"
        );
        assert_eq!(parsed["Reasons"], "no-backend=2");
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let now = traffic(vec![service(Counts::default())]);
        assert!(find(&now, &["web".to_owned()]).is_ok());
        let error = find(&now, &["nope".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("nope"), "{error}");
    }
}
