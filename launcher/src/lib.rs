//! The launcher: the `hawser` command line and `hawser-shim`, the process that holds one container.
//!
//! The launcher is a client of the daemon's exported interfaces only: it executes CNI plugins
//! ([`cni`]), speaks the volume-plugin protocol ([`volume`]) and asks the daemon's socket for root
//! file systems. What a container is on disk is in [`container`] and [`store`]; how the command
//! line talks to a running container is in [`stream`]. Images come from registries by [`registry`].

pub mod agent;
pub mod cgroup;
pub mod cli;
pub mod cni;
pub mod container;
mod engine;
pub mod event;
pub mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod joining;
pub mod link;
pub mod log;
pub mod registry;
pub mod shim;
pub mod store;
pub mod stream;
pub mod volume;
