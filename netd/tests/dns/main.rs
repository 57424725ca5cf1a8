//! The DNS server through its sockets, on loopback addresses of each test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod forwarding;
mod inside;
mod listening;
mod local;
mod peer;
mod tcp;
mod topology;
mod upstream;
