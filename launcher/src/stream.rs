//! The protocol of a shim's Unix socket: the command line attaches to and steers a container.
//!
//! ```text
//! frame    kind (1 byte), three zero bytes, payload length (4 bytes, big-endian), payload
//! kinds    0 stdin, 1 stdout, 2 stderr: raw bytes; an empty stdin frame is end of file
//!          3 control: one JSON object, `Control`
//! ```
//!
//! The first 8 bytes are the header of Docker's attach stream, so that an adapter passes output
//! frames through. A client sends `Attach` before it gets any output; without it, it may still
//! steer. Frames of one direction keep their order, so the last output precedes `Exit`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use api::id::Id;
use serde::{Deserialize, Serialize};

/// Longest payload. Output comes in pieces of at most 32 KiB, a terminal's input in far smaller ones.
pub const MAX_PAYLOAD: usize = 64 << 10;
const HEADER: usize = 8;

/// The shim's socket below the daemon's run directory. Short, for `sun_path` has 108 bytes.
pub fn socket_path(run_dir: &Path, id: &Id) -> PathBuf {
    run_dir
        .join("containers")
        .join(id.short())
        .join("shim.sock")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stdin,
    Stdout,
    Stderr,
    Control,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Control]
            .get(usize::from(byte))
            .copied()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub payload: Vec<u8>,
}

/// What is asked of a shim, and what it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Client: the streams wanted from now on. A client that sends stdin ends it by an empty frame
    /// or by closing; without `stdin` nothing it sends is read as input.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Client: start the container; once, after `--wait-attach`. Ignored later.
    Start,
    /// Client: send a signal to the container's first process.
    Signal { number: i32 },
    /// Client: send the signal, and SIGKILL when the container still runs after the timeout;
    /// a negative timeout waits for ever. The restart policy no longer applies.
    Stop { signal: i32, timeout_s: i64 },
    /// Client: stop all processes where they are. Answered by `Done`, or `Error`.
    Pause,
    /// Client: let them go on. Answered by `Done`, or `Error`.
    Unpause,
    /// Client: the terminal's new size.
    Resize { rows: u16, cols: u16 },
    /// Shim: what was asked for is done.
    Done,
    /// Shim: the container runs.
    Started { pid: u32 },
    /// Shim: the container has exited and is cleaned up; its status is in `state.json`.
    Exit { code: i32 },
    /// Shim: the request or the start failed. `exit_code` is set when the container never ran.
    Error {
        message: String,
        exit_code: Option<i32>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the container's stream broke: {0}")]
    Io(#[from] io::Error),
    #[error("the container's stream is damaged: {0}")]
    Damaged(&'static str),
    #[error("the container's stream holds an unknown message: {0}")]
    Control(#[from] serde_json::Error),
}

impl Frame {
    /// # Errors
    /// [`StreamError::Control`] if it is no known message.
    pub fn control(&self) -> Result<Control, StreamError> {
        Ok(serde_json::from_slice(&self.payload)?)
    }
}

/// Encodes one frame. Payloads longer than [`MAX_PAYLOAD`] must be split by the caller.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&[kind as u8, 0, 0, 0]);
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Encodes one message.
pub fn encode_control(control: &Control) -> Vec<u8> {
    // The enum holds text and numbers only, which always serialise.
    encode(
        Kind::Control,
        &serde_json::to_vec(control).unwrap_or_default(),
    )
}

/// Splits a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`StreamError::Damaged`]; the stream cannot be used any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = parse_header(*header)?;
        if rest.len() < length {
            return Ok(None);
        }
        let payload = rest[..length].to_vec();
        self.buffer.drain(..HEADER + length);
        Ok(Some(Frame { kind, payload }))
    }
}

fn parse_header(header: [u8; HEADER]) -> Result<(Kind, usize), StreamError> {
    let [kind, _, _, _, a, b, c, d] = header;
    let kind = Kind::from_byte(kind).ok_or(StreamError::Damaged("unknown frame kind"))?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_PAYLOAD {
        return Err(StreamError::Damaged("frame too long"));
    }
    Ok((kind, length))
}

/// A client's blocking end of the socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// # Errors
    /// Nobody listens: the shim is gone or not there yet.
    pub fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(socket)?,
        })
    }

    /// A second handle of the same connection, to read in one place and write in another.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            stream: self.stream.try_clone()?,
        })
    }

    /// For use with poll(2).
    pub fn socket(&self) -> &UnixStream {
        &self.stream
    }

    /// # Errors
    /// The shim is gone.
    pub fn send(&mut self, control: &Control) -> io::Result<()> {
        self.stream.write_all(&encode_control(control))
    }

    /// Input for the container; an empty slice ends it.
    ///
    /// # Errors
    /// The shim is gone.
    pub fn send_stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return self.stream.write_all(&encode(Kind::Stdin, bytes));
        }
        bytes
            .chunks(MAX_PAYLOAD)
            .try_for_each(|chunk| self.stream.write_all(&encode(Kind::Stdin, chunk)))
    }

    /// Waits for the next frame; `None` when the shim closed the connection between two frames.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn receive(&mut self) -> Result<Option<Frame>, StreamError> {
        let mut header = [0; HEADER];
        // A shim that ends may leave the connection reset instead of closed.
        match self.stream.read(&mut header[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.receive(),
            Err(error) => return Err(error.into()),
        }
        self.stream.read_exact(&mut header[1..])?;
        let (kind, length) = parse_header(header)?;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        Ok(Some(Frame { kind, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let bytes = [
            encode_control(&Control::Attach {
                stdin: true,
                stdout: true,
                stderr: false,
            }),
            encode(Kind::Stdout, b"hello"),
            encode(Kind::Stdin, b""),
        ]
        .concat();
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            frames.extend(decoder.next_frame().unwrap());
        }
        assert_eq!(
            frames[0].control().unwrap(),
            Control::Attach {
                stdin: true,
                stdout: true,
                stderr: false
            }
        );
        assert_eq!(
            frames[1],
            Frame {
                kind: Kind::Stdout,
                payload: b"hello".to_vec()
            }
        );
        assert_eq!(
            frames[2],
            Frame {
                kind: Kind::Stdin,
                payload: Vec::new()
            }
        );
        assert_eq!(frames.len(), 3);
    }

    #[test]
    fn the_header_is_that_of_dockers_attach_stream() {
        assert_eq!(
            encode(Kind::Stderr, b"ab"),
            [2, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']
        );
    }

    #[test]
    fn hostile_headers_are_refused() {
        for header in [
            [9, 0, 0, 0, 0, 0, 0, 0],
            [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&header);
            assert!(decoder.next_frame().is_err());
        }
        let unknown = Frame {
            kind: Kind::Control,
            payload: b"{\"type\":\"dance\"}".to_vec(),
        };
        assert!(unknown.control().is_err());
    }

    #[test]
    fn messages_have_stable_texts() {
        let text = |control: &Control| String::from_utf8(encode_control(control)[8..].to_vec());
        assert_eq!(
            text(&Control::Stop {
                signal: 15,
                timeout_s: 10
            })
            .unwrap(),
            r#"{"type":"stop","signal":15,"timeout_s":10}"#
        );
        assert_eq!(text(&Control::Start).unwrap(), r#"{"type":"start"}"#);
    }
}
