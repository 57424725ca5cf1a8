//! The clients attached to a shim: who they are, what they want, what is still to be sent to them.
//!
//! A client that reads slowly slows the container's output down, as a pipe would; one that has not
//! read anything for [`STALL_LIMIT`] is dropped, so that nobody can stop the container for ever.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::streams::remove_stale;
use crate::stream::{Control, Decoder, Frame, Kind, encode, encode_control};

/// Above this much unsent output the container's output is not read any more.
const HIGH_WATER: usize = 256 << 10;
const STALL_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Clients {
    listener: UnixListener,
    path: PathBuf,
    pub(crate) list: Vec<Client>,
}

impl Clients {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            list: Vec::new(),
        })
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes in everybody who waits.
    pub(crate) fn accept(&mut self) {
        // A client that is gone again, or no free descriptor: the next one may do better.
        while let Ok((stream, _)) = self.listener.accept() {
            self.list.extend(Client::new(stream));
        }
    }

    /// New clients find nobody from now on.
    pub(crate) fn close_door(&self) {
        // The socket's directory is removed or swept anyway.
        drop(remove_stale(&self.path));
    }

    /// Output for everybody who wants it.
    pub(crate) fn output(&mut self, kind: Kind, bytes: &[u8]) {
        let wanting = self.list.iter_mut().filter(|client| client.wants(kind));
        let frame = encode(kind, bytes);
        wanting.for_each(|client| client.queue(&frame));
    }

    /// A message for everybody.
    pub(crate) fn tell(&mut self, message: &Control) {
        let frame = encode_control(message);
        self.list.iter_mut().for_each(|client| client.queue(&frame));
    }

    pub(crate) fn are_congested(&self) -> bool {
        self.list
            .iter()
            .any(|client| client.outgoing.len() > HIGH_WATER)
    }

    pub(crate) fn have_unsent(&self) -> bool {
        self.list.iter().any(Client::has_unsent)
    }

    /// How long the most patient wait for a slow client may still last.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let slow = self.list.iter().filter(|client| client.has_unsent());
        slow.map(|client| STALL_LIMIT.saturating_sub(client.moved.elapsed()))
            .min()
    }

    /// Forgets who is gone or stalled.
    pub(crate) fn sweep(&mut self) {
        self.list.retain(|client| {
            client.is_open && !(client.has_unsent() && client.moved.elapsed() >= STALL_LIMIT)
        });
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    decoder: Decoder,
    attached: Option<Wants>,
    outgoing: VecDeque<u8>,
    /// When something was last sent, or the queue last became non-empty.
    moved: Instant,
    is_open: bool,
}

#[derive(Debug, Clone, Copy)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            attached: None,
            outgoing: VecDeque::new(),
            moved: Instant::now(),
            is_open: true,
        })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn attach(&mut self, stdin: bool, stdout: bool, stderr: bool) {
        self.attached = Some(Wants {
            stdin,
            stdout,
            stderr,
        });
    }

    pub(crate) fn gives_input(&self) -> bool {
        self.attached.is_some_and(|wants| wants.stdin)
    }

    fn wants(&self, kind: Kind) -> bool {
        self.attached.is_some_and(|wants| match kind {
            Kind::Stdout => wants.stdout,
            Kind::Stderr => wants.stderr,
            Kind::Stdin | Kind::Control => false,
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(crate) fn tell(&mut self, message: &Control) {
        self.queue(&encode_control(message));
    }

    fn queue(&mut self, frame: &[u8]) {
        if self.outgoing.is_empty() {
            self.moved = Instant::now();
        }
        self.outgoing.extend(frame);
        self.send();
    }

    /// Sends what the socket takes.
    pub(crate) fn send(&mut self) {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match self.stream.write(front) {
                Ok(sent) => {
                    self.outgoing.drain(..sent);
                    self.moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_gone) => {
                    self.is_open = false;
                    self.outgoing.clear();
                }
            }
        }
        // A terminal's bursts must not be paid for during the container's whole life.
        self.outgoing.shrink_to(4096);
    }

    /// Frames that have arrived. The client is closed at the end of its stream, and when what it
    /// sends makes no sense.
    pub(crate) fn receive(&mut self) -> Vec<Frame> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.is_open = false,
            Ok(length) => self.decoder.push(&bytes[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_gone) => self.is_open = false,
        }
        let mut frames = Vec::new();
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return frames,
                Err(_damaged) => {
                    self.is_open = false;
                    return frames;
                }
            }
        }
    }
}
