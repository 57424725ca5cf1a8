//! A server between a client and a registry, which answers some requests itself and passes on the
//! others.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::net::Shutdown as Way;
use sys::netns::NetNs;

/// What a TLS connection begins with (RFC 8446 §5.1, a record of the handshake).
const HANDSHAKE: u8 = 22;

/// Stops when it is dropped.
pub struct Between {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
    address: String,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Between {
    /// Listens at `127.0.0.1:PORT` in a network namespace. `answer` is given the first line of each
    /// request; what it returns is the whole reply, and without one the request goes on to `to`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(
        namespace: &Path,
        port: u16,
        to: &str,
        mut answer: impl FnMut(&str) -> Option<String> + Send + 'static,
    ) -> Result<Self> {
        let address = format!("127.0.0.1:{port}");
        let namespace = NetNs::open(namespace).with_context(|| namespace.display().to_string())?;
        let listener = namespace
            .run(|| TcpListener::bind(&address))
            .and_then(|bound| bound)
            .with_context(|| address.clone())?;
        let doors = listener.try_clone().context("listener")?;
        let to = to.to_owned();
        let thread = thread::spawn(move || {
            for client in doors.incoming() {
                let Ok(client) = client else { break };
                // The client says what it makes of a broken connection.
                drop(serve(&client, &namespace, &to, &mut answer));
            }
        });
        Ok(Self {
            listener,
            thread: Some(thread),
            address,
        })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// One request a connection, one after the other.
fn serve(
    client: &TcpStream,
    namespace: &NetNs,
    to: &str,
    answer: &mut dyn FnMut(&str) -> Option<String>,
) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    if reader.fill_buf()?.first() == Some(&HANDSHAKE) {
        return Ok(());
    }
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let first = head.lines().next().unwrap_or_default();
    let mut writer = client;
    if let Some(reply) = answer(first) {
        writer.write_all(reply.as_bytes())?;
        return client.shutdown(Shutdown::Write);
    }
    let mut server = namespace
        .run(|| TcpStream::connect(to))
        .and_then(|made| made)?;
    for line in head.lines().filter(|line| !line.is_empty()) {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            write!(server, "{line}\r\n")?;
        }
    }
    server.write_all(b"Connection: close\r\n\r\n")?;
    io::copy(&mut server, &mut writer)?;
    client.shutdown(Shutdown::Write)
}

impl Drop for Between {
    fn drop(&mut self) {
        // Ends the accept(2) that the thread is in.
        let _ended = rustix::net::shutdown(self.listener.as_fd(), Way::Both);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
