//! The whole subsystem on a real kernel, in namespaces of each test's own. Needs root.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod dns_query;
mod edge;
mod fill;
mod gateway;
mod isolation;
mod mode;
mod names;
mod option;
mod overlay;
mod parent;
mod range;
mod repair;
mod sctp;
mod shared;
mod tests;
mod traffic;
mod world;
