//! Showing the data plane's decisions as they are made.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::traffic::{Decision, Kind, TraceLine, TraceQuery};
use jiff::{SignedDuration, Timestamp};

use crate::bpf::{BpfError, Trace, TraceFilter, Traced};
use crate::error::NetError;
use crate::model::traffic;
use crate::netd::Netd;
use crate::traffic::containers;

/// How long a look for decisions waits, and with it a daemon that is to stop.
const WAIT: Duration = Duration::from_millis(200);
/// How often a silent trace looks whether its client is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// A trace for one client. It ends when this is dropped.
#[derive(Debug)]
pub struct Tracing {
    netd: Arc<Netd>,
    trace: Trace,
    /// By the data plane's number.
    services: BTreeMap<u32, (Kind, String)>,
    /// Told of these services only; of all if it is empty.
    wanted: Vec<u32>,
    count: Option<u64>,
    duration: Option<Duration>,
}

impl Netd {
    /// Begins to trace.
    ///
    /// # Errors
    /// [`NetError::Trace`]: somebody else traces, or there is no data plane;
    /// [`NetError::NoTraffic`]: nothing is called as the query says.
    pub fn trace(self: &Arc<Self>, query: &TraceQuery) -> Result<Tracing, NetError> {
        let data_plane = self.data_plane.as_ref().ok_or(NetError::NoDataPlane)?;
        let services = self.services_by_id()?;
        let wanted: Vec<u32> = match &query.service {
            None => Vec::new(),
            Some(name) => {
                let named = services.iter().filter(|(_, (_, known))| known == name);
                let ids: Vec<u32> = named.map(|(id, _)| *id).collect();
                if ids.is_empty() {
                    return Err(NetError::NoTraffic(name.clone()));
                }
                ids
            }
        };
        let filter = TraceFilter {
            protocol: query.protocol,
            port: query.port,
            address: query.address,
            services: wanted.clone(),
            one_in: query.one_in.unwrap_or(1),
        };
        Ok(Tracing {
            trace: data_plane.trace(&filter)?,
            netd: Arc::clone(self),
            services,
            wanted,
            count: query.count,
            duration: query.for_ms.map(Duration::from_millis),
        })
    }

    fn services_by_id(&self) -> Result<BTreeMap<u32, (Kind, String)>, BpfError> {
        let Some(data_plane) = &self.data_plane else {
            return Ok(BTreeMap::new());
        };
        let (containers, numbers) = (containers(&self.view()), self.service_names());
        let services = data_plane.traffic()?.into_iter();
        Ok(services
            .map(|service| (service.id, traffic::called(&service, &containers, &numbers)))
            .collect())
    }
}

impl Tracing {
    /// Writes a line of JSON for each decision until there were enough, the time is over, the
    /// client has gone, or the daemon stops.
    ///
    /// # Errors
    /// Of reading the decisions.
    pub fn run(mut self, out: &mut dyn Write) -> Result<(), BpfError> {
        let begin = Instant::now();
        let mut written = 0;
        let mut said = begin;
        loop {
            let is_over = self.duration.is_some_and(|whole| begin.elapsed() >= whole)
                || self.count.is_some_and(|count| written >= count)
                || self.netd.stopping.load(Ordering::Relaxed);
            if is_over {
                break;
            }
            let left = self
                .duration
                .map(|whole| whole.saturating_sub(begin.elapsed()));
            let decisions = self.trace.next(left.map_or(WAIT, |left| left.min(WAIT)))?;
            let mut lines = Vec::new();
            for traced in decisions {
                if self.count.is_some_and(|count| written >= count) {
                    break;
                }
                if self.wanted.is_empty() || self.wanted.contains(&traced.service) {
                    lines.push(TraceLine::Decision(self.in_words(traced)));
                    written += 1;
                }
            }
            // The empty line shows whether anybody is still there.
            if !lines.is_empty() || said.elapsed() >= SIGN_OF_LIFE {
                said = Instant::now();
                if write(out, &lines).is_err() {
                    return Ok(());
                }
            }
        }
        let lost = self.trace.lost()?;
        if lost > 0 {
            // Nobody is left to be told if that fails.
            drop(write(out, &[TraceLine::Lost { lost }]));
        }
        Ok(())
    }

    fn in_words(&self, traced: Traced) -> Decision {
        let service = self.services.get(&traced.service);
        let age = SignedDuration::try_from(traced.age).unwrap_or_default();
        Decision {
            time: format!("{:.6}", Timestamp::now() - age),
            decision: traced.decision.to_owned(),
            protocol: traced.protocol,
            source: traced.source,
            destination: traced.destination,
            to: traced.to,
            service: service.map(|(_kind, name)| name.clone()),
            kind: service.map(|(kind, _name)| *kind),
            reason: traced.reason.map(str::to_owned),
            length: traced.length,
        }
    }
}

fn write(out: &mut dyn Write, lines: &[TraceLine]) -> io::Result<()> {
    for line in lines {
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")?;
    }
    if lines.is_empty() {
        out.write_all(b"\n")?;
    }
    out.flush()
}
