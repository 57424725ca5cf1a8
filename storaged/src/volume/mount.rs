//! What the options of a volume mount.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::model::volume_option::{Bind, MountOptions};

/// Mounts `options` on `target`; after an error nothing stays mounted.
pub(crate) fn mount(
    options: &MountOptions,
    address: Option<IpAddr>,
    target: &Path,
) -> io::Result<()> {
    match options.bind {
        Some(bind) => {
            let recursive = bind == Bind::Recursive;
            sys::mount::bind(Path::new(&options.device), target, recursive, options.flags)?;
        }
        None => sys::mount::filesystem(
            &options.kind,
            &options.device,
            target,
            options.flags,
            &options.data(address),
        )?,
    }
    let Some(propagation) = options.propagation else {
        return Ok(());
    };
    sys::mount::set_propagation(target, propagation).map_err(|error| {
        match sys::mount::unmount(target) {
            Ok(_was_mounted) => error,
            Err(undo) => io::Error::other(format!("{error}; and cannot unmount again: {undo}")),
        }
    })
}
