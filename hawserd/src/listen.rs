//! Listening Unix sockets.
//!
//! A socket is bound under a temporary name, given its mode and group, and renamed into place:
//! nobody ever sees it with wider permissions, and a client finds the old or the new one but never
//! nothing. What a killed daemon left is replaced; what somebody listens on is not.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::chown;
use rustix::process::Gid;

/// Root, and the group.
const MODE: u32 = 0o660;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(
        "{} is in use by another process: stop it, or choose another directory with --{flag}",
        path.display()
    )]
    InUse { path: PathBuf, flag: &'static str },
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A socket that listens. The two parts end at different times: a daemon that stops accepts nothing
/// more, and takes the name away when it is done.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    pub(crate) name: Name,
}

/// The file of a socket; it goes away with this.
#[derive(Debug)]
pub(crate) struct Name(PathBuf);

impl Socket {
    /// `flag` is the one that moves the socket elsewhere.
    ///
    /// # Errors
    /// [`ListenError`] names the socket.
    pub(crate) fn bind(
        path: &Path,
        group: Option<Gid>,
        flag: &'static str,
    ) -> Result<Self, ListenError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| ListenError::Io { what, path, source }
        };
        if UnixStream::connect(path).is_ok() {
            let path = path.to_owned();
            return Err(ListenError::InUse { path, flag });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = path.with_file_name(format!(".{name}.{}", process::id()));
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &hidden)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&hidden).map_err(failed("listen on", path))?;
        fs::set_permissions(&hidden, Permissions::from_mode(MODE))
            .map_err(failed("set the mode of", path))?;
        chown(&hidden, None, group)
            .map_err(io::Error::from)
            .map_err(failed("set the group of", path))?;
        fs::rename(&hidden, path).map_err(failed("put in place", path))?;
        listener
            .set_nonblocking(true)
            .map_err(failed("set up", path))?;
        Ok(Self {
            listener,
            name: Name(path.to_owned()),
        })
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove socket");
        }
    }
}

/// Removes a socket that nobody listens on. Returns whether there was one.
///
/// # Errors
/// [`ListenError::Io`].
pub(crate) fn remove_stale(path: &Path) -> Result<bool, ListenError> {
    if UnixStream::connect(path).is_ok() {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ListenError::Io {
            what: "remove",
            path: path.to_owned(),
            source,
        }),
    }
}

/// The number of a group of this host, from `/etc/group`; `None` when there is no such group.
pub(crate) fn group(name: &str) -> Option<Gid> {
    group_in(&fs::read_to_string("/etc/group").ok()?, name)
}

/// group(5): `name:password:number:members`.
fn group_in(text: &str, name: &str) -> Option<Gid> {
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut fields = lines.find(|fields| fields.clone().next() == Some(name))?;
    fields.nth(2)?.parse().ok().map(Gid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        // Its listener is closed, but the name stays: what kill -9 leaves.
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, None, "run-dir").unwrap();
        let error = Socket::bind(&path, None, "run-dir")
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("choose another directory with --run-dir"),
            "{error}"
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        drop(socket);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\nhawserx:x:7:\nhawser:x:998:ann,bob\nodd\n";
        assert_eq!(group_in(text, "hawser").map(Gid::as_raw), Some(998));
        assert_eq!(group_in(text, "hawse"), None);
        assert_eq!(group_in(text, "odd"), None);
    }
}
