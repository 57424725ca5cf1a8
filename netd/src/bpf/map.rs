//! Many entries of a map in one system call (Linux 5.6).

use std::io;
use std::os::fd::AsFd as _;

use aya::Pod;
use aya::maps::IterableMap;

/// Writes an entry of each key, whether or not it is there. After an error some are written.
pub(super) fn insert<K: Pod, V: Pod>(
    map: &impl IterableMap<K, V>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    let map = map.map().fd().as_fd();
    sys::bpf::map::write_all(map, abi::bytes_of(keys), abi::bytes_of(values))
}

/// Removes the entries of these keys; those that are not there do not matter.
pub(super) fn remove<K: Pod, V>(map: &impl IterableMap<K, V>, keys: &[K]) -> io::Result<()> {
    sys::bpf::map::remove_all(map.map().fd().as_fd(), abi::bytes_of(keys))
}
