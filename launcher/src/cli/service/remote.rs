//! The output of a replica on another host, by that host's agent.

use std::io::{self, Write};

use api::client::{ClientError, escape};
use api::path::{NODE_OUTPUT, NODES};
use api::work::OutputRequest;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::stream::{Control, Decoder, Kind};

/// Writes the output to both `streams`, as it comes.
///
/// # Errors
/// The host does not answer, or cannot read its log; what came before that has been written.
pub(super) fn write(
    context: &Context,
    node: &str,
    wanted: &OutputRequest,
    (stdout, stderr): (impl Write, impl Write),
) -> Result<(), CliError> {
    let failed = |op| move |source| CliError::Io { op, source };
    let request = serde_json::to_string(wanted)
        .map_err(|error| failed("ask for the output")(error.into()))?;
    let route = format!("{NODES}/{node}/{NODE_OUTPUT}?request={}", escape(&request));
    let mut frames = Frames {
        decoder: Decoder::default(),
        last: None,
        stdout,
        stderr,
    };
    let ended = context.client().get_into(&route, &mut frames);
    match (frames.last, ended) {
        (Some(Control::Done), _) => Ok(()),
        (Some(Control::Error { message, .. }), _) => {
            Err(failed("read the log there")(io::Error::other(message)))
        }
        // Whoever read ours has gone, not the daemon.
        (_, Err(ClientError::Exchange { source, .. }))
            if source.kind() == io::ErrorKind::BrokenPipe =>
        {
            Err(failed("write the log")(source))
        }
        (_, Err(error)) => Err(error.into()),
        (_, Ok(())) => {
            let early = io::ErrorKind::UnexpectedEof.into();
            Err(failed("its agent ended before its output did")(early))
        }
    }
}

/// Takes frames apart.
struct Frames<O, E> {
    decoder: Decoder,
    last: Option<Control>,
    stdout: O,
    stderr: E,
}

impl<O: Write, E: Write> Write for Frames<O, E> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
            match frame.kind {
                Kind::Stdout => self.stdout.write_all(&frame.payload)?,
                Kind::Stderr => self.stderr.write_all(&frame.payload)?,
                Kind::Control => self.last = frame.control().ok(),
                Kind::Stdin => {}
            }
        }
        self.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }
}

#[cfg(test)]
mod tests {
    use crate::stream::{encode, encode_control};

    use super::*;

    #[test]
    fn frames_are_taken_apart_however_they_are_cut() {
        let all = [
            encode(Kind::Stdout, b"out\n"),
            encode(Kind::Stderr, b"err\n"),
            encode(Kind::Stdout, b"more"),
            encode_control(&Control::Done),
        ]
        .concat();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut frames = Frames {
            decoder: Decoder::default(),
            last: None,
            stdout: &mut out,
            stderr: &mut err,
        };
        for piece in all.chunks(5) {
            frames.write_all(piece).unwrap();
        }
        assert_eq!(frames.last, Some(Control::Done));
        assert_eq!((&out[..], &err[..]), (&b"out\nmore"[..], &b"err\n"[..]));
    }
}
