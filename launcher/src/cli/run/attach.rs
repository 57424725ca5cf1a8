//! Connects the caller's streams, signals and terminal to a container.
//!
//! Three things wait at the same time, each in its own thread: output from the container (the
//! main one), the caller's standard input, and signals. Input and steering use connections of
//! their own, so that a container that does not read its input still gets its signals.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use sys::signalfd::SignalFd;

use crate::cli::error::CliError;
use crate::stream::{Connection, Control, Frame, Kind, StreamError};

use super::detach::Detector;

/// Signals that end or steer programs: a container gets them in the caller's place.
const FORWARDED: [i32; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// What is attached, and how.
#[derive(Debug, Clone)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The container has a terminal.
    pub tty: bool,
    pub sig_proxy: bool,
    pub detach_keys: Vec<u8>,
}

/// How an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    /// The shim reported a failure instead: message and exit code, if the container never ran.
    Failed(String, Option<i32>),
    Detached,
    /// The shim went away without a word.
    Lost,
}

/// An attached client that has not begun to pump.
#[derive(Debug)]
pub struct Session {
    attach: Attach,
    socket: PathBuf,
    connection: Connection,
}

impl Session {
    /// Connects and asks for the streams.
    ///
    /// # Errors
    /// The shim cannot be reached.
    pub fn open(socket: &Path, attach: Attach) -> Result<Self, CliError> {
        let mut connection = Connection::open(socket).map_err(broken)?;
        connection
            .send(&Control::Attach {
                stdin: attach.stdin,
                stdout: attach.stdout,
                stderr: attach.stderr,
            })
            .map_err(broken)?;
        Ok(Self {
            attach,
            socket: socket.to_owned(),
            connection,
        })
    }

    /// Lets a container that was started to wait for this client run.
    ///
    /// # Errors
    /// The shim is gone.
    pub fn start(&mut self) -> Result<(), CliError> {
        self.connection.send(&Control::Start).map_err(broken)
    }

    /// Pumps until the container exits or the user detaches.
    ///
    /// # Errors
    /// The caller's own streams broke.
    pub fn pump(mut self) -> Result<Ended, CliError> {
        let terminal = Terminal::raw_if(self.attach.tty && self.attach.stdin)?;
        let detached = Arc::new(AtomicBool::new(false));
        // Blocked before the first thread starts, so that every thread has them blocked.
        self.steer()?;
        if self.attach.stdin {
            self.feed(terminal.is_some(), &detached)?;
        }
        let ended = self.drain();
        drop(terminal);
        if detached.load(Ordering::SeqCst) {
            return Ok(Ended::Detached);
        }
        ended
    }

    /// Forwards signals and terminal sizes from now on.
    fn steer(&self) -> Result<(), CliError> {
        let follows_size = self.attach.tty && isatty(io::stdout());
        let mut signals = Vec::new();
        if self.attach.sig_proxy {
            signals.extend(FORWARDED);
        }
        if follows_size {
            signals.push(libc::SIGWINCH);
        }
        if signals.is_empty() {
            return Ok(());
        }
        let signals = SignalFd::block(&signals).map_err(|source| CliError::Io {
            op: "receive signals",
            source,
        })?;
        let Ok(mut steering) = Connection::open(&self.socket) else {
            // It has ended already, and the first connection says how.
            return Ok(());
        };
        if follows_size {
            resize(&mut steering);
        }
        spawn("signals", move || forward(signals, steering))
    }

    /// Sends standard input from now on.
    fn feed(&self, is_terminal: bool, detached: &Arc<AtomicBool>) -> Result<(), CliError> {
        let connection = self.connection.try_clone().map_err(broken)?;
        let detector = is_terminal.then(|| Detector::new(self.attach.detach_keys.clone()));
        let detached = Arc::clone(detached);
        spawn("stdin", move || send_input(connection, detector, &detached))
    }

    fn drain(&mut self) -> Result<Ended, CliError> {
        loop {
            let frame = match self.connection.receive() {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(StreamError::Io(_)) => return Ok(Ended::Lost),
                Err(error) => return Err(error.into()),
            };
            match frame.kind {
                Kind::Stdout => write_all(&mut io::stdout().lock(), &frame)?,
                Kind::Stderr => write_all(&mut io::stderr().lock(), &frame)?,
                Kind::Stdin => {}
                Kind::Control => match frame.control()? {
                    Control::Exit { code } => return Ok(Ended::Exited(code)),
                    Control::Error { message, exit_code } => {
                        return Ok(Ended::Failed(message, exit_code));
                    }
                    _ => {}
                },
            }
        }
    }
}

fn write_all(stream: &mut impl Write, frame: &Frame) -> Result<(), CliError> {
    stream
        .write_all(&frame.payload)
        .and_then(|()| stream.flush())
        .map_err(|source| CliError::Io {
            op: "write the container's output",
            source,
        })
}

fn broken(source: io::Error) -> CliError {
    StreamError::Io(source).into()
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), CliError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|source| CliError::Io {
            op: "start a thread",
            source,
        })
}

fn send_input(mut connection: Connection, mut detector: Option<Detector>, detached: &AtomicBool) {
    let mut buffer = vec![0; 32 << 10];
    let mut stdin = io::stdin().lock();
    loop {
        let length = match stdin.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A standard input that cannot be read is at its end.
            Err(_) => 0,
        };
        let (input, is_detach) = match &mut detector {
            Some(detector) if length > 0 => detector.pass(&buffer[..length]),
            _ => (buffer[..length].to_vec(), false),
        };
        // An empty frame means end of file; keys that are held back are not that.
        let sent = if input.is_empty() && length > 0 {
            Ok(())
        } else {
            connection.send_stdin(&input)
        };
        if is_detach {
            detached.store(true, Ordering::SeqCst);
            // Wakes the reader of the output; if the shim is gone, it is awake already.
            drop(connection.socket().shutdown(std::net::Shutdown::Both));
        }
        if is_detach || length == 0 || sent.is_err() {
            return;
        }
    }
}

fn forward(mut signals: SignalFd, mut steering: Connection) {
    loop {
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        while let Ok(Some(number)) = signals.next() {
            if number == libc::SIGWINCH {
                resize(&mut steering);
            } else if steering.send(&Control::Signal { number }).is_err() {
                return;
            }
        }
    }
}

/// Tells the container how large the terminal is. A terminal without a size has none to tell, and
/// a shim that is gone needs none.
fn resize(steering: &mut Connection) {
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        drop(steering.send(&Control::Resize {
            rows: size.ws_row,
            cols: size.ws_col,
        }));
    }
}

/// The caller's terminal in raw mode; as it was when this is dropped.
struct Terminal {
    before: Termios,
}

impl Terminal {
    fn raw_if(wanted: bool) -> Result<Option<Self>, CliError> {
        let stdin = io::stdin();
        if !wanted || !isatty(stdin.as_fd()) {
            return Ok(None);
        }
        let failed = |errno: rustix::io::Errno| CliError::Io {
            op: "set up the terminal",
            source: errno.into(),
        };
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        tcsetattr(io::stdin(), OptionalActions::Drain, &self.before).unwrap_or_default();
    }
}
