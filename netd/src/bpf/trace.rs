//! Decisions of the programs as they are made, for one who asks at a time.
//!
//! **Invariant.** A trace is on only while somebody reads it: each reading prolongs it by
//! [`LEASE_NS`], and the programs themselves end it when that is over.

use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use abi::map::REASONS;
use abi::trace::{
    DECISIONS, Decision, Event, Filter, TRACE_EVENTS, TRACE_FILTER, TRACE_LOST, TRACE_SERVICES,
};
use abi::{Address, Be16};
use api::net::Protocol;
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::DataPlane;
use super::error::BpfError;
use super::frontend::{address, ip, known_protocol};
use super::object;

const LEASE_NS: u64 = 3_000_000_000;

/// Which decisions are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceFilter {
    pub protocol: Option<Protocol>,
    /// Of either end, or of the backend.
    pub port: Option<u16>,
    pub address: Option<IpAddr>,
    /// By [`super::ServiceTraffic::id`]; none means all. Of more than a few the reader gets all.
    pub services: Vec<u32>,
    /// One decision in so many; zero is one.
    pub one_in: u32,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// How long ago.
    pub age: Duration,
    pub protocol: Option<Protocol>,
    /// Absent for local sockets, which have no address yet.
    pub source: Option<SocketAddr>,
    pub destination: SocketAddr,
    /// The backend, or for replies the frontend.
    pub to: Option<SocketAddr>,
    /// `miss`, `new`, `hit`, `reply`, `lost`, `connect` or `send`.
    pub decision: &'static str,
    /// Of what is lost.
    pub reason: Option<&'static str>,
    /// Zero if none.
    pub service: u32,
    /// Of the packet; zero for local sockets.
    pub length: u32,
}

pub(super) struct Tracer {
    filter: Array<MapData, Filter>,
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    is_busy: bool,
}

impl Tracer {
    /// Ends what a daemon left on that died.
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        let mut tracer = Self {
            filter: object::take(object, TRACE_FILTER)?,
            ring: object::take(object, TRACE_EVENTS)?,
            lost: object::take(object, TRACE_LOST)?,
            is_busy: false,
        };
        tracer.set(Filter::default())?;
        Ok(tracer)
    }

    fn set(&mut self, filter: Filter) -> Result<(), BpfError> {
        self.filter
            .set(0, filter, 0)
            .map_err(BpfError::map(TRACE_FILTER))
    }

    fn lost(&self) -> Result<u64, BpfError> {
        let values = self.lost.get(&0, 0).map_err(BpfError::map(TRACE_LOST))?;
        Ok(values.iter().sum())
    }

    fn drain(&mut self) -> Vec<Traced> {
        let now = sys::bpf::now();
        let mut events = Vec::new();
        while let Some(event) = self.ring.next() {
            events.extend(traced(&event, now));
        }
        events
    }
}

/// A trace that is on until it is dropped.
pub struct Trace {
    plane: Arc<DataPlane>,
    filter: Filter,
    lost_before: u64,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Begins to trace.
    ///
    /// # Errors
    /// [`BpfError::Busy`] while somebody else does; [`BpfError::Map`].
    pub fn trace(self: &Arc<Self>, filter: &TraceFilter) -> Result<Trace, BpfError> {
        let mut tracer = self.tracer();
        if tracer.is_busy {
            return Err(BpfError::Busy);
        }
        // What an earlier one did not read.
        tracer.drain();
        let trace = Trace {
            plane: Arc::clone(self),
            filter: filter.as_the_programs_read_it(),
            lost_before: tracer.lost()?,
        };
        tracer.set(trace.prolonged())?;
        tracer.is_busy = true;
        drop(tracer);
        Ok(trace)
    }

    /// A reader that panicked leaves the maps as good as any other.
    fn tracer(&self) -> MutexGuard<'_, Tracer> {
        self.tracer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    /// Waits for decisions, not longer than `wait`, and prolongs the trace.
    ///
    /// # Errors
    /// [`BpfError`]; the trace goes on as long as it was prolonged before.
    pub fn next(&mut self, wait: Duration) -> Result<Vec<Traced>, BpfError> {
        let mut tracer = self.plane.tracer();
        tracer.set(self.prolonged())?;
        let timeout = Timespec::try_from(wait).ok();
        let mut waiting = [PollFd::new(&tracer.ring, PollFlags::IN)];
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(tracer.drain()),
            Err(error) => Err(BpfError::Table {
                table: TRACE_EVENTS,
                source: io::Error::from(error),
            }),
        }
    }

    /// How many decisions found no room since the trace began.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn lost(&self) -> Result<u64, BpfError> {
        let lost = self.plane.tracer().lost()?;
        Ok(lost.saturating_sub(self.lost_before))
    }

    fn prolonged(&self) -> Filter {
        Filter {
            until: sys::bpf::now() + LEASE_NS,
            ..self.filter
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let mut tracer = self.plane.tracer();
        tracer.is_busy = false;
        if let Err(error) = tracer.set(Filter::default()) {
            tracing::warn!(%error, "the trace ends by itself in a few seconds");
        }
    }
}

impl TraceFilter {
    fn as_the_programs_read_it(&self) -> Filter {
        let mut services = [0; TRACE_SERVICES];
        if self.services.len() <= TRACE_SERVICES {
            services[..self.services.len()].copy_from_slice(&self.services);
        }
        Filter {
            until: 0,
            address: self.address.map_or(Address::ANY6, address),
            services,
            one_in: self.one_in,
            port: Be16::new(self.port.unwrap_or(0)),
            protocol: self.protocol.map_or(0, Protocol::number),
            pad: 0,
        }
    }
}

/// `None` for an event of another version.
fn traced(event: &[u8], now: u64) -> Option<Traced> {
    let bytes = |at: usize, length: usize| event.get(at..at + length);
    let word = |at| Some(u32::from_ne_bytes(bytes(at, 4)?.try_into().ok()?));
    let long = |at| Some(u64::from_ne_bytes(bytes(at, 8)?.try_into().ok()?));
    let byte = |at: usize| event.get(at).copied();
    let socket = |at, port| {
        let octets: [u8; 16] = bytes(at, 16)?.try_into().ok()?;
        let port = u16::from_be_bytes(bytes(port, 2)?.try_into().ok()?);
        Some(SocketAddr::new(ip(Address::from_octets(octets)), port))
    };
    let known = |socket: &SocketAddr| socket.port() != 0;
    let decision = byte(offset_of!(Event, decision))?;
    let is_lost = decision == Decision::Lost as u8;
    Some(Traced {
        age: Duration::from_nanos(now.saturating_sub(long(offset_of!(Event, at))?)),
        protocol: known_protocol(byte(offset_of!(Event, protocol))?),
        source: socket(offset_of!(Event, source), offset_of!(Event, source_port)).filter(known),
        destination: socket(
            offset_of!(Event, destination),
            offset_of!(Event, destination_port),
        )?,
        to: socket(offset_of!(Event, to), offset_of!(Event, to_port)).filter(known),
        decision: DECISIONS.get(usize::from(decision))?,
        reason: REASONS
            .get(usize::from(byte(offset_of!(Event, reason))?))
            .copied()
            .filter(|_| is_lost),
        service: word(offset_of!(Event, service))?,
        length: word(offset_of!(Event, length))?,
    })
}
