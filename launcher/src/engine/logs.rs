//! `GET /containers/ID/logs`.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use super::http::{self, Request};
use super::{Client, Refusal};
use crate::cli::container::logs::{self, LogsFlags};
use crate::store::ContainerDir;
use crate::stream::{Kind, MAX_PAYLOAD, encode};

/// One of the streams, as it is sent.
struct Output<'o> {
    stream: &'o UnixStream,
    /// Nothing if nobody wants it.
    kind: Option<Kind>,
    is_raw: bool,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(kind) = self.kind else {
            return Ok(bytes.len());
        };
        let piece = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        match self.is_raw {
            true => self.stream.write_all(piece)?,
            false => self.stream.write_all(&encode(kind, piece))?,
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Zero is as good as nothing for a time.
fn moment(request: &Request, name: &str) -> Option<String> {
    let text = request.query(name).unwrap_or_default();
    (!matches!(text, "" | "0")).then(|| text.to_owned())
}

pub(super) fn send(
    container: &ContainerDir,
    request: &Request,
    client: Client,
) -> Result<(), Refusal> {
    let wanted = [("stdout", Kind::Stdout), ("stderr", Kind::Stderr)];
    let wanted = wanted.map(|(name, kind)| request.is_on(name).then_some(kind));
    if wanted == [None, None] {
        let message = "Bad parameters: you must choose at least one stream".to_owned();
        return Err(Refusal::new(400, message));
    }
    let record = container.record()?;
    let flags = LogsFlags {
        follow: request.is_on("follow"),
        tail: request
            .query("tail")
            .filter(|tail| !tail.is_empty())
            .unwrap_or("all")
            .to_owned(),
        since: moment(request, "since"),
        until: moment(request, "until"),
        timestamps: request.is_on("timestamps"),
        details: request.is_on("details"),
        container: record.name.to_string(),
    };
    logs::check(container, &flags)?;
    let stream = &client.output;
    let is_raw = record.config.tty;
    let output = |kind| Output {
        stream,
        kind,
        is_raw,
    };
    let mut head = stream;
    // A client that has left needs no answer.
    if http::begin(&mut head, "application/vnd.docker.raw-stream").is_ok() {
        drop(logs::write(
            container,
            &flags,
            (output(wanted[0]), output(wanted[1])),
        ));
    }
    Ok(())
}
