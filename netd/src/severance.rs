//! The thread that ends sockets whose backend is gone; see [`crate::bpf::DataPlane::end_sockets`].
//!
//! A service's backend goes, or a published port's container: of the processes that the socket hooks
//! led there, those of the host and of all sandboxes are told, in the background. What comes while it
//! works is worked off together.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::thread;

use crate::apply;
use crate::bpf::{BpfError, DataPlane, Suspects};
use crate::model::endpoint::Sandbox;
use crate::netd::Netd;

/// Starts the thread. It ends with the subsystem.
///
/// # Errors
/// Of starting it.
pub(crate) fn start(netd: &Arc<Netd>) -> io::Result<()> {
    let Some(gone) = netd.data_plane.as_ref().and_then(|d| d.backends_gone()) else {
        return Ok(());
    };
    let netd = Arc::downgrade(netd);
    let thread = thread::Builder::new().name("severance".to_owned());
    thread.spawn(move || serve(&gone, &netd)).map(drop)
}

fn serve(gone: &Receiver<BTreeSet<IpAddr>>, netd: &Weak<Netd>) {
    let mut able = true;
    while let Ok(first) = gone.recv() {
        let gone: BTreeSet<IpAddr> = gone.try_iter().chain([first]).flatten().collect();
        let Some(netd) = netd.upgrade() else {
            return;
        };
        let Some(data_plane) = netd.data_plane.as_ref().filter(|_plane| able) else {
            continue;
        };
        match sever(&netd, data_plane, &gone) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, ?gone, "ended sockets to backends that are gone"),
            Err(BpfError::Sockets { source, .. })
                if source.kind() == io::ErrorKind::Unsupported =>
            {
                able = false;
                tracing::warn!(
                    "sockets to backends that are gone wait for their own timeouts: this kernel \
                     cannot end them (CONFIG_INET_DIAG_DESTROY)"
                );
            }
            Err(error) => tracing::warn!(%error, ?gone, "end sockets to backends that are gone"),
        }
    }
}

fn sever(netd: &Netd, data_plane: &DataPlane, gone: &BTreeSet<IpAddr>) -> Result<usize, BpfError> {
    let mut suspects = data_plane.suspects(gone)?;
    if suspects.is_empty() {
        return Ok(0);
    }
    let mut ended = data_plane.end_sockets(&mut suspects)?;
    let mut looked_everywhere = true;
    let view = netd.view();
    let sandboxes: BTreeMap<_, &Sandbox> = view
        .endpoints
        .values()
        .map(|endpoint| {
            (
                (endpoint.sandbox.device, endpoint.sandbox.inode),
                &endpoint.sandbox,
            )
        })
        .collect();
    for sandbox in sandboxes.into_values() {
        if suspects.is_empty() {
            break;
        }
        match inside(sandbox, data_plane, &mut suspects) {
            Ok(count) => ended += count?,
            // It is gone, and its sockets with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                looked_everywhere = false;
                tracing::warn!(%error, sandbox = sandbox.path, "look at a sandbox's sockets");
            }
        }
    }
    if looked_everywhere {
        data_plane.forget(&suspects)?;
    }
    Ok(ended)
}

fn inside(
    sandbox: &Sandbox,
    data_plane: &DataPlane,
    suspects: &mut Suspects,
) -> io::Result<Result<usize, BpfError>> {
    apply::open(sandbox)?.run(|| data_plane.end_sockets(suspects))
}
