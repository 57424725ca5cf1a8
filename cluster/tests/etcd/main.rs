//! What needs a real etcd: the control plane on it, and clusters that are kept in it.

#[cfg(test)]
#[path = "../../src/conformance.rs"]
mod conformance;
#[cfg(test)]
mod control_plane;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod server;
#[cfg(test)]
mod swarm;
