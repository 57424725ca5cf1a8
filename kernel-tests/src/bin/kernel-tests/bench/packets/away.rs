//! Backends on another node, as far as the programs can tell: nobody tells the daemon of any yet, so
//! that its maps are told instead. `ebpf/abi` has their layouts.

use std::os::fd::AsFd as _;

use anyhow::{Context, Result, ensure};
use kernel_tests::Shop;
use sys::bpf::map::{Existing, visit, write};

use super::pinned;

/// Of a backend: its port, in network order, and its state, which is that it lives.
const PORT: usize = 20;
const STATE: usize = 22;
const LIVE: u16 = 1;
const REMOTE: u16 = 2;

/// The loopback interface for a tunnel, which a run does not reach, what fits, a node's link address and a
/// backend's number there in another one.
const LOOPBACK: u32 = 1;
const FITS: u16 = 1450;
const NODE: [u8; 6] = [6, 0, 0, 0, 0, 9];
const BACKEND: [u8; 6] = [2, 0, 0, 1, 0, 1];

/// Makes the backends that have this port be elsewhere.
pub(super) fn move_backends(shop: &Shop, port: u16) -> Result<()> {
    let open = |name| sys::bpf::open(&pinned(shop, name)?).context(name);
    let (backends, remotes) = (open("backends")?, open("remote_backends")?);
    let mut found = Vec::new();
    visit(backends.as_fd(), |key, value| {
        let state = [port.to_be_bytes(), LIVE.to_ne_bytes()].concat();
        if value.get(PORT..) == Some(&state[..]) {
            found.push((key.to_vec(), value.to_vec()));
        }
    })
    .context("backends")?;
    ensure!(!found.is_empty(), "no backend has port {port}");
    let over_ipv4 = 0_u16;
    let fits = [FITS, over_ipv4].map(u16::to_ne_bytes).concat();
    let remote = [&LOOPBACK.to_ne_bytes()[..], &fits, &NODE, &BACKEND].concat();
    for (slot, mut backend) in found {
        write(remotes.as_fd(), &slot, &remote, Existing::Replace).context("remote_backends")?;
        backend.truncate(STATE);
        backend.extend((LIVE | REMOTE).to_ne_bytes());
        write(backends.as_fd(), &slot, &backend, Existing::Replace).context("backends")?;
    }
    Ok(())
}
