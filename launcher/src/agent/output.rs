//! The output of this host's tasks, for managers: `hawser service logs` on another node. The daemon
//! brings their requests to the agent's socket, each a line of JSON, and takes frames back: Docker's
//! for what was written, and a [`Control`] as the last one, which says that it was all.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use api::path::AGENT_SOCKET;
use api::work::OutputRequest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::record::Records;
use crate::cli::container::logs::{self, LogsFlags};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::store::{StoreError, io_error, remove_if_there};
use crate::stream::{Control, Kind, MAX_PAYLOAD, encode, encode_control};

const LONGEST_REQUEST: u64 = 64 << 10;
/// Who has connected asks at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has threads answer for as long as the process lives.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn answer(context: &Context, records: &Records) -> Result<(), CliError> {
    let path = Path::new(&context.info()?.run_dir).join(AGENT_SOCKET);
    let listener = bind(&path)?;
    let (context, records) = (context.another(), records.clone());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (context, records) = (context.another(), records.clone());
            thread::spawn(move || {
                let last = match serve(&context, &records, &stream) {
                    Ok(()) => Control::Done,
                    Err(error) => Control::Error {
                        message: error.to_string(),
                        exit_code: None,
                    },
                };
                // Whoever has gone needs to know nothing.
                drop((&stream).write_all(&encode_control(&last)));
            });
        }
    });
    Ok(())
}

/// Only root reads what containers write.
fn bind(path: &Path) -> Result<UnixListener, StoreError> {
    // That of an agent that is no more: there is one at a time.
    remove_if_there(path)?;
    let listener = UnixListener::bind(path).map_err(io_error("listen at", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(io_error("protect", path))?;
    Ok(listener)
}

fn serve(context: &Context, records: &Records, stream: &UnixStream) -> Result<(), CliError> {
    let asked = request(stream).map_err(|source| CliError::Io {
        op: "read the request",
        source,
    })?;
    let Some(name) = container_of(records, &asked.task)? else {
        return Ok(());
    };
    let container = match context.container(&name) {
        // It has been removed, and its output with it.
        Err(CliError::Store(StoreError::NotFound { .. })) => return Ok(()),
        found => found?,
    };
    let flags = LogsFlags::of_task(asked, container.id().to_string());
    let frames = |kind| Frames { stream, kind };
    logs::write(
        &container,
        &flags,
        (frames(Kind::Stdout), frames(Kind::Stderr)),
    )
}

fn request(stream: &UnixStream) -> io::Result<OutputRequest> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_REQUEST)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Of a task that this host has on record: others' containers are no business of managers.
fn container_of(records: &Records, task: &str) -> Result<Option<String>, CliError> {
    for service in records.services()? {
        let own = records.tasks(&service)?.tasks;
        if let Some(task) = own.into_iter().find(|own| own.id == task) {
            return Ok(Some(task.name));
        }
    }
    Ok(None)
}

/// One of the streams.
struct Frames<'s> {
    stream: &'s UnixStream,
    kind: Kind,
}

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        self.stream.write_all(&encode(self.kind, piece))?;
        Ok(piece.len())
    }

    /// Fails when nobody reads any more, so that a container that is silent is not followed for ever.
    fn flush(&mut self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.stream, PollFlags::RDHUP)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once))?;
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        match fds[0].revents().intersects(gone) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_noticed_without_output() {
        let (own, other) = UnixStream::pair().unwrap();
        let mut frames = Frames {
            stream: &own,
            kind: Kind::Stderr,
        };
        frames.write_all(b"line\n").unwrap();
        frames.flush().unwrap();
        let mut got = [0; 13];
        (&other).read_exact(&mut got).unwrap();
        assert_eq!(&got[8..], b"line\n");
        drop(other);
        assert_eq!(
            frames.flush().unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn a_request_is_one_line() {
        let (own, mut other) = UnixStream::pair().unwrap();
        let wanted = OutputRequest {
            task: "t1".to_owned(),
            tail: "5".to_owned(),
            ..OutputRequest::default()
        };
        let line = serde_json::to_string(&wanted).unwrap();
        other.write_all(format!("{line}\n").as_bytes()).unwrap();
        assert_eq!(request(&own).unwrap(), wanted);
        other.write_all(b"{}\n").unwrap();
        assert!(request(&own).is_err());
    }
}
