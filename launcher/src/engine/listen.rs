//! The socket that is answered at.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::cli::error::CliError;

/// Root, and the group of the daemon's own socket.
const MODE: u32 = 0o660;

/// Takes the place of a socket where nobody listens any more.
pub(super) fn bind(path: &Path, like: &Path) -> Result<UnixListener, CliError> {
    let failed = |op| {
        let path = path.to_owned();
        move |source| CliError::File { op, path, source }
    };
    if UnixStream::connect(path).is_ok() {
        return Err(failed("listen at")(io::ErrorKind::AddrInUse.into()));
    }
    // Under another name until it has its mode: nobody ever sees it with wider permissions.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let listener = UnixListener::bind(&hidden).map_err(failed("listen at"))?;
    let group = fs::metadata(like).map(|metadata| metadata.gid());
    group
        .and_then(|group| chown(&hidden, None, Some(group)))
        .and_then(|()| fs::set_permissions(&hidden, Permissions::from_mode(MODE)))
        .and_then(|()| fs::rename(&hidden, path))
        .map_err(failed("put in place"))?;
    Ok(listener)
}
