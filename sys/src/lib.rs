//! The one crate with unsafe code: namespaces, mounts, loop devices, probes.
//!
//! Everything here is synchronous and without policy; nothing is logged.

pub mod block;
pub mod bpf;
pub mod btrfs;
pub mod copy;
pub mod device_mapper;
pub mod elsewhere;
pub mod ethtool;
pub mod ext4;
pub mod freeze;
pub mod fscrypt;
pub mod image;
pub mod kernel;
pub mod keyring;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod netns;
pub mod orphan;
pub mod owner;
pub mod packet;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod signal;
pub mod signalfd;
pub mod sysctl;
pub mod user_namespace;
mod view;
pub mod xfs;

/// What a system call says by a negative number.
fn check<T: Default + PartialOrd>(outcome: T) -> std::io::Result<T> {
    if outcome < T::default() {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(outcome)
    }
}
