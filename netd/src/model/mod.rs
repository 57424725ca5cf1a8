//! What should be, as plain values, and the steps that lead there.
//!
//! Nothing here does I/O, knows the time or asks the kernel: identities, dates and what was
//! observed come in as arguments.

pub(crate) mod address;
pub(crate) mod announcement;
pub(crate) mod child;
pub(crate) mod desired;
pub(crate) mod driver;
pub(crate) mod endpoint;
pub(crate) mod endpoints;
pub(crate) mod filter;
pub(crate) mod forwarding;
pub(crate) mod gateway;
pub(crate) mod ipam;
pub(crate) mod limit;
pub(crate) mod maglev;
pub(crate) mod mesh;
pub(crate) mod network;
pub(crate) mod observed;
pub(crate) mod overlay;
pub(crate) mod peer;
pub(crate) mod plan;
pub(crate) mod port;
pub(crate) mod published;
pub(crate) mod reserved;
mod route;
mod segment;
pub(crate) mod service;
pub(crate) mod services;
pub(crate) mod step;
pub(crate) mod subnet;
pub(crate) mod subnets;
pub(crate) mod traffic;
pub(crate) mod wireguard;
pub(crate) mod words;
