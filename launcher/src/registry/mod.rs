//! A client of registries: the OCI distribution specification, which Docker's registry API
//! (version 2) became.
//!
//! Everything that a registry says is taken for hostile: sizes are bounded, a digest is checked
//! before what it names is used, and credentials go to the registry they belong to and to the
//! token server that it names, never along a redirect.
//!
//! [`endpoint`] says where a registry may be reached and [`transport`] exchanges one request for one
//! reply; [`Repository`] is a repository of a registry that was reached, for whoever is logged in;
//! [`download`] and [`upload`] move its blobs.

mod authority;
mod challenge;
pub mod credential;
pub mod download;
mod endpoint;
mod error;
mod helper;
pub mod known;
pub mod manifest;
mod repository;
mod roots;
#[cfg(test)]
mod tests;
mod transport;
pub mod upload;

pub use endpoint::{Endpoint, endpoints};
pub use error::RegistryError;
pub use repository::Repository;
pub use repository::search::Found;
pub(crate) use roots::system_authorities;
