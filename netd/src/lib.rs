//! The network subsystem: networks, addresses, names and published ports.
//!
//! [`Netd`] is its front door. Every operation follows one way: check the request against a
//! snapshot of what is on record, write the new record as pending, run a plan of steps on the
//! kernel, commit the record. Whatever is interrupted in between is undone at the next start, and
//! whatever others change in the kernel is repaired by [`Netd::reconcile`].
//!
//! - `model/` decides: pure functions from records and observations to plans.
//! - `observe`, `netlink`, `nft/`, `sockdiag` read the kernel; `apply/` is the one executor.
//! - `bpf/` is the eBPF data plane, `dns/` the embedded name server.
//!
//! **Invariant:** traffic does not need the daemon. Nothing is detached or flushed at start or stop.

mod announcement;
mod apply;
mod attach;
pub mod bpf;
mod check;
#[cfg(test)]
mod churn;
mod config;
mod departure;
mod detach;
pub mod dns;
mod doctor;
mod error;
#[cfg(test)]
mod fake;
mod front;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kernel;
mod laps;
mod metrics;
mod mode;
mod model;
mod mtu;
mod names;
mod netd;
mod netlink;
mod networks;
mod nft;
mod observe;
mod overlay;
mod reconcile;
mod resolver;
#[cfg(test)]
mod scenario;
mod selection;
mod service;
mod severance;
mod sockdiag;
mod status;
mod store;
mod trace;
mod traffic;
mod uninstall;
mod watch;
mod wireguard;

pub use config::NetConfig;
pub use error::{NetError, OpenError};
pub use front::Front;
pub use kernel::KernelError;
pub use mode::Mode;
pub use model::ipam::Pool;
pub use netd::{Netd, Options};
pub use reconcile::Report;
pub use service::Judged;
pub use store::{StoreError, adopt};
pub use trace::Tracing;

/// Last part of [`Options::pin_dir`]: the version of the eBPF maps' layout.
pub const PIN_SCHEMA: &str = "v1";
const _: () = assert!(bpf::SCHEMA == 1, "PIN_SCHEMA spells it");
