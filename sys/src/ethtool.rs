//! What network devices do for the kernel, or leave to it (ethtool(8)).

use std::io;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// One of these things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Joining received segments (GRO). With it, a veth device takes frames from XDP of other devices
    /// (Linux 5.13).
    JoinReceived,
    /// Making the checksums of what it sends.
    SendChecksums,
}

impl Offload {
    /// Its command in include/uapi/linux/ethtool.h.
    const fn command(self) -> u32 {
        match self {
            Self::JoinReceived => 0x2c,
            Self::SendChecksums => 0x17,
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    value: u32,
}

/// Begins or ends it for a device of the calling thread's network namespace. Whether it was so before
/// is all the same.
///
/// # Errors
/// As of netdevice(7): `ENODEV` where there is none of this name, `EOPNOTSUPP` or `EINVAL` where the
/// device cannot.
pub fn set(device: &str, offload: Offload, on: bool) -> io::Result<()> {
    // SAFETY: integers, addresses and arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if device.is_empty() || device.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = byte.cast_signed();
    }
    let mut value = Value {
        command: offload.command(),
        value: on.into(),
    };
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the request names a command that reads, and perhaps writes, one `Value`; both outlive the
    // call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    crate::check(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_named_by_nobody() {
        let error = set("none-of-ours", Offload::JoinReceived, true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        for name in ["", "a-name-that-is-too-long"] {
            let error = set(name, Offload::SendChecksums, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
