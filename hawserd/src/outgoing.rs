//! Replies of any length, written by a thread that may block.

use std::io::{self, Write};

use axum::body::Body;
use futures_util::stream;
use tokio::sync::mpsc::{self, Sender};
use tracing::{Span, warn};

use crate::daemon::Daemon;

/// Bytes of one chunk, and chunks that wait for a slow client.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 4;

/// A body that `write` produces. When it fails the body ends without its last chunk, so that no
/// client takes it for whole; the log says why.
pub(crate) fn stream<E>(
    daemon: Daemon,
    write: impl FnOnce(&Daemon, &mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Body
where
    E: std::fmt::Display + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let span = Span::current();
    tokio::task::spawn_blocking(move || {
        let _span = span.entered();
        let mut chunks = Chunks {
            sender,
            buffer: Vec::with_capacity(CHUNK),
        };
        let written = write(&daemon, &mut chunks);
        let outcome = match written {
            Ok(()) => chunks.flush().map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome {
            warn!(%error, "a reply ends early");
            // Nobody may be listening any more.
            drop(chunks.sender.blocking_send(Err(io::Error::other(error))));
        }
    });
    Body::from_stream(stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }))
}

struct Chunks {
    sender: Sender<io::Result<Vec<u8>>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_client_gone| {
                io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone")
            })
    }
}
