//! `/containers/ID/archive`: files into a container and out of it, as tar streams.
//!
//! `hawser cp` moves them, as a process of its own: its standard streams are the connection.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::http::{self, Chunks, Reply, Request};
use super::images::ended;
use super::{Client, Refusal, hawser};
use crate::cli::container::{copy, export};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::store::ContainerDir;

pub(super) const TAR: &str = "application/x-tar";

/// The answer, unless the client has been given the archive.
pub(super) fn answer(
    context: &Context,
    container: &ContainerDir,
    request: &Request,
    mut client: Client,
) -> Result<Option<Reply>, Refusal> {
    let path = request.query("path").unwrap_or_default();
    if path.is_empty() {
        return Err(Refusal::new(400, "no path is named".to_owned()));
    }
    let broken = |source| {
        Refusal::from(CliError::Io {
            op: "run hawser cp",
            source,
        })
    };
    let inside = format!("{}:{path}", container.id());
    if request.method == "PUT" {
        let mut child = hawser(context, &["cp", "--quiet", "-", &inside])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let passed = child.stdin.take().map_or(Ok(()), |mut stdin| {
            io::copy(&mut request.body(&mut client.input)?, &mut stdin).map(drop)
        });
        // Why it takes no more says more than that.
        said(child, 400)?;
        passed.map_err(broken)?;
        return Ok(Some(Reply::bare(200)));
    }
    let stat = copy::stat(
        context,
        context.container(container.id().as_str())?,
        path.as_bytes(),
    )?;
    let stat = serde_json::to_vec(&stat).map_err(|error| broken(error.into()))?;
    let stat = BASE64_STANDARD.encode(stat);
    let line = format!("X-Docker-Container-Path-Stat: {stat}\r\n");
    let mut output = &client.output;
    if http::begin_with(&mut output, TAR, &line).is_err() || request.method == "HEAD" {
        return Ok(None);
    }
    let archive: OwnedFd = client.output.try_clone().map_err(broken)?.into();
    let copied = hawser(context, &["cp", "--quiet", &inside, "-"])
        .stdin(Stdio::null())
        .stdout(archive)
        .status();
    // An archive without its end tells the client.
    drop(copied);
    Ok(None)
}

/// `GET /containers/ID/export`.
pub(super) fn export(
    context: &Context,
    container: &ContainerDir,
    client: &Client,
) -> Result<Option<Reply>, Refusal> {
    let route = export::route(context, container)?;
    let mut output = Chunks::new(&client.output, TAR);
    let written = context.client().get_into(&route, &mut output);
    ended(output, written.map_err(CliError::from))
}

/// What a command refused.
pub(super) fn said(child: Child, status: u16) -> Result<(), Refusal> {
    let op = "run hawser";
    let ended = child.wait_with_output();
    let ended = ended.map_err(|source| CliError::Io { op, source })?;
    if ended.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&ended.stderr);
    let words = words.trim();
    let words = words.strip_prefix("hawser: ").unwrap_or(words);
    Err(Refusal::new(status, words.to_owned()))
}
