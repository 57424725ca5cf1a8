//! Ids, wire types and the client of the daemon's socket.
//!
//! The daemon speaks HTTP/1.1 with JSON bodies on a Unix socket (`docs/architecture.md`, "Wire").
//! Network and volume objects are those of the Docker Engine API, field for field, so that an
//! adapter for other clients stays thin.
//! Everything else (endpoints, layers, root filesystems) is Hawser's own and uses `snake_case`.
//!
//! This crate holds no policy and does no I/O but the blocking client in [`client`].

pub mod client;
pub mod daemon;
pub mod doctor;
mod duration;
pub mod error;
pub mod event;
pub mod id;
pub mod net;
pub mod owner;
pub mod path;
pub mod reference;
pub mod service;
pub mod storage;
pub mod swarm;
pub mod task;
pub mod traffic;
pub mod volume_plugin;
pub mod work;

pub use client::Client;
pub use error::{ApiError, ErrorCode};
