//! Fixtures of the tests that drive the real programs: a throwaway host, a host outside, a daemon
//! with directories of its own, images made from Debian's packages.
//!
//! They need root and say so by failing. Everything a fixture makes goes when it is dropped, also
//! when a test panics, and nothing it makes is shared: names, namespaces and directories are its
//! own. Programs are run inside the fixture's namespaces with nsenter(1), so that a test needs no
//! namespace of its own and may use threads as it likes.

pub mod between;
pub mod cluster;
pub mod containerd;
pub mod daemon;
pub mod dice;
pub mod docker;
pub mod host;
pub mod image;
pub mod leftovers;
pub mod load;
pub mod outside;
pub mod podman;
pub mod pods;
pub mod program;
pub mod registry;
pub mod shop;
pub mod soak;
pub mod stray;
pub mod wait;

pub use cluster::Cluster;
pub use daemon::{Daemon, Directories};
pub use dice::Dice;
pub use host::Host;
pub use outside::Outside;
pub use podman::Podman;
pub use pods::Pods;
pub use registry::Registry;
pub use shop::Shop;
pub use stray::Stray;
